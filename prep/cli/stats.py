"""``lorat-prep stats``: sizes, objects, gaps and freshness of shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click
from rich.table import Table

from lorat.configs.load import load_recipe
from lorat.prep.browse.sets import load_sets
from lorat.prep.browse.stats import QUANTILES, Freshness, SetStats, freshness, set_stats, stats_json
from lorat.prep.commandline import Command, LocationType
from lorat.shards.base.console import OUT, plain_table, progress_bar, say
from lorat.shards.base.storage import Location, write_json
from lorat.shards.manifest import Manifest

__all__ = ["stats_command"]

Measure = tuple[str, Callable[[SetStats], tuple[float, ...]]]
_PERCENT = tuple(f"{q:.0%}" for q in QUANTILES)
_OBJECTS: tuple[Measure, ...] = (
    ("frame", lambda s: s.object_frame),
    ("search image", lambda s: s.object_stored),
    ("template image", lambda s: s.template_stored),
)
_IMAGES: tuple[Measure, ...] = (
    ("search, longer side", lambda s: s.search_side),
    ("search, KB", lambda s: s.search_kb),
    ("template, KB", lambda s: s.template_kb),
)


@click.command("stats", cls=Command)
@click.argument("shards", type=LocationType(), default=Path("data/shards"))
@click.option("--datasets", help="Shard sets, such as lasot-train,coco.  [default: all]")
@click.option(
    "--recipe",
    default="standard",
    show_default=True,
    help="A name or a YAML file: how often it draws each pair.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Most pairs a data set that are read.",
)
@click.option(
    "--json",
    "report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that all numbers go into as JSON.",
)
def stats_command(
    shards: Location, datasets: str | None, recipe: str, sample: int, report: Path | None
) -> None:
    """Tell what is in the shards under SHARDS (data/shards), a folder or a URL.

    Pairs, bytes, skipped pairs and cut windows are exact; objects, gaps and images come from the
    pairs that are read. Exit status 2 when no shards are there or one is damaged.
    """
    plan = load_recipe(recipe)
    manifests = load_sets(shards, datasets)
    stats = [_measure(manifest, sample) for manifest in manifests]
    fresh = freshness(plan, manifests)
    if report:
        write_json(report, stats_json(stats, plan, fresh))
    OUT.print(_size_table(stats))
    say("'windows cut': share of jittered windows that leave the stored window.")
    for each in stats:
        for reason, count in sorted(each.skipped.items()):
            noun = "pair" if count == 1 else "pairs"
            say(f"{each.name}: skipped {count:,} {noun}: {reason}")
    OUT.print(_quantile_table("Object side, sqrt(w·h), pixels", "in the", stats, _OBJECTS))
    OUT.print(_quantile_table("Stored images", "", stats, _IMAGES))
    OUT.print(_gap_table(stats))
    say(_coverage(stats))
    OUT.print(_freshness_table(plan.name, fresh))
    say("'fresh': pairs / draws of the run; from 1 on, no pair is drawn twice.")
    unused = [s.name for s in stats if s.name not in plan.data.datasets]
    if unused:
        say(f"Not drawn by recipe {plan.name}: {', '.join(unused)}.")


def _measure(manifest: Manifest, sample: int) -> SetStats:
    with progress_bar(manifest.name) as update:
        return set_stats(manifest, sample, update)


def _size_table(stats: Sequence[SetStats]) -> Table:
    columns = ("data set", "shards", "pairs", "MB", "KB/pair", "windows cut", "skipped")
    table = plain_table(columns)
    for s in stats:
        table.add_row(
            s.name,
            f"{s.shards:,}",
            f"{s.pairs:,}",
            f"{s.bytes / 1e6:,.1f}",
            f"{s.kb_per_pair:.1f}",
            f"{s.share_cut:.1%}",
            f"{sum(s.skipped.values()):,}",
        )
    return table


def _quantile_table(
    title: str, what: str, stats: Sequence[SetStats], measures: Sequence[Measure]
) -> Table:
    table = plain_table(("data set", what, *_PERCENT), title)
    table.columns[1].justify = "left"
    for s in stats:
        for number, (name, values) in enumerate(measures):
            cells = [f"{value:,.0f}" if value >= 10 else f"{value:.1f}" for value in values(s)]
            table.add_row(s.name if not number else "", name, *cells)
    return table


def _gap_table(stats: Sequence[SetStats]) -> Table:
    title = "Frames between template and search"
    table = plain_table(("data set", "same frame", *_PERCENT), title)
    for s in stats:
        cells = [f"{value:.0f}" for value in s.gaps] or ["-"] * len(QUANTILES)
        table.add_row(s.name, f"{s.same_frame:.1%}", *cells)
    return table


def _coverage(stats: Sequence[SetStats]) -> str:
    """Say from how many rows the quantiles come."""
    partly = [s.sampled for s in stats if s.sampled < s.pairs]
    if not partly:
        return "Objects, images and gaps: all pairs were read."
    return f"Objects, images and gaps: from {max(partly):,} pairs of each set that holds more."


def _freshness_table(recipe: str, fresh: Sequence[Freshness]) -> Table:
    columns = ("data set", "weight", "pairs", "draws", "drawn each", "fresh")
    table = plain_table(columns, f"Recipe {recipe}")
    for f in fresh:
        table.add_row(
            f.name,
            str(f.weight),
            f"{f.pairs:,}" if f.pairs is not None else "not here",
            f"{f.draws:,}",
            _times(f.times),
            f"{f.fresh:.3g}" if f.fresh is not None else "-",
        )
    return table


def _times(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f} x" if value < 100 else f"{value:,.0f} x"
