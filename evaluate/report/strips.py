"""The sequences in which a tracker did worst, as strips of frames with both boxes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.measure.ope import overlaps
from lorat.evaluate.measure.scores import DatasetScores
from lorat.evaluate.pictures import draw_boxes
from lorat.evaluate.results.files import Run, SequenceResult
from lorat.prep.trees.base.clip import Clip
from lorat.shards.pixels.geometry import xywh_to_xyxy
from lorat.shards.pixels.jpeg import ImageError, encode

_LOST = 0.1  # overlap up to which the object counts as lost
_LASTING = 10  # frames that it has to stay so, or to the end
_QUALITY = 72
_POINTS = 400  # of the overlap over time that are kept


class StripFrame(NamedTuple):
    """One picture of a strip."""

    number: int  # of the frame in the sequence, from 1
    jpeg: bytes
    size: tuple[int, int]  # (width, height)
    overlap: float | None  # None where the object is absent


class Strip(NamedTuple):
    """A sequence in a few pictures."""

    name: str
    frames: int
    auc: float
    pictures: list[StripFrame]
    overlap: list[float | None]  # evenly spaced over the sequence; None where the object is absent
    lost: int | None  # number, from 1, of the first frame from which on the object is lost for a while
    undecoded: int  # pictures that are left out since their frames do not decode


def worst_strips(
    clips: Sequence[Clip], results: Run, scores: DatasetScores, count: int = 5, frames: int = 6
) -> list[Strip]:
    """Draw the `count` sequences of a test set that have the lowest AUC in its `scores`, from the results of one run.
    Each gets so many `frames` spread evenly, the one in which the object is first lost among them.
    """
    by_name = {clip.name: clip for clip in clips}
    ranked = sorted(scores.sequences, key=lambda each: (each.curves.auc, each.name))
    return [_strip(by_name[each.name], results[each.name], each.curves.auc, frames) for each in ranked[:count]]


def first_loss(overlap: NDArray[np.float64]) -> int | None:
    """Return where the (N,) overlap first stays low for ten frames, or to the end; NaN, absence, does not interrupt."""
    known = np.flatnonzero(np.isfinite(overlap))
    low = overlap[known] <= _LOST
    starts = (start for start in np.flatnonzero(low) if low[start : start + _LASTING].all())
    return next((int(known[start]) for start in starts), None)


def _strip(clip: Clip, result: SequenceResult, auc: float, count: int) -> Strip:
    track, rows = clip.tracks[0], min(len(result.boxes), clip.annotated)
    boxes = xywh_to_xyxy(result.boxes)
    overlap = np.where(track.visible[:rows], overlaps(boxes[:rows], track.boxes[:rows]), np.nan)
    lost = first_loss(overlap)
    values = [value if np.isfinite(value) else None for value in overlap.tolist()]
    shown, pictures = _spread(rows, count), []
    if lost is not None and lost not in shown and len(shown) > 1:  # it takes its nearest's place
        shown[min(range(1, len(shown)), key=lambda place: abs(shown[place] - lost))] = lost
    for index in sorted(shown):
        try:
            frame = clip.frames.read(index)
        except ImageError:
            continue
        picture = draw_boxes(frame, boxes[index], track.boxes[index] if track.visible[index] else None)
        height, width = picture.shape[:2]
        pictures.append(StripFrame(index + 1, encode(picture, _QUALITY), (width, height), values[index]))
    drawn = [values[index] for index in _spread(rows, _POINTS)]
    first = None if lost is None else lost + 1
    return Strip(clip.name, rows, auc, pictures, drawn, first, undecoded=len(shown) - len(pictures))


def _spread(frames: int, count: int) -> list[int]:
    return list(map(int, np.unique(np.linspace(0, frames - 1, min(frames, count)).round())))
