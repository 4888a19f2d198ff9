"""One-pass evaluation (OPE): curves and scores of a sequence, in the published convention.

Promise: the numbers are those of the published LoRAT results, which follow the STARK branch of the pytracking family: a
frame's annotation is valid when its width and height are positive, success compares with a strict >, errors with <=,
every annotated frame counts in the denominator (absent ones and the first one included), and the first prediction is
the given box.

Boxes are (N, 4) xyxy float64 in continuous pixels; scores and curves are fractions of 1. Shifting predictions and
ground truth together by a pixel changes nothing here, so 1-based annotations that were read minus 1 score the same.
Other conventions of the same measures are in `matlab` and `toolkits`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

ConventionName = Literal["published", "matlab"]
"""Whose definition of the OPE scores is meant: that of this module, or that of `matlab`."""

# Integers divided once: an accumulated arange is an ulp high at 0.65 and 0.75, and a tie flips.
OVERLAP_THRESHOLDS: Final = np.arange(21) / 20.0
"""(21,) of the success curve: 0, 0.05, …, 1."""
CENTRE_THRESHOLDS: Final = np.arange(51.0)
"""(51,) of the precision curve: 0 … 50 pixels."""
NORM_THRESHOLDS: Final = np.arange(51) / 100.0
"""(51,) of the normalised precision curve: 0, 0.01, …, 0.5."""

_AT_20 = 20  # both precision scores are read off at index 20: 20 pixels, or 0.20
_AT_50, _AT_75 = 10, 15  # overlap 0.50 and 0.75

HIT: Final = -1.0
"""An error that is within every threshold."""
MISS: Final = np.inf
"""An error that is within none."""


@dataclass(frozen=True, slots=True)
class Convention:
    """The errors of a frame without a valid annotation; it is a miss in success anywhere."""

    absent_centre: float = MISS
    """In pixels, where the object is flagged absent."""
    absent_norm: float = HIT
    empty_centre: float = MISS
    """In pixels, where the object is visible and its box has no size."""
    empty_norm: float = HIT

    @property
    def flatters(self) -> bool:
        """Whether absent frames count as hits in a precision curve."""
        return HIT in (self.absent_centre, self.absent_norm)


def convention_of(dataset: str) -> Convention:
    """Return the published convention of a data set, by its short name.

    Absent frames are misses throughout in LaSOT and VastTrack. Everywhere else, LaSOT_Extension included, they are hits
    in normalised precision, and for the UAV sets in precision too. Visible objects whose box has no size are hits in
    normalised precision even in LaSOT.
    """
    if dataset in ("lasot", "vasttrack"):
        return Convention(absent_norm=MISS)
    if dataset.startswith("uav"):
        return Convention(absent_centre=HIT, empty_centre=HIT)
    return Convention()


CORRECTED: Final = Convention(absent_norm=MISS, empty_norm=MISS)
"""No frame without a valid annotation is a hit, in any data set."""


class Curves(NamedTuple):
    """Success and precision curves of a sequence, or their mean over sequences."""

    success: NDArray[np.float64]
    """(21,) share of frames over each of OVERLAP_THRESHOLDS."""
    precision: NDArray[np.float64]
    """(51,) share of frames within each of CENTRE_THRESHOLDS."""
    norm_precision: NDArray[np.float64]
    """(51,) share of frames within each of NORM_THRESHOLDS."""

    @property
    def auc(self) -> float:
        """Success score: mean of the success curve's 21 points, 20/21 for a perfect tracker."""
        return float(self.success.mean())

    @property
    def op50(self) -> float:
        """Share of frames with an overlap over 0.50."""
        return float(self.success[_AT_50])

    @property
    def op75(self) -> float:
        """Share of frames with an overlap over 0.75."""
        return float(self.success[_AT_75])

    @property
    def precision_20(self) -> float:
        """Precision score: share of frames with a centre error of at most 20 pixels."""
        return float(self.precision[_AT_20])

    @property
    def norm_precision_20(self) -> float:
        """Normalised precision score: share of frames with an error of at most 0.20."""
        return float(self.norm_precision[_AT_20])


