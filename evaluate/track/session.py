"""Tracking of test sets: what has no result yet is tracked, and every result is kept at once.

Promise: a result is written when its sequence ends, so a stopped evaluation goes on where it was.
A sequence that fails is named and leaves the others alone. Results of two trackers never mix.
Several processes share the sequences; what comes out does not depend on how many they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lorat.evaluate.results.files import write_result
from lorat.evaluate.track.batch import group_sizes, track_clips
from lorat.evaluate.track.predictor import Predictor
from lorat.evaluate.track.ranks import Ranks
from lorat.evaluate.track.settings import BatchSettings
from lorat.evaluate.track.slots import Failed, Work
from lorat.evaluate.track.store import (
    Identity,
    claim,
    clear,
    is_done,
    note_machine,
    result_folder,
    weights_digest,
)
from lorat.evaluate.track.testsets import TestSet
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import UserError
from lorat.shards.base.process import (
    ALL_FREED,
    keep_freed_memory,
    processor_name,
    usable_cores,
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far all processes are with what had no result when they began."""

    frames: int
    of_frames: int
    sequences: int
    of_sequences: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out, of all processes."""

    sets: Sequence[TestSet]
    identity: Identity
    failed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Test set → sequence → reason."""

    def done(self, item: TestSet) -> list[Clip]:
        """Return the clips of a test set that have a result."""
        failed = self.failed.get(item.name, {})
        return [clip for clip in item.clips if clip.name not in failed]


