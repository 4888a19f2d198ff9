"""``lorat-prep build``: raw trees to shards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from lorat.prep.annotations.exclude import Exclusions, load_exclusions
from lorat.prep.annotations.index import indexed_clips
from lorat.prep.build.estimate import (
    Cost,
    Estimate,
    check_room,
    estimate,
    measure,
    pairs_within,
)
from lorat.prep.build.log import log_path
from lorat.prep.build.merge import merge
from lorat.prep.build.plan import Part, Plan, check_folder, finished, make_plan, most_pairs
from lorat.prep.build.run import BuildOptions, BuildReport, run_plan
from lorat.prep.cli.build_tables import print_estimates, print_reports
from lorat.prep.commandline import Command, LocationType, options_of
from lorat.prep.pairs.crop import CropOptions
from lorat.prep.pool import Engine, LocalEngine, RayEngine
from lorat.prep.trees.sources import Source, SourceOptions
from lorat.shards.base.console import progress_bar, say
from lorat.shards.base.errors import Stopped, UserError
from lorat.shards.base.options import parse_bytes
from lorat.shards.base.process import usable_cores
from lorat.shards.base.storage import Location, is_remote

__all__ = ["build_command"]

_VALIDATION_PAIRS = {"got10k-val": 4096}


@dataclass(frozen=True, slots=True)
class _Request:
    """The command line."""

    trees: SourceOptions
    shards: Location
    pairs: int | None
    budget: str | None
    serve: str
    quality: int
    shard_pairs: int
    seed: int
    max_bad: int
    exclude: Path | None
    engine: str
    workers: int | None
    ray_address: str | None
    part: str | None
    merge: bool
    force: bool

    def __post_init__(self) -> None:
        clashes = (
            (self.pairs and self.budget, "--pairs and --budget both say how much; give one"),
            (self.part and self.merge, "--merge sums up all parts; give it without --part"),
            (self.engine != "ray" and self.ray_address, "--ray-address needs --engine ray"),
            (self.engine == "ray" and self.workers, "--workers is for --engine local; Ray decides"),
        )
        for clash, message in clashes:
            if clash:
                raise UserError(message)
        if self.part:
            Part.parse(self.part)
        if self.budget:
            parse_bytes(self.budget)

    def run_with(self) -> Engine:
        if self.engine == "ray":
            return RayEngine(self.ray_address)
        return LocalEngine(self.workers or usable_cores())


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a build; the last one here comes first in the help."""
    at_least_1 = click.IntRange(min=1)
    options = [
        click.option("--force", is_flag=True, help="Build although the disk seems too small."),
        click.option("--merge", is_flag=True, help="Write the manifest of finished parts."),
        click.option("--part", metavar="I/N", help="Build every N-th shard; --merge afterwards."),
        click.option("--ray-address", help="Ray cluster.  [default: RAY_ADDRESS, or a local Ray]"),
        click.option("--workers", type=at_least_1, help="Processes.  [default: one a core]"),
        click.option(
            "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True
        ),
        click.option(
            "--exclude",
            type=click.Path(path_type=Path),
            metavar="REPORT",
            help="Leave out what lorat-prep check found damaged.",
        ),
        click.option(
            "--max-bad",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Pairs, and sequences, that damaged frames may cost before the build stops.",
        ),
        click.option("--seed", type=int, default=42, show_default=True),
        click.option("--shard-pairs", type=at_least_1, default=2048, show_default=True),
        click.option("--quality", type=click.IntRange(50, 100), default=92, show_default=True),
        click.option(
            "--serve",
            type=click.Choice(["224", "378"]),
            default="224",
            show_default=True,
            help="Search size of the variants that will train on the shards.",
        ),
        click.option(
            "--budget", metavar="SIZE", help="Bytes over all data sets, such as 200GB: fewer pairs."
        ),
        click.option(
            "--pairs",
            type=at_least_1,
            help="Pairs a data set.  [default: 500,000, or 4 a visible object of a small tree]",
        ),
        click.option(
            "--shards",
            type=LocationType(),
            default="data/shards",
            show_default=True,
            help="Folder or URL (s3://bucket/folder) that the shards go into.",
        ),
    ]
    for option in options:
        command = option(command)
    return command


