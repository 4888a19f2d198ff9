"""One object through one video, or several: first boxes in, a box, a score and a state a frame and object out.

Promise: tracking is deterministic and, with float32, follows the published system's trace: the same crops, penalty
window and rule for the next search window. Where the crop goes and what comes back are pure functions of one target, so
one tracker and many side by side agree. Boxes are xyxy float64 in continuous frame pixels unless a name says otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lorat.evaluate.results.files import State
from lorat.evaluate.track.judge import Judge, Judged
from lorat.evaluate.track.memory.base import UNKNOWN, Known, Memory, Seen
from lorat.evaluate.track.memory.crops import Box, Frame, frame_size
from lorat.evaluate.track.memory.cutouts import Place, Places
from lorat.evaluate.track.memory.feed import Colour, mean_colour
from lorat.evaluate.track.predictor import Found, Predictor
from lorat.evaluate.track.seek import sought
from lorat.evaluate.track.settings import TrackerSettings
from lorat.shards.base.errors import UserError
from lorat.shards.base.options import settings_of
from lorat.shards.pixels.geometry import CropTransform, clip_boxes


class TrackedBox(NamedTuple):
    """What the tracker says of one frame: a box, cut at it and empty where the object is put outside, unless LoRATv2
    says it, which cuts none; a score in [0, 1]; and whether the object is judged to be there.
    """

    box: Box
    score: float
    state: State


@dataclass(frozen=True, eq=False, slots=True)
class TargetState:
    """All that is remembered of a target between two frames."""

    box: Box  # the last one with positive size
    mean: Colour  # of the first frame; pads every search crop
    kept: Any  # by the memory
    judged: Judged = field(default_factory=Judged)
    sure: Box | None = None  # the last one in which it was tracked, if it is not now


JUDGE = Judge()
Image = ArrayLike | Tensor  # a frame as callers may have it


def check_first_box(box: ArrayLike | Tensor, size: tuple[int, int]) -> Box:
    """Return an xyxy first box as (4,) float64; a `UserError` if it has no area inside a frame of (width, height)."""
    box = _numbers(box)
    if box.shape != (4,) or not np.isfinite(box).all():
        wrong = "not four finite numbers"
    elif not has_area(box):
        wrong = "no area between x1, y1 and x2, y2"
    elif not has_area(clip_boxes(box, size)):
        wrong = f"outside the {size[0]}x{size[1]} frame"
    else:
        return box
    numbers = ", ".join(f"{value:g}" for value in box.ravel())
    raise UserError(f"first box ({numbers}): {wrong}; correct the first box")


def _numbers(boxes: ArrayLike | Tensor) -> NDArray[np.float64]:
    """Return boxes as float64 numbers; a `UserError` if they are none, or rows of different lengths."""
    try:
        return np.asarray(boxes.detach().double().cpu() if isinstance(boxes, Tensor) else boxes, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"first box {boxes!r}: not four numbers; give x1, y1, x2, y2 of each object") from None


def as_frame(image: Image) -> Frame:
    """Return a frame: (H, W, 3) uint8 RGB, of numpy, of PIL, or a tensor on any device, which may also be (3, H, W):
    what ends in 3 is taken for (H, W, 3). A `UserError` for anything else.
    """
    what = "give (height, width, 3) uint8 RGB"
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8:  # of which numpy does not know all
            raise UserError(f"a frame of shape {tuple(image.shape)} and type {image.dtype}; {what}")
        if image.ndim == 3 and image.shape[2] != 3:
            image = image.movedim(0, 2)
        image = image.detach().cpu()
    try:
        frame = np.ascontiguousarray(image)
    except ValueError:
        raise UserError(f"a frame of rows of different lengths; {what}") from None
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise UserError(f"a frame of shape {frame.shape} and type {frame.dtype}; {what}")
    return frame


def has_area(box: Box) -> bool:
    """Return whether a (4,) xyxy box has positive sides."""
    return bool((box[2:] > box[:2]).all())


class Cut(NamedTuple):
    """A frame, and where in it the search region lies."""

    frame: Frame
    transform: CropTransform  # from frame to crop
    elsewhere: bool = False  # not around the last box


def begin(memory: Memory[Any], frame: Frame, box: Box, known: Known = UNKNOWN) -> TargetState:
    """Return the target of a first box, as `check_first_box` returns it; the network has not looked at it yet."""
    mean = mean_colour(frame)
    return TargetState(box, mean, memory.begin(frame, box, mean, known))


def prepare_search(
    predictor: Predictor, memory: Memory[Any], frame: Frame, state: TargetState, out: Place | None = None
) -> Cut:
    """Cut what is to be remembered of the frame before, and the search region into `out`: around the last box, or where
    a lost object is sought.
    """
    memory.learn(state.kept)
    box, factor = None, predictor.variant.search_factor
    if predictor.seeks and state.judged.state == "lost" and state.sure is not None:
        box = sought(state.judged.since, state.sure, frame_size(frame), factor)
    around = state.box if box is None else box
    return Cut(frame, predictor.cut_search(frame, around, state.mean, out)[1], box is not None)


def locate(predictor: Predictor, memory: Memory[Any], states: Sequence[TargetState], crops: Places) -> Found:
    """Return where the network sees targets in their search regions."""
    recalled = memory.recall([state.kept for state in states])
    return predictor.predict(recalled.memory, crops, recalled.state)


def finish(
    memory: Memory[Any],
    cut: Cut,
    row: NDArray[np.float64],
    token: Tensor | None,
    state: TargetState,
    judge: Judge = JUDGE,
) -> tuple[TrackedBox, TargetState]:
    """Return a frame's result, and the target after it: a box without area leaves the last box, and so does what is not
    surely the object in a search region elsewhere. `row` and `token` are of `Found.each`, `state` that before.
    """
    choice = row[5:] if cut.elsewhere else row
    found, score = cut.transform.invert(choice[:4]), float(choice[4])
    judged = judge.after(state.judged, score)
    sure = None if judged.state == "tracked" else state.box if state.sure is None else state.sure
    state = replace(state, judged=judged, sure=sure)
    if cut.elsewhere and judged.state == "lost":
        return TrackedBox(state.box, score, judged.state), state
    box = clip_boxes(found, frame_size(cut.frame))
    state = replace(state, box=box if has_area(box) else state.box)
    memory.note(state.kept, Seen(cut.frame, box, state.box, score, token))
    return TrackedBox(box if memory.clips else found, score, state.judged.state), state


class Targets:
    """Tracks objects in one video: `start` with the boxes of those in the first frame, then `track` each next frame,
    all of them in one batch; `begin` where another one appears, or one is to begin anew. Frames are what `as_frame`
    takes.
    """

    def __init__(self, predictor: Predictor, judge: Judge = JUDGE) -> None:
        self.predictor, self.judge = predictor, judge
        self.states: list[TargetState] = []

    def start(self, image: Image, boxes: ArrayLike | Tensor, room: int = 0, frames: int | None = None) -> None:
        """Take the objects in `boxes`, (N, 4) xyxy, each with an area inside the frame, as the targets. There is `room`
        for so many in all, or for these. Where the video has at most so many `frames`, SPMTrack holds whatever its rule
        may choose of them, and else a bounded number.
        """
        frame = as_frame(image)
        firsts = [check_first_box(box, frame_size(frame)) for box in np.atleast_1d(_numbers(boxes))]
        room = max(room, len(firsts))
        self._memory = self.predictor.memory(room)
        self._crops = self.predictor.room_for_crops(room)
        self.states = [begin(self._memory, frame, box, Known(frames)) for box in firsts]
        self._memory.take([state.kept for state in self.states])

    def begin(self, image: Image, box: ArrayLike | Tensor, index: int | None = None) -> None:
        """Take the object in `box`, (4,) xyxy, as one more target, or as the one at `index`, from this frame on, the
        one that was tracked last.
        """
        frame = as_frame(image)
        target = begin(self._memory, frame, check_first_box(box, frame_size(frame)))
        if index is None:
            self.states.append(target)
        else:
            self._memory.forget(self.states[index].kept)
            self.states[index] = target
        self._memory.take([target.kept])

    def started(self) -> list[TargetState]:
        """Return what is remembered of each target; a `UserError` where there is none."""
        if not self.states:
            raise UserError("the tracker has no target; call start(frame, box) before track(frame)")
        return self.states

    def track(self, image: Image) -> list[TrackedBox]:
        """Return each target's box, score and state in the next frame, in the order in which they were taken."""
        frame, states = as_frame(image), self.started()
        predictor, memory = self.predictor, self._memory
        crops = self._crops[: len(states)]
        both = zip(states, crops, strict=True)
        cuts = [prepare_search(predictor, memory, frame, state, crop) for state, crop in both]
        answers = locate(predictor, memory, states, crops).each()
        parts = zip(cuts, answers, states, strict=True)
        found = [finish(memory, cut, *answer, state, self.judge) for cut, answer, state in parts]
        self.states = [state for _, state in found]
        return [result for result, _ in found]


