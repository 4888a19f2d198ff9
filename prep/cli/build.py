"""``lorat-prep build``: raw trees to shards."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from lorat.prep.annotations.exclude import Exclusions, load_exclusions
from lorat.prep.annotations.index import indexed_clips
from lorat.prep.audit.images import odd_images
from lorat.prep.browse.sets import print_sets
from lorat.prep.build.estimate import Cost, Estimate, check_room, estimate, free_bytes, measure, pairs_within
from lorat.prep.build.folder import as_begun, check_folder, finished, receipts
from lorat.prep.build.plan import BuildOptions, Plan, make_plan, most_pairs
from lorat.prep.build.run import BuildLog, merge, run_plan
from lorat.prep.commandline import Command, options_of
from lorat.prep.pairs.crop import CropOptions
from lorat.prep.pool import EngineOptions, LocalEngine
from lorat.prep.trees.base.official import expected_sequences, of_published
from lorat.prep.trees.sources import SourceOptions, TreeSplit
from lorat.shards.base.console import OUT, Update, plain_table, progress_bar, say
from lorat.shards.base.disk import check_can_write
from lorat.shards.base.errors import Stopped, UserError
from lorat.shards.base.options import option, parse_bytes
from lorat.shards.base.storage import Location, StoreOptions

_LOG = logging.getLogger("lorat")
_VALIDATION_PAIRS = {"got10k-val": 4096}
WORKERS_NEED = ("lorat.prep.build.shard", "lorat.prep.cli")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardsOptions:
    """What is built into where, over all data sets."""

    shards: Location = option(Path("data/shards"), help="Folder or URL (s3://bucket/folder) that the shards go into.")
    budget: str | None = option(None, metavar="SIZE", help="Bytes over all data sets, such as 200GB: fewer pairs.")
    exclude: Path | None = option(None, metavar="REPORT", help="Leave out what lorat-prep check found damaged.")
    merge: bool = option(False, help="Write the manifest of finished parts.")
    force: bool = option(False, help="Build although the disk seems too small.")


@click.command("build", cls=Command)
@options_of(ShardsOptions, "place")
@options_of(BuildOptions, "options")
@options_of(CropOptions, "crops")
@options_of(EngineOptions, "jobs")
@options_of(SourceOptions, "trees")
@options_of(StoreOptions, "store")
def build_command(
    place: ShardsOptions,
    options: BuildOptions,
    crops: CropOptions,
    jobs: EngineOptions,
    trees: SourceOptions,
    store: StoreOptions,
) -> None:
    """Build shards of frame pairs, or of a tracker's tuples, from raw trees.

    First says what to expect, from a sample of pairs. Finished shards are kept when a build is stopped; the same
    command goes on. Exit status 2 when a tree is missing or damaged, or the disk too small; 130 after Ctrl-C.
    """
    store.use()
    if options.pairs and place.budget:
        raise UserError("--pairs and --budget both say how much; give one")
    if options.part and place.merge:
        raise UserError("--merge sums up all parts; give it without --part")
    budget = parse_bytes(place.budget) if place.budget else None
    check_can_write(place.shards)
    try:
        engine = jobs.make()
        if isinstance(engine, LocalEngine) and not place.merge:
            engine.prepare(*WORKERS_NEED)
        sources = trees.sources()
        exclusions = load_exclusions(place.exclude) if place.exclude else None
        plans = [_plan(place.shards, replace(options, crops=crops), source, exclusions) for source in sources]
        costs: Sequence[Cost | None] = [None] * len(plans)
        if budget:
            with progress_bar("sample") as update:
                plans, costs = _within_budget(plans, budget, update)
        if place.merge:
            return print_sets([merge(plan).manifest for plan in plans], f"Shards in {place.shards}")
        estimates = _expect(plans, costs, engine.slots(), place)
        reports = []
        for plan, expected in zip(plans, estimates, strict=True):
            with progress_bar(plan.name) as update:
                reports.append(run_plan(plan, engine, update, expected))
        print_sets([report.manifest for report in reports], f"Shards in {place.shards}")
        for plan in plans:
            say(f"{plan.name}: log {BuildLog(plan).path}")
        if options.part:
            say("After all parts: the same command with --merge instead of --part.")
    except KeyboardInterrupt:
        raise Stopped("stopped; finished shards are kept, the same command goes on") from None


def _plan(
    shards: Location, options: BuildOptions, source: TreeSplit, exclusions: Mapping[str, Exclusions] | None
) -> Plan:
    out = exclusions.get(source.name) if exclusions is not None else None
    if exclusions is not None and out is None:
        _LOG.warning("the report of the check says nothing about %s: all of it is used", source.name)
    with progress_bar(f"{source.name} annotations") as update:
        clips = indexed_clips(source.dataset, source.split, source.root, out, progress=update)
    exclude, pairs = out.fingerprint() or None if out else None, options.pairs or _VALIDATION_PAIRS.get(source.name)
    plan = as_begun(make_plan(clips, shards, replace(options, pairs=pairs, exclude=exclude)))
    odd = tuple(odd_images(clips, options.crops.range16))
    for line in odd:
        _LOG.warning("%s: %s", plan.name, line)
    return replace(plan, warned=plan.warned + odd)


def _within_budget(plans: Sequence[Plan], budget: int, update: Update) -> tuple[list[Plan], list[Cost]]:
    """Return the plans with the pairs that a budget allows, in whole shards, and what was measured.
    The sample is not cut short, so that every part of a build comes to the same number.
    """
    costs, wanted, allowed = [], [], []
    for plan in plans:
        costs.append(measure(plan, range(plan.shards()), seconds=None))
        wanted.append((plan.pairs, _VALIDATION_PAIRS.get(plan.name) or most_pairs(plan.clips), costs[-1].bytes))
        update(len(costs), len(plans))
    for plan, pairs in zip(plans, pairs_within(budget, wanted), strict=True):
        size = plan.options.shard_pairs
        allowed.append(replace(plan, pairs=pairs - pairs % size if pairs > size else pairs))
    return allowed, costs


def _expect(plans: Sequence[Plan], costs: Sequence[Cost | None], slots: int, place: ShardsOptions) -> list[Estimate]:
    """Estimate and print what the builds will take, a row a data set; refuse a disk that is clearly too small."""
    estimates = []
    with progress_bar("sample") as update:
        for plan, cost in zip(plans, costs, strict=True):
            check_folder(plan)
            mine, every = plan.mine(), range(plan.shards())
            # What other parts lost is theirs to build again.
            done = finished(plan, mine) | receipts(plan, sorted(set(every) - set(mine)))
            estimates.append(estimate(plan, [k for k in every if k not in done], slots, cost))
            update(len(estimates), len(plans))
    outside = any(plan.outside for plan in plans)
    names = ["data set", "sequences", *["boxes outside"] * outside]
    columns = (*names, "pairs", "there", "to build", "KB/pair", "GB", "minutes")
    table = plain_table(columns, f"To build in {place.shards}")

    def add(rows: Sequence[Estimate], kilobytes: str, *begin: str) -> None:
        *counts, size, seconds = (
            sum(getattr(one, what) for one in rows) for what in ("pairs", "there", "to_build", "bytes", "seconds")
        )
        cells = (*(f"{count:,}" for count in counts), kilobytes, f"{size / 1e9:,.2f}", f"{seconds / 60:,.1f}")
        table.add_row(*begin[: len(names)], *cells)

    for one, plan in zip(estimates, plans, strict=True):
        sequences = of_published(len(plan.clips), expected_sequences(plan.dataset, plan.split))
        kilobytes = f"{one.bytes_per_pair / 1e3:.1f}" if one.sampled else "-"
        add([one], kilobytes, one.name, sequences, f"{plan.outside:,}")
    if len(estimates) > 1:
        table.add_section()
        add(estimates, "", "sum", "", f"{sum(plan.outside for plan in plans):,}")
    OUT.print(table)
    free = free_bytes(place.shards)
    room = "" if free is None else f"; {free / 1e9:,.1f} GB are free"
    say(f"From {sum(one.sampled for one in estimates)} pairs cut now; {slots} at once{room}.")
    if free is None:
        say("Whether the store has room is not checked.")
    elif not place.force and (warning := check_room(sum(one.lacking for one in estimates), place.shards)):
        _LOG.warning("%s", warning)
    return estimates