@click.command("build", cls=Command)
@_options
@options_of(SourceOptions, "trees")
def build_command(**values: Any) -> None:
    """Build shards of frame pairs from raw trees.

    First says what to expect, from a sample of pairs. Finished shards are kept when a build is
    stopped; the same command goes on. Exit status 2 when a tree is missing or damaged, or the disk
    too small; 130 after Ctrl-C.
    """
    try:
        _build(_Request(**values))
    except KeyboardInterrupt:
        raise Stopped("stopped; finished shards are kept, the same command goes on") from None


def _build(request: _Request) -> None:
    engine = request.run_with()
    if isinstance(engine, LocalEngine):
        engine.prepare("lorat.prep.build.shard", "lorat.prep.cli")
    sources = request.trees.sources()
    exclusions = load_exclusions(request.exclude) if request.exclude else None
    plans = [_plan(request, source, exclusions) for source in sources]
    costs: list[Cost | None] = [None] * len(plans)
    if request.budget:
        plans, costs = _within_budget(plans, parse_bytes(request.budget))
    if request.merge:
        print_reports([merge(plan) for plan in plans], request.shards)
        return
    estimates = _estimates(plans, costs, engine)
    print_estimates(estimates, engine.slots(), request.shards)
    _check_disk(request, estimates)
    reports: list[BuildReport] = []
    for plan, expected in zip(plans, estimates, strict=True):
        with progress_bar(plan.name) as update:
            reports.append(run_plan(plan, engine, update, expected))
    print_reports(reports, request.shards)
    for plan in plans:
        say(f"{plan.name}: log {log_path(plan)}")
    if request.part:
        say("After all parts: the same command with --merge instead of --part.")


def _plan(request: _Request, source: Source, exclusions: Exclusions | None) -> Plan:
    with progress_bar(f"{source.name} annotations") as update:
        clips = indexed_clips(
            source.dataset, source.split, source.root, exclusions, progress=update
        )
    excluded = exclusions.of(source.name).fingerprint() if exclusions else ""
    options = BuildOptions(
        crops=CropOptions.serving(int(request.serve), request.quality),
        pairs=request.pairs or _VALIDATION_PAIRS.get(source.name),
        shard_pairs=request.shard_pairs,
        seed=request.seed,
        max_bad=request.max_bad,
        part=Part.parse(request.part) if request.part else None,
        exclude=excluded or None,
    )
    return make_plan(clips, request.shards, options)


def _within_budget(plans: Sequence[Plan], budget: int) -> tuple[list[Plan], list[Cost | None]]:
    """Return the plans with the pairs that a budget allows, in whole shards, and what was measured.

    The sample is not cut short, so that every part of a build comes to the same number.
    """
    costs = []
    with progress_bar("sample") as update:
        for number, plan in enumerate(plans):
            costs.append(measure(plan, range(plan.shards()), seconds=None))
            update(number + 1, len(plans))
    wanted = [
        (p.pairs, _VALIDATION_PAIRS.get(p.name) or most_pairs(p.clips), c.bytes)
        for p, c in zip(plans, costs, strict=True)
    ]
    allowed = []
    for plan, pairs in zip(plans, pairs_within(budget, wanted), strict=True):
        size = plan.options.shard_pairs
        allowed.append(replace(plan, pairs=pairs - pairs % size if pairs > size else pairs))
    return allowed, list(costs)


def _estimates(
    plans: Sequence[Plan], costs: Sequence[Cost | None], engine: Engine
) -> list[Estimate]:
    estimates = []
    with progress_bar("sample") as update:
        for number, (plan, cost) in enumerate(zip(plans, costs, strict=True)):
            check_folder(plan)
            mine = plan.mine()
            others = sorted(set(range(plan.shards())) - set(mine))
            # What other parts lost is theirs to build again.
            done = finished(plan, mine) | finished(plan, others, all_losses=True)
            missing = [k for k in range(plan.shards()) if k not in done]
            estimates.append(estimate(plan, missing, engine.slots(), cost))
            update(number + 1, len(plans))
    return estimates


def _check_disk(request: _Request, estimates: Sequence[Estimate]) -> None:
    if is_remote(request.shards):
        say("Whether the store has room is not checked.")
    elif not request.force:
        warning = check_room(sum(e.lacking for e in estimates), request.shards)
        if warning:
            logging.getLogger("lorat").warning("%s", warning)
