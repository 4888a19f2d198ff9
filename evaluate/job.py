"""Tracking of test sets: what has no result yet is tracked, and every result is kept at once.

Promise: a result is written when its sequence ends, so a stopped evaluation goes on where it was.
A sequence that fails is named and leaves the others alone. Results of two trackers never mix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorat.evaluate.engine import Failed, track_clips
from lorat.evaluate.predictor import Predictor
from lorat.evaluate.resize import Resize
from lorat.evaluate.results import write_result
from lorat.evaluate.store import Identity, claim, clear, is_done, result_folder, weights_digest
from lorat.evaluate.testsets import TestSet
from lorat.prep.trees.clip import Clip
from lorat.shards.process import ALL_FREED, keep_freed_memory

__all__ = ["Evaluation", "TrackerOptions", "evaluate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackerOptions:
    """Which tracker, and how it computes."""

    weights: Path
    variant: str | None = None
    """Name or file, for weights that do not say what they are."""
    backbone: Path | None = None
    force_backbone: bool = False
    """Whether another backbone than the weights were trained on is taken."""
    device: str = "auto"
    dtype: str = "auto"
    batch: int = 16
    """Sequences side by side."""
    threads: int = 4
    """Threads that decode images, and as many that cut crops."""
    resize: Resize = "published"
    """How frames are shrunk into crops."""
    compile: bool = False
    """Whether the work of a frame becomes one compiled graph."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out."""

    sets: Sequence[TestSet]
    identity: Identity
    failed: dict[str, dict[str, str]] = field(default_factory=dict)
    """Test set → sequence → reason."""

    def done(self, item: TestSet) -> list[Clip]:
        """Return the clips of a test set that have a result."""
        failed = self.failed.get(item.name, {})
        return [clip for clip in item.clips if clip.name not in failed]


def evaluate(
    sets: Sequence[TestSet],
    out: Path,
    options: TrackerOptions,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Track every sequence of the test sets that has no result in `out` yet.

    Args:
        sets: what to track.
        out: results go to ``out/results/<dataset>-<split>/``.
        options: the tracker.
        overwrite: forget the results that are there.
        progress: called with the frames done and the frames in all.

    Raises:
        UserError: if the weights do not load, or `out` holds results of another tracker.
    """
    digest = weights_digest(options.weights)
    predictor = Predictor.load(
        options.weights,
        device=options.device,
        dtype=options.dtype,
        backbone=options.backbone,
        force_backbone=options.force_backbone,
        variant=options.variant,
        resize=options.resize,
    )
    if predictor.device.type == "cpu":
        keep_freed_memory(ALL_FREED)  # every frame needs the memory of the one before
    dtype = str(predictor.dtype).removeprefix("torch.") + (" compiled" if options.compile else "")
    settings = predictor.network.fingerprint + predictor.variant.model_dump_json()
    settings = hashlib.sha256(settings.encode()).hexdigest()[:16]
    identity = Identity(digest, predictor.variant.name, dtype, settings, options.resize)
    outcome = Evaluation(sets, identity)
    if overwrite:
        clear(out)
    claim(out, identity)
    todo = [clip for s in sets for clip in s.clips if not is_done(out, s.name, clip)]
    total = sum(len(clip.frames) for clip in todo)
    done = 0
    if options.compile and todo:
        predictor.compile(min(options.batch, len(todo)))

    def advance(frames: int) -> None:
        nonlocal done
        done += frames
        progress(done, total)

    for end in track_clips(
        predictor, todo, batch=options.batch, threads=options.threads, on_frames=advance
    ):
        name = f"{end.clip.dataset}-{end.clip.split}"
        if isinstance(end, Failed):
            outcome.failed.setdefault(name, {})[end.clip.name] = end.reason
        else:
            write_result(result_folder(out, name), end.result)
    return outcome
