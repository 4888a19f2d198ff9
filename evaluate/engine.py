"""Many sequences side by side: one batch, one process, a few threads for the images.

Promise: a sequence's boxes do not depend on its neighbours in the batch beyond rounding (0.01 px in
float32), and its result comes as soon as it ends. A frame that does not decode keeps the last box
and has no score; a sequence that cannot be tracked fails by name, and the others go on.

Time per frame is the batch's cost (crops, network, boxes; not the decoding of images) divided by
the sequences in it, as published. The first frame's is the cost of taking the template.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lorat.evaluate.predictor import Predictor, TemplateInput
from lorat.evaluate.results import SequenceResult
from lorat.evaluate.tracker import (
    TargetState,
    check_first_box,
    finish,
    frame_size,
    prepare_search,
    prepare_template,
)
from lorat.prep.trees.clip import Clip
from lorat.shards.errors import UserError
from lorat.shards.geometry import xyxy_to_xywh
from lorat.shards.jpeg import ImageError, read_image

__all__ = ["Failed", "Tracked", "track_clips"]

Frame = NDArray[np.uint8]


@dataclass(frozen=True, eq=False, slots=True)
class Tracked:
    """A sequence that was tracked to its end."""

    clip: Clip
    result: SequenceResult
    """The score is NaN in frames that did not decode."""


@dataclass(frozen=True, eq=False, slots=True)
class Failed:
    """A sequence that could not be tracked."""

    clip: Clip
    reason: str


def track_clips(
    predictor: Predictor,
    clips: Sequence[Clip],
    *,
    batch: int = 16,
    threads: int = 4,
    on_frames: Callable[[int], None] = lambda count: None,
) -> Iterator[Tracked | Failed]:
    """Track each clip's first object from its box in the first frame.

    The longest sequences start first, so that none is left to run alone at the end.

    Args:
        predictor: the loaded network.
        clips: what to track; `tracks[0].boxes[0]` is the first box.
        batch: sequences side by side; a sequence that ends makes room for the next.
        threads: threads that decode images, and as many that cut crops.
        on_frames: called with the number of frames done since the last call.

    Yields:
        One outcome a clip, in the order in which they end.

    Raises:
        UserError: if the device's memory does not hold the batch.
    """
    waiting = deque(sorted(clips, key=lambda clip: -len(clip.frames)))
    slots: list[_Slot] = []
    with _Stepper(predictor, threads) as stepper:
        try:
            while waiting or slots:
                room = min(batch - len(slots), len(waiting))
                arrivals = [stepper.open(waiting.popleft()) for _ in range(room)]
                started, failures = stepper.start(arrivals)
                yield from failures
                slots += started
                moving = [slot for slot in slots if not slot.ended]
                stepper.step(moving)
                on_frames(len(started) + len(moving))
                yield from (slot.outcome() for slot in slots if slot.ended)
                slots = [slot for slot in slots if not slot.ended]
        except torch.OutOfMemoryError:
            raise UserError(
                f"--batch {batch}: the device's memory does not hold it; give a smaller one (of a "
                "training: train.evaluate_batch)"
            ) from None


@dataclass(eq=False, slots=True)
class _Slot:
    """One sequence under way."""

    clip: Clip
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    times: NDArray[np.float64]
    pending: Future[Frame] | None = None
    """The next frame, being decoded before it is known where to look in it."""
    state: TargetState | None = None
    done: int = 0
    """Frames that have a result."""

    @property
    def ended(self) -> bool:
        return self.done >= len(self.boxes)

    def record(self, box: NDArray[np.float64], score: float, seconds: float) -> None:
        self.boxes[self.done] = box
        self.scores[self.done] = score
        self.times[self.done] = seconds
        self.done += 1

    def outcome(self) -> Tracked:
        boxes = xyxy_to_xywh(self.boxes)
        return Tracked(self.clip, SequenceResult(self.clip.name, boxes, self.scores, self.times))


class _Stepper:
    """The network and two groups of threads: decoding never waits for a crop."""

    def __init__(self, predictor: Predictor, threads: int) -> None:
        self.predictor = predictor
        self.readers = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self.cutters = ThreadPoolExecutor(threads, thread_name_prefix="crop")

    def __enter__(self) -> _Stepper:
        return self

    def __exit__(self, *_: object) -> None:
        self.readers.shutdown(cancel_futures=True)
        self.cutters.shutdown(cancel_futures=True)

    def open(self, clip: Clip) -> _Slot:
        """Make room for a sequence and begin to decode its first frame."""
        count = len(clip.frames)
        pending = self.readers.submit(_first_image, clip)
        return _Slot(clip, np.zeros((count, 4)), np.zeros(count), np.zeros(count), pending)

    def start(self, slots: Sequence[_Slot]) -> tuple[list[_Slot], list[Failed]]:
        """Take the templates of sequences that begin."""
        started: list[_Slot] = []
        failures: list[Failed] = []
        firsts: list[tuple[Frame, NDArray[np.float64]]] = []
        for slot in slots:
            try:
                firsts.append(self._first(slot))
            except UserError as error:
                failures.append(Failed(slot.clip, error.message))
            else:
                started.append(slot)
        if not started:
            return started, failures
        begin = time.perf_counter()
        templates = list(self.cutters.map(lambda first: self._template(*first), firsts))
        tokens = self.predictor.embed(templates)
        seconds = (time.perf_counter() - begin) / len(started)
        for slot, (_, box), template, row in zip(started, firsts, templates, tokens, strict=True):
            slot.state = TargetState(box, template.mean, row)
            slot.record(box, 1.0, seconds)
        return started, failures

    def step(self, slots: Sequence[_Slot]) -> None:
        """Track the next frame of every sequence, in one batch."""
        seen: list[tuple[_Slot, TargetState, Frame]] = []
        for slot in slots:
            frame = self._next(slot)
            assert slot.state is not None, "start() comes before step()"
            if frame is None:
                slot.record(slot.state.box, np.nan, 0.0)
            else:
                seen.append((slot, slot.state, frame))
        if not seen:
            return
        begin = time.perf_counter()
        variant, resize = self.predictor.variant, self.predictor.resize
        cuts = self.cutters.map(lambda i: prepare_search(i[2], i[1], variant, resize), seen)
        crops, transforms = zip(*cuts, strict=True)
        tokens = torch.stack([state.tokens for _, state, _ in seen])
        rows = self.predictor.predict(tokens, np.stack(crops))
        ends = [
            finish(row, transform, frame_size(frame), state)
            for row, transform, (_, state, frame) in zip(rows, transforms, seen, strict=True)
        ]
        seconds = (time.perf_counter() - begin) / len(seen)
        for (slot, _, _), (tracked, state) in zip(seen, ends, strict=True):
            slot.state = state
            slot.record(tracked.box, tracked.score, seconds)

    def _read_ahead(self, slot: _Slot, index: int) -> None:
        known = index < len(slot.boxes)
        frames = slot.clip.frames
        slot.pending = self.readers.submit(read_image, frames[index]) if known else None

    def _first(self, slot: _Slot) -> tuple[Frame, NDArray[np.float64]]:
        """Return the first frame and the first box of a sequence that can be tracked."""
        assert slot.pending is not None, "open() reads the first frame"
        frame = slot.pending.result()
        self._read_ahead(slot, 1)
        return frame, check_first_box(slot.clip.tracks[0].boxes[0], frame_size(frame))

    def _template(self, frame: Frame, box: NDArray[np.float64]) -> TemplateInput:
        predictor = self.predictor
        variant, grid = predictor.variant, predictor.template_grid
        return prepare_template(frame, box, variant, grid, predictor.resize)

    def _next(self, slot: _Slot) -> Frame | None:
        """Return the next frame, or None where it does not decode; decode the one after it."""
        pending = slot.pending
        self._read_ahead(slot, slot.done + 1)
        try:
            return pending.result() if pending is not None else None
        except ImageError:
            return None


def _first_image(clip: Clip) -> Frame:
    """Read a sequence's first image, once all of its images are seen to be there.

    Raises:
        UserError: if images are missing, or the first does not decode.
    """
    folder = clip.frames.folder
    if len(clip.frames) < max(1, clip.annotated):
        raise UserError(
            f"{folder}: {len(clip.frames)} images for {clip.annotated} lines of ground truth; "
            "restore the missing images"
        )
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = [path for path in clip.frames if path.name not in there and not path.is_file()]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(clip.frames)} images are missing, the first "
            f"{missing[0].name}; restore them"
        )
    return read_image(clip.frames[0])
