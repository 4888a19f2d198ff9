"""One sequence under way: its frames decoded ahead, its boxes, scores and times so far."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.results.files import SequenceResult
from lorat.evaluate.track.tracker import TargetState, check_first_box, frame_size
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import xyxy_to_xywh
from lorat.shards.pixels.jpeg import ImageError, read_image

__all__ = ["Failed", "Frame", "Slot", "Tracked", "Work"]

Frame = NDArray[np.uint8]


@dataclass(frozen=True, eq=False, slots=True)
class Work:
    """A sequence to track."""

    clip: Clip
    run: int = 1
    """Which of the repeated runs; tracking is deterministic, but some tables want several."""


@dataclass(frozen=True, eq=False, slots=True)
class Tracked:
    """A sequence that was tracked to its end."""

    work: Work
    result: SequenceResult
    """The score is NaN in frames that did not decode."""


@dataclass(frozen=True, eq=False, slots=True)
class Failed:
    """A sequence that could not be tracked."""

    work: Work
    reason: str
    frames_left: int
    """Frames that will not be tracked."""


@dataclass(eq=False, slots=True)
class Slot:
    """The place of one sequence in a batch."""

    work: Work
    readers: Executor
    """Threads that decode."""
    ahead: bool = True
    """Whether the next frame is decoded while the network has the one before; else it is decoded
    by whoever asks for it."""
    boxes: NDArray[np.float64] = field(init=False)
    """(N, 4) xyxy, the first `done` rows."""
    scores: NDArray[np.float64] = field(init=False)
    times: NDArray[np.float64] = field(init=False)
    state: TargetState | None = None
    done: int = 0
    """Frames that have a result."""
    _pending: Future[Frame] | None = field(init=False)
    """The next frame, being decoded; nobody needs to know yet where to look in it."""

    def __post_init__(self) -> None:
        """Begin to decode the first frame."""
        count = len(self.work.clip.frames)
        self.boxes, self.scores, self.times = np.zeros((count, 4)), np.zeros(count), np.zeros(count)
        self._pending = self.readers.submit(_first_image, self.work.clip)

    @property
    def ended(self) -> bool:
        """Whether every frame has a result."""
        return self.done >= len(self.boxes)

    def first(self) -> tuple[Frame, NDArray[np.float64]]:
        """Return the first frame and the (4,) xyxy box given in it.

        Raises:
            UserError: if images are missing, the first does not decode, or the box is not in it.
        """
        assert self._pending is not None, "the first frame is taken once"
        frame, self._pending = self._pending.result(), None
        if self.ahead:
            self._read(1)
        return frame, check_first_box(self.work.clip.tracks[0].boxes[0], frame_size(frame))

    def next(self) -> Frame | None:
        """Return the next frame, or None where it does not decode."""
        frames, pending = self.work.clip.frames, self._pending
        self._pending = None
        if self.ahead:
            self._read(self.done + 1)
        try:
            return read_image(frames[self.done]) if pending is None else pending.result()
        except ImageError:
            return None

    def record(self, box: NDArray[np.float64], score: float, seconds: float) -> None:
        """Note the result of a frame; `box` is (4,) xyxy."""
        self.boxes[self.done] = box
        self.scores[self.done] = score
        self.times[self.done] = seconds
        self.done += 1

    def outcome(self) -> Tracked:
        """Return the whole result."""
        name, boxes = self.work.clip.name, xyxy_to_xywh(self.boxes)
        return Tracked(self.work, SequenceResult(name, boxes, self.scores, self.times))

    def _read(self, index: int) -> None:
        frames = self.work.clip.frames
        if index < len(frames):
            self._pending = self.readers.submit(read_image, frames[index])


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
