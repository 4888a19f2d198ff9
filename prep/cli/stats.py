"""``lorat-prep stats``: sizes, objects, gaps and freshness of shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from lorat.configs.load import load_recipe
from lorat.prep.browse.sets import load_sets, print_sets
from lorat.prep.browse.stats import QUANTILES, Freshness, Quantiles, SetStats, freshness, set_stats
from lorat.prep.commandline import Command, LocationType
from lorat.shards.base.console import OUT, plain_table, progress_bar, say
from lorat.shards.base.storage import Location, write_json
from lorat.shards.manifest import Manifest


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
        values = {
            "quantiles": QUANTILES,
            "sets": [asdict(each) for each in stats],
            "recipe": plan.name,
            "freshness": [asdict(each) for each in fresh],
        }
        write_json(report, values)
    print_sets(manifests)
    _print_samples(stats)
    _print_freshness(plan.name, fresh)
    unused = [s.name for s in stats if s.name not in plan.data.datasets]
    if unused:
        say(f"Not drawn by recipe {plan.name}: {', '.join(unused)}.")


def _measure(manifest: Manifest, sample: int) -> SetStats:
    with progress_bar(manifest.name) as update:
        return set_stats(manifest, sample, update)


def _print_samples(stats: Sequence[SetStats]) -> None:
    sides = {
        s.name: {
            "frame": s.object_frame,
            "search image": s.object_stored,
            "template image": s.template_stored,
        }
        for s in stats
    }
    images = {
        s.name: {
            "search, longer side": s.search_side,
            "search, KB": s.search_kb,
            "template, KB": s.template_kb,
        }
        for s in stats
    }
    gaps = {s.name: {f"{s.same_frame:.1%}": s.gaps} for s in stats}
    _print_quantiles("Object side, sqrt(w·h), pixels", "in the", sides)
    _print_quantiles("Stored images", "", images)
    _print_quantiles("Frames between template and search", "same frame", gaps)
    partly = [s.sampled for s in stats if s.sampled < s.pairs]
    if partly:
        say(f"Objects, images and gaps: from {max(partly):,} pairs of each set that holds more.")
    else:
        say("Objects, images and gaps: all pairs were read.")


def _print_quantiles(title: str, column: str, sets: dict[str, dict[str, Quantiles]]) -> None:
    table = plain_table(("data set", column, *(f"{q:.0%}" for q in QUANTILES)), title)
    table.columns[1].justify = "left"
    for name, rows in sets.items():
        for what, values in rows.items():
            cells = [f"{v:,.0f}" if v >= 10 or v.is_integer() else f"{v:.1f}" for v in values]
            table.add_row(name, what, *(cells or "-" * len(QUANTILES)))
            name = ""
    OUT.print(table)


def _print_freshness(recipe: str, fresh: Sequence[Freshness]) -> None:
    columns = ("data set", "weight", "pairs", "draws", "drawn each", "fresh")
    table = plain_table(columns, f"Recipe {recipe}")
    for f in fresh:
        drawn = "-" if f.times is None else f"{f.times:,.{2 if f.times < 100 else 0}f} x"
        table.add_row(
            f.name,
            str(f.weight),
            "not here" if f.pairs is None else f"{f.pairs:,}",
            f"{f.draws:,}",
            drawn,
            "-" if f.fresh is None else f"{f.fresh:.3g}",
        )
    OUT.print(table)
    say("'fresh': pairs / draws of the run; from 1 on, no pair is drawn twice.")
