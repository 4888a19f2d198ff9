"""All that has to be seen on a GPU, in one command: ``make bench-gpu``, or ``sh tools/bench_gpu.sh`` on a bare machine.

At most eight minutes on one GPU with 16 cores. Weights are random, but for the golden arrays; shards and frames are
made on the spot (`benchmarks.frames`). A part that fails says why and hinders no other; one for which no time is left
is named. Clocks are read when the device has done all its work. ``--quick --device cpu`` shows that it works.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import gpu_parts
from benchmarks.gpu_parts import Bench, Figures
from lorat.shards.base.console import OUT
from lorat.train.network.deploy.devices import pick_device

__all__ = ["main", "measure"]

PARTS: tuple[Callable[[Bench], Iterable[Figures]], ...] = (
    gpu_parts.golden_arrays,
    gpu_parts.training_steps,
    gpu_parts.loader,
    gpu_parts.tracking,
    gpu_parts.resume,
    gpu_parts.kernels,
)


@dataclass
class Report:
    """What was measured, part by part, in order."""

    figures: dict[str, list[Figures]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # part → why

    def table(self) -> Table:
        """Return a line a figure."""
        table = Table(box=box.HORIZONTALS, padding=(0, 1))
        for column in ("part", "what", "measured"):
            table.add_column(column, justify="left")
        for part, figures in self.figures.items():
            for what, values in figures:
                table.add_row(part, what, ", ".join(f"{key} {_shown(value)}" for key, value in values.items()))
        for part, why in self.left_out.items():
            table.add_row(part, "[bold]not measured[/]", why)
        return table


@click.command()
@click.option("--quick", is_flag=True, help="Tiny sizes: shows that it works, measures nothing.")
@click.option("--device", default="auto", help="auto, cuda, cuda:1, cpu.")
@click.option("--minutes", default=8.0, help="No part begins later than this.")
@click.option("--compile/--no-compile", "compiles", default=True, help="Measure compiled steps too.", show_default=True)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write the numbers there too.")
def main(quick: bool, device: str, minutes: float, compiles: bool, file: Path | None) -> None:
    """Compare with the golden arrays and measure training, loading, tracking and resuming on a GPU."""
    place = pick_device(device)
    if place.type == "cpu" and not quick:
        raise click.UsageError("no GPU here; --quick --device cpu shows that it works")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(place, quick, Path(scratch), compiles)
        report = measure(bench, PARTS, minutes * 60.0)
    Console(width=100).print(report.table())
    if file is not None:
        everything = {"machine": gpu_parts.machine(place), "quick": quick, "seconds": report.seconds}
        everything |= {"figures": report.figures, "left out": report.left_out}
        file.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.exit(1 if report.left_out else 0)


def measure(bench: Bench, parts: Iterable[Callable[[Bench], Iterable[Figures]]], limit: float) -> Report:
    """Run parts one after another; none begins once `limit` seconds have passed."""
    report, begin = Report(), time.monotonic()
    for part in parts:
        name = part.__name__.replace("_", " ")
        if (since := time.monotonic()) - begin > limit:
            report.left_out[name] = f"{limit:.0f} s were over; --minutes gives more"
            continue
        OUT.print(f"{name} …")
        figures = report.figures.setdefault(name, [])
        try:
            for what, values in part(bench):
                figures.append((what, values))
                OUT.print(f"  {what}: {values}")
        except Exception as error:  # noqa: BLE001  # whatever it is, the other parts are to be measured, and it is told
            report.left_out[name] = f"{type(error).__name__}: {error}"[:500]
        bench.forget()
        report.seconds[name] = round(time.monotonic() - since, 1)
    return report


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    torch.set_float32_matmul_precision("highest")
    main()
