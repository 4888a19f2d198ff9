"""Raw trees to shards: plan, shard jobs, receipts, manifest.

Shard k of a data set holds pairs k·n … (k + 1)·n − 1. A build can be stopped at any moment and run
again: what has a valid receipt is kept, the rest is built, and the bytes are the same whatever the
engine and the number of workers. The manifest is written last.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from lorat.prep.build.log import BuildLog, open_log
from lorat.prep.annotations.clipstore import ClipIndex
from lorat.prep.pool import Engine, LocalEngine
from lorat.prep.build.estimate import Estimate
from lorat.prep.build.shard import Step, build_shard
from lorat.prep.build.plan import (
    BuildOptions,
    Plan,
    begin,
    check_losses,
    default_pairs,
    finished,
    make_plan,
)
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import UserError
from lorat.shards.manifest import Manifest, Receipt
from lorat.shards.base.storage import Location, remove_leftovers

__all__ = [
    "BuildOptions",
    "BuildReport",
    "Progress",
    "build",
    "default_pairs",
    "run_plan",
    "sum_up",
]

_LOG = logging.getLogger("lorat")
_WARNED = 10  # lost pairs that are warned about one by one; the log has them all

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did."""

    manifest: Manifest
    """Of the shards this run is answerable for; saved unless the run was a part."""
    built: int
    """Shards written now; the others were there."""
    skipped: dict[str, int]


def build(
    clips: Sequence[Clip],
    shards: Location,
    options: BuildOptions,
    progress: Progress | None = None,
) -> BuildReport:
    """Build the shards of one data set split under `shards`/<dataset>-<split>, in local processes.

    Args:
        clips: cleaned: a `ClipIndex`, or a list.
        shards: the folder of all data sets' shards.
        options: how.
        progress: called with (pairs done, pairs in all).

    Raises:
        UserError: if there is nothing to build, the folder holds shards of another build, a shard
            cannot be written, or more is lost to damaged frames than `options.max_bad`.
    """
    plan = make_plan(clips, shards, options)
    return run_plan(plan, LocalEngine(options.workers), progress)


def run_plan(
    plan: Plan,
    engine: Engine,
    progress: Progress | None = None,
    estimate: Estimate | None = None,
) -> BuildReport:
    """Build what is missing of a plan, and write the manifest unless the plan is of one part.

    Args:
        plan: from `lorat.prep.build.plan.make_plan`.
        engine: where the shard jobs run.
        progress: called with (pairs done, pairs in all) of what this run is answerable for.
        estimate: written into the log.

    Raises:
        UserError: as `build`.
    """
    begin(plan)
    remove_leftovers(plan.folder)
    mine = plan.mine()
    done = finished(plan, mine)
    todo = [number for number in mine if number not in done]
    with open_log(plan) as log:
        _log_start(log, plan, len(todo), estimate)
        run = _Run(plan, log, done, progress)
        run.show()
        engine.run(build_shard, plan, todo, run.hear)
        _warn_of_losses(run.done, log)
        report = sum_up(plan, [run.done[number] for number in mine], len(todo))
        log.write("end", rows=report.manifest.rows, skipped=report.skipped)
    return report


def sum_up(plan: Plan, receipts: Sequence[Receipt], built: int) -> BuildReport:
    """Make the manifest of a plan's receipts, and save it unless the plan is of one part.

    Raises:
        UserError: if no pair could be stored at all.
    """
    manifest = Manifest(plan.dataset, plan.split, plan.config, tuple(receipts), plan.folder)
    skipped = sum((Counter(receipt.skipped) for receipt in receipts), Counter())
    if plan.options.part is None:
        if manifest.rows == 0:
            reasons = ", ".join(f"{count:,} times {reason}" for reason, count in skipped.items())
            raise UserError(
                f"{plan.folder}: none of {plan.pairs:,} pairs could be stored ({reasons}); the "
                "log names them, lorat-prep check finds what is wrong with the tree"
            )
        manifest.save()
    return BuildReport(manifest, built, dict(skipped))


class _Run:
    """Hears what the jobs tell: counts pairs, collects receipts, writes the log."""

    def __init__(
        self, plan: Plan, log: BuildLog, done: dict[int, Receipt], progress: Progress | None
    ) -> None:
        self.plan, self.log, self.done = plan, log, dict(done)
        self._progress = progress
        self._total = sum(len(plan.pair_range(number)) for number in plan.mine())
        self._before = self._drawn = sum(receipt.drawn for receipt in done.values())
        self._begin = time.monotonic()

    def show(self) -> None:
        """Show how far the build is."""
        if self._progress:
            self._progress(self._drawn, self._total)

    def hear(self, message: Step | Receipt) -> None:
        """Take in what a job told.

        Raises:
            UserError: if more pairs are lost than allowed.
        """
        if isinstance(message, Step):
            for skip in message.skips:
                self.log.write("skipped", **asdict(skip))
            self._drawn += message.drawn
            self.show()
            return
        self.done[message.first_pair // self.plan.options.shard_pairs] = message
        self._log_shard(message)
        check_losses(list(self.done.values()), self.plan.options.max_bad)

    def _log_shard(self, receipt: Receipt) -> None:
        seconds = time.monotonic() - self._begin
        rate = (self._drawn - self._before) / max(seconds, 1e-9)
        self.log.write(
            "shard",
            shard=receipt.shard,
            rows=receipt.rows,
            bytes=receipt.bytes,
            skipped=receipt.skipped,
            pairs_done=self._drawn,
            pairs=self._total,
            pairs_per_second=round(rate, 1),
            seconds_left=round((self._total - self._drawn) / max(rate, 1e-9)),
        )


def _log_start(log: BuildLog, plan: Plan, todo: int, estimate: Estimate | None) -> None:
    log.write(
        "start",
        name=plan.name,
        pairs=plan.pairs,
        shards=plan.shards(),
        to_build=todo,
        part=str(plan.options.part) if plan.options.part else None,
        max_bad=plan.options.max_bad,
        config=plan.config,
    )
    if isinstance(plan.clips, ClipIndex):
        for sequence, reason in plan.clips.lost.items():
            log.write("lost sequence", sequence=sequence, reason=reason)
    if estimate is not None:
        log.write("estimate", **asdict(estimate))


def _warn_of_losses(done: dict[int, Receipt], log: BuildLog) -> None:
    lost = [message for receipt in done.values() for message in receipt.bad]
    for message in lost[:_WARNED]:
        _LOG.warning("lost a pair: %s", message)
    if len(lost) > _WARNED:
        _LOG.warning("lost %d more pairs; %s names them", len(lost) - _WARNED, log.path)
