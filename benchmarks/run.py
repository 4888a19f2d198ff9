"""Runs the benchmarks: ``python -m benchmarks.run``, from the root of the checkout.

Ratios are taken within one run, both sides in turn. Nothing is asserted: the table says what was reached. A quick run
only shows that everything works; its sizes are too small to judge by. Torch is not imported here, since the processes
of a build import this module too.
"""

import importlib
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.rows import MODULES, Numbers, shown
from lorat.shards.base.console import OUT
from lorat.shards.base.machine import processor_name
from lorat.shards.pixels.jpeg import codec_name

__all__ = ["main"]

_WIDTH = 100


@click.command()
@click.option("--quick", is_flag=True, help="Tiny sizes: shows that it works, measures nothing.")
@click.option("--only", multiple=True, type=click.Choice(MODULES), help="Run these; may be given again.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the numbers there too.")
def main(quick: bool, only: tuple[str, ...], file: Path | None) -> None:
    """Measure building, reading and training samples against their limits."""
    results: dict[str, Numbers] = {}
    for name in only or MODULES:
        OUT.print(f"{name} …")
        results[name] = importlib.import_module(f"benchmarks.{name}").run(quick)
    Console(width=_WIDTH).print(_table(results, quick))
    if "training" in results:
        OUT.print(_distance(results["training"]))
    if file is not None:
        report = {"machine": _machine(), "quick": quick, "numbers": results, "rows": _rows(results)}
        file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _table(results: dict[str, Numbers], quick: bool) -> Table:
    title = "Quick run: the sizes are too small to judge by" if quick else "Benchmarks"
    table = Table(title=title, title_justify="left", box=box.HORIZONTALS, padding=(0, 1))
    for column in ("what", "measured", "ratio", "against", "target", "reached"):
        number = column in ("measured", "ratio", "target")
        table.add_column(column, justify="right" if number else "left")
    for row, numbers in shown(results):
        table.add_row(*row.cells(numbers))
    return table


def _distance(training: Numbers) -> str:
    limit, reached = float(training["decodes_per_s"]), float(training["samples_per_s"])
    return (
        f"Decoding alone would give {limit:.0f} pairs/s on one core; whole samples are at "
        f"{reached:.0f}, {reached / limit:.0%} of that."
    )


def _rows(results: dict[str, Numbers]) -> list[dict[str, str | bool]]:
    names = ("what", "measured", "ratio", "against", "target")
    return [
        {**dict(zip(names, row.cells(numbers), strict=False)), "reached": row.reached(numbers)}
        for row, numbers in shown(results)
    ]


def _machine() -> dict[str, str | int]:
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "opencv-python-headless", "numpy")},
        "codec": codec_name(),
    }


if __name__ == "__main__":
    main()
