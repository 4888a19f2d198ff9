"""Raw trees to shards: plan, shard jobs, receipts, manifest.

Shard k of a data set holds pairs k·n … (k + 1)·n − 1. A build can be stopped at any moment and run again: what has a
valid receipt is kept, the rest is built, and the bytes are the same whatever the engine and the number of workers. The
manifest is written last.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from lorat.prep.build.estimate import Estimate
from lorat.prep.build.folder import as_begun, begin, begun, check_folder, finished, losses, receipts
from lorat.prep.build.plan import BuildOptions, Plan, make_plan, warn_of_losses
from lorat.prep.build.shard import Step, build_shard
from lorat.prep.pool import Engine, LocalEngine
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.disk import explain_disk
from lorat.shards.base.errors import UserError, some
from lorat.shards.base.storage import Location, remove_leftovers
from lorat.shards.manifest import Manifest, Receipt

PairProgress = Callable[[int, int], None]
"""Called with (pairs done, pairs in all) of what a run is answerable for, every few pairs."""


class BuildReport(NamedTuple):
    """What a build did: all that it answers for, in a manifest (not saved by a part), and the number of new shards."""

    manifest: Manifest
    built: int


def build(
    clips: Sequence[Clip], shards: Location, options: BuildOptions, progress: PairProgress | None = None
) -> BuildReport:
    """Build the shards of one data set split under `shards`/<dataset>-<split>, in local processes.
    A `UserError` if there is nothing to build, the folder holds shards of another build, a shard cannot be written, or
    more is lost to damaged frames than `options.max_bad`.
    """
    return run_plan(as_begun(make_plan(clips, shards, options)), LocalEngine(options.workers), progress)


def run_plan(
    plan: Plan, engine: Engine, progress: PairProgress | None = None, estimate: Estimate | None = None
) -> BuildReport:
    """Build what is missing of a plan, and write the manifest unless the plan is of one part.
    The estimate goes into the log; errors are those of `build`.
    """
    begin(plan)
    remove_leftovers(plan.folder)
    done = finished(plan, mine := plan.mine())
    todo = [number for number in mine if number not in done]
    total, begin_time = plan.pairs_in(mine), time.monotonic()
    before = drawn = sum(receipt.drawn for receipt in done.values())
    show = progress or (lambda *_: None)

    def hear(message: Step | Receipt) -> None:
        nonlocal drawn
        if isinstance(message, Step):
            for skip in message.skips:
                log.write("skipped", **skip._asdict())
            drawn += message.drawn
            show(drawn, total)
            return
        done[message.first_pair // plan.options.shard_pairs] = message
        rate = (drawn - before) / max(time.monotonic() - begin_time, 1e-9)
        about = {key: getattr(message, key) for key in ("shard", "rows", "bytes", "skipped")}
        left = round((total - drawn) / max(rate, 1e-9))
        log.write("shard", **about, pairs_done=drawn, pairs=total, pairs_per_second=round(rate, 1), seconds_left=left)
        _check_losses(plan, done)

    with BuildLog(plan) as log:
        part = str(plan.options.part) if plan.options.part else None
        counts = {"pairs": plan.pairs, "shards": plan.shards(), "to_build": len(todo)}
        log.write("start", name=plan.name, **counts, part=part, max_bad=plan.options.max_bad, config=plan.config)
        log.warned(plan)
        if estimate is not None:
            log.write("estimate", **estimate._asdict())
        show(drawn, total)
        engine.run(build_shard, plan, todo, hear)
        warn_of_losses("pair", losses(done), str(log.path))
        return _sum_up(plan, log, "end", [done[number] for number in mine], len(todo))


def merge(plan: Plan) -> BuildReport:
    """Check that every shard of a plan, made without a part, is there, and write the manifest.
    A `UserError` if shards are missing, with the parts to run again; if the folder holds shards of another build; if
    the parts together lost more pairs than are allowed.
    """
    check_folder(plan)
    done = receipts(plan, plan.mine())
    if missing := [number for number in plan.mine() if number not in done]:
        parts = (begun(plan) or {"parts": 1})["parts"]  # of the last run here
        again = [f"--part {n}/{parts}" for n in sorted({k % parts + 1 for k in missing})]
        remedy = f"run {' and '.join(again)} again" if parts > 1 else "build it without --merge"
        names = some([plan.shard(number) for number in missing], 5)
        raise UserError(f"{plan.folder}: {len(missing)} of {plan.shards()} shards are missing ({names}); {remedy}")
    _check_losses(plan, done)
    with BuildLog(plan) as log:
        log.warned(plan)
        return _sum_up(plan, log, "merged", list(done.values()), built=0)


class BuildLog:
    """What a run did, a JSON object a line, in a file beside the shards; open inside ``with``. Each has ``time`` and
    ``event``: ``start``, ``warned`` (of the tree, lost sequences included), ``estimate``, ``skipped`` (a pair and why),
    ``shard`` (written, with its counts), and ``end``, ``merged``, ``stopped`` or ``failed``. Runs append; parts write a
    file each, since appending over a network is not safe. For shards in an object store, which cannot append, the file
    lies in the working folder. A `UserError` if it cannot be opened or written, such as on a full disk.
    """

    def __init__(self, plan: Plan) -> None:
        part = plan.options.part
        name = f"build-{part.number}-of-{part.of}.log" if part else "build.log"
        self.path = plan.folder / name if isinstance(plan.folder, Path) else Path(f"{plan.name}-{name}")

    def __enter__(self) -> Self:
        with explain_disk(self.path):
            # Closing a buffered file on a full disk would raise once more.
            self._file = self.path.open("a+b", buffering=0)
            if self._file.seek(0, os.SEEK_END):
                self._file.seek(-1, os.SEEK_END)
                if self._file.read() != b"\n":
                    self._file.write(b"\n")  # a killed build left half a line
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        with self._file, suppress(UserError):
            if isinstance(error, KeyboardInterrupt):
                self.write("stopped")
            elif isinstance(error, UserError):
                self.write("failed", error=error.message)

    def warned(self, plan: Plan) -> None:
        """Append what is told of a plan's tree."""
        for message in plan.warned:
            self.write("warned", message=message)

    def write(self, event: str, **values: Any) -> None:
        """Append one event."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with explain_disk(self.path):
            self._file.write((json.dumps({"time": now, "event": event, **values}) + "\n").encode())


def _sum_up(plan: Plan, log: BuildLog, event: str, shards: Sequence[Receipt], built: int) -> BuildReport:
    """Make the manifest of a plan's receipts, and save it unless the plan is of one part."""
    manifest = Manifest(plan.dataset, plan.split, plan.config, tuple(shards), plan.folder, plan.warned)
    if plan.options.part is None:
        if manifest.rows == 0:
            reasons = ", ".join(f"{n:,} times {reason}" for reason, n in manifest.skipped.items())
            remedy = "the log names them, lorat-prep check finds what is wrong with the tree"
            raise UserError(f"{plan.folder}: none of {plan.pairs:,} pairs could be stored ({reasons}); {remedy}")
        manifest.save()
    log.write(event, rows=manifest.rows, skipped=manifest.skipped)
    return BuildReport(manifest, built)


def _check_losses(plan: Plan, done: dict[int, Receipt]) -> None:
    bad, allowed = losses(done), plan.options.max_bad
    if len(bad) > allowed:
        what = f"damaged frames cost {len(bad)} pairs so far, --max-bad allows {allowed}"
        raise UserError(f"{bad[0]}; {what}; finished shards are kept")
