"""``lorat-prep``: raw data set trees to shards."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import click
from rich import box
from rich.table import Table

from lorat.prep.build import BuildOptions, BuildReport, build
from lorat.prep.crops import CropOptions
from lorat.prep.toyworld import ToyWorldConfig, plan_jobs, write_toyworld
from lorat.prep.trees import DATASETS, Dataset, parse_name, read_clips
from lorat.prep.trees.roots import find_root, missing_roots, parse_roots
from lorat.shards.console import OUT, progress_bar, start_logging
from lorat.shards.errors import UserError

__all__ = ["main"]

_ALL = ("lasot", "got10k", "trackingnet", "coco", "got10k-val")
_VALIDATION_PAIRS = {"got10k-val": 4096}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lorat")
def main() -> None:
    """Turn raw data set trees into audited, compressed shards of frame pairs."""
    start_logging()


@dataclass(frozen=True, slots=True)
class _Source:
    dataset: Dataset
    split: str
    root: Path

    @property
    def name(self) -> str:
        return _name(self.dataset, self.split)


@main.command("build")
@click.option(
    "--raw",
    type=click.Path(path_type=Path),
    default=Path("data/raw"),
    show_default=True,
    help="Folder of all trees (RAW/LaSOT, RAW/GOT-10k, …).",
)
@click.option("--root", "roots", multiple=True, metavar="NAME=DIR", help="Where one tree is.")
@click.option(
    "--shards",
    type=click.Path(path_type=Path),
    default=Path("data/shards"),
    show_default=True,
    help="Folder that the shards go into.",
)
@click.option(
    "--datasets",
    default="all",
    show_default=True,
    help="Names separated by commas, such as lasot,got10k-train; 'all' is " + ",".join(_ALL) + ".",
)
@click.option(
    "--pairs",
    type=click.IntRange(min=1),
    help="Pairs a data set.  [default: 500,000, or 4 a visible object of a small tree]",
)
@click.option(
    "--serve",
    type=click.Choice(["224", "378"]),
    default="224",
    show_default=True,
    help="Search size of the variants that will train on the shards.",
)
@click.option("--quality", type=click.IntRange(50, 100), default=92, show_default=True)
@click.option("--shard-pairs", type=click.IntRange(min=1), default=2048, show_default=True)
@click.option("--seed", type=int, default=42, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option(
    "--max-bad",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Pairs that damaged frames may cost before the build stops.",
)
def build_command(
    raw: Path,
    roots: tuple[str, ...],
    shards: Path,
    datasets: str,
    pairs: int | None,
    serve: str,
    quality: int,
    shard_pairs: int,
    seed: int,
    workers: int | None,
    max_bad: int,
) -> None:
    """Build shards of frame pairs from raw trees.

    Finished shards are kept when a build is stopped; the same command goes on. Exit status 2 when a
    tree is missing or damaged.
    """
    sources = _sources(datasets, raw, parse_roots(roots))
    reports = []
    for source in sources:
        options = BuildOptions(
            crops=CropOptions.serving(int(serve), quality),
            pairs=pairs or _VALIDATION_PAIRS.get(source.name),
            shard_pairs=shard_pairs,
            seed=seed,
            workers=workers or os.cpu_count() or 1,
            max_bad=max_bad,
        )
        clips = read_clips(source.dataset, source.split, source.root)
        with progress_bar(source.name) as update:
            reports.append(build(clips, shards, options, update))
    _print_reports(reports, shards)


def _config_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for every field of the toy world's configuration."""
    for field in reversed(fields(ToyWorldConfig)):
        option = "--" + field.name.replace("_", "-")
        command = click.option(option, type=int, default=field.default, show_default=True)(command)
    return command


@main.command("toyworld")
@click.argument("raw", type=click.Path(path_type=Path), default=Path("data/raw"))
@_config_options
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
def toyworld_command(raw: Path, workers: int | None, **config: int) -> None:
    """Write small raw trees in the real layouts, with exact boxes, under RAW (data/raw).

    The same seed and numbers give the same bytes. A finished toy world is left as it is.
    """
    toy = ToyWorldConfig(**config)
    total, done = len(plan_jobs(toy)), 0

    def advance(*_: object) -> None:
        nonlocal done
        done += 1
        update(done, total)

    with progress_bar("toy world") as update:
        write_toyworld(raw, toy, advance, workers or os.cpu_count() or 1)
    OUT.print(f"toy world in {raw}", highlight=False, soft_wrap=True)


def _sources(datasets: str, raw: Path, roots: dict[str, Path]) -> list[_Source]:
    everything = datasets.strip() == "all"
    names = _ALL if everything else tuple(n.strip() for n in datasets.split(",") if n.strip())
    if not names:
        raise UserError("--datasets names no data set; write for example lasot,got10k or all")
    wanted = [_with_split(name) for name in names]
    missing = missing_roots(wanted, raw, roots)
    if missing:
        there = [n for n, w in zip(names, wanted, strict=True) if _name(*w) not in missing]
        remedy = f"; without them: --datasets {','.join(there)}" if there else ""
        places = ", ".join(f"{name}: no folder {place}" for name, place in missing.items())
        raise UserError(f"{places}{remedy}")
    return [_Source(d, s, find_root(d, raw, roots, s)) for d, s in wanted]


def _name(dataset: Dataset, split: str) -> str:
    return f"{dataset.name}-{split}"


def _with_split(name: str) -> tuple[Dataset, str]:
    dataset, split = parse_name(name)
    split = split or dataset.prep_split
    if split is None:
        trained = [d.name for d in DATASETS.values() if d.prep_split]
        raise UserError(
            f"{name} is a test set and is not trained on; prep builds {', '.join(trained)}"
        )
    return dataset, split


def _print_reports(reports: list[BuildReport], shards: Path) -> None:
    table = Table(
        title=f"Shards in {shards}", title_justify="left", box=box.HORIZONTALS, padding=(0, 1)
    )
    table.add_column("data set", no_wrap=True)
    for column in ("pairs", "shards", "MB", "KB/pair", "windows cut", "skipped"):
        table.add_column(column, justify="right")
    for report in reports:
        manifest = report.manifest
        size = sum(shard.bytes for shard in manifest.shards)
        tried = sum(shard.jitter_draws for shard in manifest.shards)
        outside = sum(shard.jitter_outside for shard in manifest.shards)
        table.add_row(
            manifest.name,
            f"{manifest.rows:,}",
            str(len(manifest.shards)),
            f"{size / 1e6:,.1f}",
            f"{size / 1e3 / manifest.rows:.1f}",
            f"{outside / max(1, tried):.1%}",
            f"{sum(report.skipped.values()):,}",
        )
    OUT.print(table)
    for report in reports:
        for reason, count in sorted(report.skipped.items()):
            OUT.print(f"{report.manifest.name}: skipped {count:,} pairs: {reason}")
    OUT.print("'windows cut': share of jittered windows that leave the stored window.")


if __name__ == "__main__":
    main()
