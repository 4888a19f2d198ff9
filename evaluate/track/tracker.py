"""One object through one video, or several: first boxes in, a box and a score a frame and object out.

Promise: tracking is deterministic and, with float32, follows the published system's trace: the same crops, penalty
window and rule for the next search window. Where the crop goes and what comes back are pure functions of one target, so
one tracker and many side by side agree. Boxes are xyxy float64 in continuous frame pixels unless a name says otherwise.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lorat.evaluate.track.crops import Box, Crop, Frame, crop_around, frame_size, search_scale, template_scale
from lorat.evaluate.track.predictor import Predictor, TemplateInput
from lorat.evaluate.track.settings import TrackerSettings
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import CropTransform, box_mask, clip_boxes

MIN_OBJECT_SIZE = 10.0  # pixels; a smaller object is searched as if it were this large


class TrackedBox(NamedTuple):
    """What the tracker says of one frame: a box cut at it, empty where the object is put outside; a score in [0, 1]."""

    box: Box
    score: float


@dataclass(frozen=True, eq=False, slots=True)
class TargetState:
    """All that is remembered of a target between two frames."""

    box: Box  # the last one with positive size
    mean: NDArray[np.float32]  # (3,) the template frame's mean colour
    tokens: Tensor  # (T, D) template tokens on the network's device


def search_window(box: ArrayLike) -> Box:
    """Return the box that the search region is cut around: at least 10 px a side, same centre."""
    box = np.asarray(box, dtype=np.float64)
    centre = (box[:2] + box[2:]) * 0.5
    half = np.maximum(box[2:] - box[:2], MIN_OBJECT_SIZE) * 0.5
    return np.concatenate([centre - half, centre + half])


def check_first_box(box: ArrayLike, size: tuple[int, int]) -> Box:
    """Return an xyxy first box as (4,) float64; a `UserError` if it has no area inside a frame of (width, height)."""
    box = np.asarray(box, dtype=np.float64)
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


def has_area(box: Box) -> bool:
    """Return whether a (4,) xyxy box has positive sides."""
    return bool((box[2:] > box[:2]).all())


def prepare_template(predictor: Predictor, frame: Frame, box: Box) -> TemplateInput:
    """Cut the template around the first box, as `check_first_box` returns it."""
    variant, side = predictor.variant, predictor.variant.template_size
    mean = frame.reshape(-1, 3).mean(axis=0).astype(np.float32)
    scale = template_scale(box, frame_size(frame), predictor.stored)
    crop, transform = crop_around(frame, box, variant.template_factor, side, mean, scale)
    return TemplateInput(crop, box_mask(transform.apply(box), side, predictor.network.template_grid), mean)


def prepare_search(
    predictor: Predictor, frame: Frame, state: TargetState, out: Crop | None = None
) -> tuple[Crop, CropTransform]:
    """Cut the search region around the last box, as `crop_around` does."""
    variant, box = predictor.variant, search_window(state.box)
    scale = search_scale(box, frame_size(frame), predictor.stored)
    return crop_around(frame, box, variant.search_factor, variant.search_size, state.mean, scale, out)


def finish(
    row: NDArray[np.float64], transform: CropTransform, size: tuple[int, int], state: TargetState
) -> tuple[TrackedBox, TargetState]:
    """Return a frame's result, and the target after it: a box without area leaves the last box. `row` is (5,) of
    `Predictor.predict`, `transform` of `prepare_search`, `size` (width, height), `state` that before.
    """
    box = clip_boxes(transform.invert(row[:4]), size)
    if has_area(box):
        state = replace(state, box=box)
    return TrackedBox(box, float(row[4])), state


class Targets:
    """Tracks objects that begin in the same frame: `start` with their boxes, then `track` each next frame, all of them
    in one batch. Frames are (H, W, 3) uint8 RGB or a `UserError`.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.states: list[TargetState] = []

    def start(self, frame: Frame, boxes: ArrayLike) -> None:
        """Take the objects in `boxes`, (N, 4) xyxy, each with an area inside the frame, as the targets."""
        _check_frame(frame)
        firsts = [check_first_box(box, frame_size(frame)) for box in np.asarray(boxes, dtype=np.float64)]
        templates = [prepare_template(self.predictor, frame, box) for box in firsts]
        self._tokens = self.predictor.embed(templates)
        self._crops = self.predictor.room_for_crops(len(firsts))
        parts = zip(firsts, templates, self._tokens, strict=True)
        self.states = [TargetState(box, template.mean, tokens) for box, template, tokens in parts]

    def track(self, frame: Frame) -> list[TrackedBox]:
        """Return each target's box and score in the next frame, in the order of the first boxes."""
        _check_frame(frame)
        if not self.states:
            raise UserError("the tracker has no target; call start(frame, box) before track(frame)")
        both = zip(self.states, self._crops, strict=True)
        transforms = [prepare_search(self.predictor, frame, state, crop)[1] for state, crop in both]
        rows = self.predictor.predict(self._tokens, self._crops)
        parts = zip(rows, transforms, self.states, strict=True)
        found = [finish(row, transform, frame_size(frame), state) for row, transform, state in parts]
        self.states = [state for _, state in found]
        return [result for result, _ in found]


class Tracker:
    """Tracks one object: `start` with its box, then `track` each next frame, as of `Targets`."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self._targets = predictor, Targets(predictor)

    @classmethod
    def load(cls, weights: Path, **settings: Any) -> "Tracker":
        """Load a checkpoint's ``model.safetensors`` or a published file; what does not fit is a `UserError`. `settings`
        are other fields of `TrackerSettings`, such as ``device="cpu"``.
        """
        return cls(Predictor.load(TrackerSettings(weights=(Path(weights),), **settings)))

    @property
    def state(self) -> TargetState:
        """What is remembered of the target since `start`."""
        return self._targets.states[0]

    def start(self, frame: Frame, box: ArrayLike) -> None:
        """Take the object in `box`, (4,) xyxy with an area inside the frame, as the target."""
        self._targets.start(frame, np.asarray(box, dtype=np.float64)[None])

    def track(self, frame: Frame) -> TrackedBox:
        """Return the target's box and score in the next frame."""
        return self._targets.track(frame)[0]


def _check_frame(frame: Frame) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise UserError(f"a frame of shape {frame.shape} and type {frame.dtype}; give (height, width, 3) uint8 RGB")