def evaluate(
    sets: Sequence[TestSet],
    out: Path,
    options: BatchSettings,
    *,
    overwrite: bool = False,
    progress: Callable[[Progress], None] = lambda so_far: None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Track every sequence of the test sets that has no result in `out` yet.

    Args:
        sets: what to track, the same on all ranks.
        out: results go to ``out/results/<dataset>-<split>/``; all ranks write there.
        options: the tracker.
        overwrite: forget the results that are there.
        progress: called now and then.
        ranks: the processes that evaluate together, if there are several; every one of them calls.

    Raises:
        UserError: if the weights do not load, or `out` holds results of another tracker; on every
            rank where it is raised on one.
    """
    ranks = ranks or Ranks()
    failed: dict[str, dict[str, str]] = {}
    reason = ""
    try:
        predictor, identity = _load(options)
        if ranks.speaks:
            if overwrite:
                clear(out)
            claim(out, identity)
    except UserError as error:
        reason = error.message
    _agree(ranks.exchange(reason))
    tracking = _Tracking(sets, out, ranks, _todo(sets, out, ranks), progress)
    try:
        tracking.track(predictor, options, failed)
    except UserError as error:
        reason = error.message
    ends = ranks.exchange_while((failed, reason), tracking.show)
    _agree([message for _, message in ends])
    return Evaluation(sets, identity, _failures(sets, out, [failures for failures, _ in ends]))


def _load(options: BatchSettings) -> tuple[Predictor, Identity]:
    digest = weights_digest(options.file())
    predictor = Predictor.load(options)
    if predictor.device.type == "cpu":
        keep_freed_memory(ALL_FREED)  # every frame needs the memory of the one before
    dtype = str(predictor.dtype).removeprefix("torch.") + (" compiled" if options.compile else "")
    settings = predictor.network.fingerprint + predictor.variant.model_dump_json()
    settings = hashlib.sha256(settings.encode()).hexdigest()[:16]
    return predictor, Identity(digest, predictor.variant.name, dtype, settings, options.resize)


def _agree(reasons: Sequence[str]) -> None:
    """Go on where no rank has a reason not to."""
    for rank, reason in enumerate(reasons):
        if reason:
            raise UserError(f"rank {rank}: {reason}" if len(reasons) > 1 else reason)


Item = tuple[str, str, int]  # test set, sequence, run


def _todo(sets: Sequence[TestSet], out: Path, ranks: Ranks) -> list[Item]:
    """Return what has no result yet as rank 0 sees it, the longest sequences first."""
    items: list[tuple[int, Item]] = []
    if ranks.speaks:
        items = [
            (len(clip.frames), (item.name, clip.name, run))
            for item in sets
            for run in range(1, item.runs + 1)
            for clip in item.clips
            if not is_done(out, item.name, clip, run)
        ]
        items.sort(key=lambda pair: -pair[0])
    return ranks.first([item for _, item in items])


class _Tracking:
    """The part of an evaluation that this process does."""

    def __init__(
        self,
        sets: Sequence[TestSet],
        out: Path,
        ranks: Ranks,
        todo: Sequence[Item],
        progress: Callable[[Progress], None],
    ) -> None:
        self._out, self._ranks, self._todo, self._progress = out, ranks, todo, progress
        self._clips = {(item.name, clip.name): clip for item in sets for clip in item.clips}
        self._total = sum(self._frames(item) for item in todo)
        self._topic = ranks.new_topic()

    def track(
        self, predictor: Predictor, options: BatchSettings, failed: dict[str, dict[str, str]]
    ) -> None:
        """Track sequences until all are taken; what fails is added to `failed`.

        Raises:
            UserError: if the device's memory does not hold the batch, or nothing can be compiled.
        """
        # Shared out evenly, so that no rank sits on sequences that another has room for.
        share = -(-len(self._todo) // self._ranks.size)
        batch = max(1, min(options.batch, share))
        if options.compile and share:
            predictor.compile(group_sizes(batch, predictor.device)[0])
        outcomes = track_clips(
            predictor,
            self._work(failed),
            batch=batch,
            threads=options.threads,
            on_frames=self._advance,
        )
        noted = False
        for end in outcomes:
            self._ranks.add(f"{self._topic}/sequences", 1)
            name = f"{end.work.clip.dataset}-{end.work.clip.split}"
            if isinstance(end, Failed):
                failed.setdefault(name, {})[end.work.clip.name] = end.reason
                continue
            write_result(result_folder(self._out, name, end.work.run), end.result)
            if self._ranks.speaks and not noted:
                note_machine(self._out, _machine(predictor, batch, options, self._ranks))
                noted = True

    def show(self) -> None:
        """Show how far all ranks are."""
        self._advance(0)

    def _work(self, failed: dict[str, dict[str, str]]) -> Iterator[Work]:
        """Yield what no other rank takes, the longest first."""
        for index in self._ranks.taken(len(self._todo), f"{self._topic}/next"):
            name, sequence, run = self._todo[index]
            clip = self._clips.get((name, sequence))
            if clip is None:
                failed.setdefault(name, {})[sequence] = (
                    f"not in the tree of rank {self._ranks.rank}; give all nodes the same tree"
                )
            elif sequence not in failed.get(name, {}):  # once is enough to know
                yield Work(clip, run)

    def _frames(self, item: Item) -> int:
        clip = self._clips.get(item[:2])
        return len(clip.frames) if clip else 0

    def _advance(self, frames: int) -> None:
        done = self._ranks.add(f"{self._topic}/frames", frames)
        if self._total:
            ended = self._ranks.add(f"{self._topic}/sequences", 0)
            self._progress(Progress(done, self._total, ended, len(self._todo)))


def _failures(
    sets: Sequence[TestSet], out: Path, parts: Sequence[Mapping[str, Mapping[str, str]]]
) -> dict[str, dict[str, str]]:
    """Return why sequences have no result: unread, failed on a rank, or not seen from here."""
    failed = {item.name: dict(item.unread) for item in sets if item.unread}
    for part in parts:
        for name, sequences in part.items():
            failed.setdefault(name, {}).update(sequences)
    if len(parts) > 1:
        for item in sets:
            known = failed.get(item.name, {})
            for clip in item.clips:
                runs = range(1, item.runs + 1)
                if clip.name in known or all(is_done(out, item.name, clip, r) for r in runs):
                    continue
                failed.setdefault(item.name, {})[clip.name] = (
                    f"another rank's result is not in {out}; give all nodes the same folder"
                )
    return failed


def _machine(predictor: Predictor, batch: int, options: BatchSettings, ranks: Ranks) -> str:
    """Say in a line what frames per second were measured on."""
    device = predictor.device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        name = f"{processor_name()}, {usable_cores()} cores"
    else:
        name = device.type
    many = f", {ranks.size} processes" if ranks.size > 1 else ""
    compiled = " compiled" if options.compile else ""
    dtype = str(predictor.dtype).removeprefix("torch.")
    return f"{name}, {dtype}{compiled}, {batch} sequences side by side{many}"