class Tracker:
    """Tracks an object: `start` with its box, then `track` each next frame; or several, in one batch: `start_all` and
    `track_all`. Frames are what `as_frame` takes; the judge's thresholds may be one's own.
    """

    def __init__(self, predictor: Predictor, judge: Judge = JUDGE) -> None:
        self.predictor, self._targets = predictor, Targets(predictor, judge)

    @classmethod
    def load(cls, *weights: str | Path, judge: Judge = JUDGE, **settings: Any) -> "Tracker":
        """Load a checkpoint's ``model.safetensors`` or a published file (of LoRATv2 both phases'); of no file, the
        newest run's. `settings` are other fields of `TrackerSettings`, such as ``device="cpu"``, as `settings_of` takes
        them. What does not fit is a `UserError`.
        """
        return cls(Predictor.load(settings_of(TrackerSettings, {"weights": weights} | settings)), judge)

    @property
    def state(self) -> TargetState:
        """What is remembered of the target since `start`; a `UserError` before."""
        return self._targets.started()[0]

    def start(self, image: Image, box: ArrayLike | Tensor, frames: int | None = None) -> None:
        """Take the object in `box`, (4,) xyxy with an area inside the frame, as the target; `frames`: see `Targets`."""
        self._targets.start(image, _numbers(box)[None], frames=frames)

    def track(self, image: Image) -> TrackedBox:
        """Return the target's box, score and state in the next frame."""
        return self._targets.track(image)[0]

    def start_all(self, image: Image, boxes: ArrayLike | Tensor, frames: int | None = None) -> None:
        """Take the objects in `boxes`, (N, 4) xyxy, as the targets; `frames` as for `Targets`."""
        self._targets.start(image, boxes, frames=frames)

    def track_all(self, image: Image) -> list[TrackedBox]:
        """Return each target's box, score and state in the next frame, in the order of the first boxes."""
        return self._targets.track(image)
