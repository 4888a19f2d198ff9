"""``lorat-prep build``: raw trees to shards."""

from __future__ import annotations

import os
from pathlib import Path

import click
from rich import box
from rich.table import Table

from lorat.prep.build import BuildOptions, BuildReport, build
from lorat.prep.crops import CropOptions
from lorat.prep.sources import find_sources, tree_options
from lorat.prep.trees import read_clips
from lorat.prep.trees.roots import parse_roots
from lorat.shards.console import OUT, progress_bar

__all__ = ["build_command"]

_VALIDATION_PAIRS = {"got10k-val": 4096}


@click.command("build")
@tree_options
@click.option(
    "--shards",
    type=click.Path(path_type=Path),
    default=Path("data/shards"),
    show_default=True,
    help="Folder that the shards go into.",
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
    sources = find_sources(datasets, raw, parse_roots(roots))
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