def overlaps(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return (N,) intersections over union of (N, 4) boxes row by row; NaN where both are empty."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, 2:], second[:, 2:])
    shared = np.maximum(high - low, 0.0).prod(axis=1)
    union = _sides(first).prod(axis=1) + _sides(second).prod(axis=1) - shared
    with np.errstate(divide="ignore", invalid="ignore"):
        return shared / union


def centre_errors(predicted: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return (N,) distances between box centres row by row, in pixels."""
    return np.hypot(*_centre_offsets(predicted, truth).T)


def norm_centre_errors(predicted: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return (N,) centre distances with each axis divided by the true box's side."""
    truth = np.asarray(truth, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.hypot(*(_centre_offsets(predicted, truth) / _sides(truth)).T)


def _sides(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return boxes[:, 2:] - boxes[:, :2]


def _centre_offsets(predicted: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    difference = np.asarray(predicted, np.float64) - np.asarray(truth, np.float64)
    return (difference[:, :2] + difference[:, 2:]) * 0.5


class FrameErrors(NamedTuple):
    """Errors of each frame: (N,) float64 each."""

    overlap: NDArray[np.float64]
    """Intersection over union; -1 where the annotation is not valid."""
    centre: NDArray[np.float64]
    """Distance of the centres in pixels."""
    norm_centre: NDArray[np.float64]
    """Distance of the centres, each axis in units of the annotated box's side."""

    def curves(self) -> Curves:
        """Return the share of all N frames over, or within, each threshold."""
        return Curves(
            success=(self.overlap[:, None] > OVERLAP_THRESHOLDS).mean(axis=0),
            precision=(self.centre[:, None] <= CENTRE_THRESHOLDS).mean(axis=0),
            norm_precision=(self.norm_centre[:, None] <= NORM_THRESHOLDS).mean(axis=0),
        )


def frame_errors(
    predicted: ArrayLike, truth: ArrayLike, visible: ArrayLike, convention: Convention, valid: ArrayLike | None = None
) -> FrameErrors:
    """Compare predictions with ground truth frame by frame.

    Args:
        predicted: (N, 4) xyxy. A NaN row is a miss in every curve.
        truth: (N, 4) xyxy; NaN where there is no box.
        visible: (N,) bool, the data set's flags. Where box and flag are one (a track's `visible`), a box without size
            counts as absent.
        convention: what frames count as in which the object is absent or has no size.
        valid: (N,) bool, which boxes can be scored; those with a size unless given.
    """
    truth, visible = np.asarray(truth, np.float64), np.asarray(visible, bool)
    valid = (_sides(truth) > 0.0).all(axis=1) if valid is None else np.asarray(valid, bool)
    kinds = [~visible, ~valid]  # np.select takes the first that applies
    of_centre = [convention.absent_centre, convention.empty_centre]
    of_norm = [convention.absent_norm, convention.empty_norm]
    return FrameErrors(
        overlap=np.select(kinds, [-1.0, -1.0], overlaps(predicted, truth)),
        centre=np.select(kinds, of_centre, centre_errors(predicted, truth)),
        norm_centre=np.select(kinds, of_norm, norm_centre_errors(predicted, truth)),
    )


def ope_curves(predicted: ArrayLike, truth: ArrayLike, visible: ArrayLike, convention: Convention) -> Curves:
    """Evaluate one sequence of at least one frame; the first prediction is taken to be the given box. Arguments as of
    `frame_errors`.

    A prediction without width or height has no overlap (pytracking repeats the row before it; the published system does
    not).
    """
    truth = np.asarray(truth, np.float64)
    boxes = np.array(predicted, np.float64)
    boxes[0] = truth[0]
    return frame_errors(boxes, truth, visible, convention).curves()


def mean_curves(curves: Sequence[Curves]) -> Curves:
    """Average curves, at least one; every sequence weighs the same, whatever its length."""
    return Curves(*(np.mean(of_all, axis=0) for of_all in zip(*curves, strict=True)))
