"""One-pass evaluation (OPE): curves and scores of a sequence, in the published convention.

It is that of pytracking's STARK branch: success compares with a strict >, errors with <=, and every annotated frame
counts, absent ones and the first included. Boxes are (N, 4) xyxy float64 in continuous pixels; scores fractions of 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

ConventionName = Literal["published", "matlab"]  # the definition of this module, or that of `matlab`

# Integers divided once: an accumulated arange is an ulp high at 0.65 and 0.75, and a tie flips.
OVERLAP_THRESHOLDS: Final = np.arange(21) / 20.0  # (21,) of the success curve: 0, 0.05, …, 1
CENTRE_THRESHOLDS: Final = np.arange(51.0)  # (51,) of the precision curve: 0 … 50 pixels
NORM_THRESHOLDS: Final = np.arange(51) / 100.0  # (51,) of the normalised precision curve: 0, 0.01, …, 0.5

HIT: Final = -1.0  # an error within every threshold
MISS: Final = np.inf  # and one within none


@dataclass(frozen=True, slots=True)
class Convention:
    """The errors of a frame without a valid annotation; it is a miss in success anywhere."""

    absent_centre: float = MISS  # where the object is flagged absent
    absent_norm: float = HIT
    empty_centre: float = MISS  # where it is visible and its box has no size
    empty_norm: float = HIT

    @property
    def flatters(self) -> bool:
        """Whether absent frames count as hits in a precision curve."""
        return HIT in (self.absent_centre, self.absent_norm)


def convention_of(dataset: str) -> Convention:
    """Return the published convention of a data set, by its short name. Absent frames are misses throughout in LaSOT
    and VastTrack; elsewhere, LaSOT_Extension included, hits in normalised precision, and for the UAV sets in precision
    too. Visible objects whose box has no size are hits in normalised precision even in LaSOT.
    """
    if dataset in ("lasot", "vasttrack"):
        return Convention(absent_norm=MISS)
    if dataset in ("uav123", "uav123_10fps", "uav20l"):
        return Convention(absent_centre=HIT, empty_centre=HIT)
    return Convention()


CORRECTED: Final = Convention(absent_norm=MISS, empty_norm=MISS)  # no frame without a valid annotation is a hit


class Curves(NamedTuple):
    """Success and precision curves of a sequence, or their mean over sequences."""

    success: NDArray[np.float64]  # (21,) share of frames over each of OVERLAP_THRESHOLDS
    precision: NDArray[np.float64]  # (51,) share of frames within each of CENTRE_THRESHOLDS
    norm_precision: NDArray[np.float64]  # (51,) share of frames within each of NORM_THRESHOLDS

    @property
    def auc(self) -> float:
        """Success score: mean of the success curve's 21 points, 20/21 for a perfect tracker."""
        return float(self.success.mean())

    @property
    def op50(self) -> float:
        """Share of frames with an overlap over 0.50."""
        return float(self.success[10])

    @property
    def op75(self) -> float:
        """Share of frames with an overlap over 0.75."""
        return float(self.success[15])

    @property
    def precision_20(self) -> float:
        """Precision score: share of frames with a centre error of at most 20 pixels."""
        return float(self.precision[20])

    @property
    def norm_precision_20(self) -> float:
        """Normalised precision score: share of frames with an error of at most 0.20."""
        return float(self.norm_precision[20])


def overlaps(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return (N,) intersections over union of (N, 4) boxes row by row; NaN where both are empty."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    shared = np.maximum(sides, 0.0).prod(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return shared / (_sides(first).prod(axis=1) + _sides(second).prod(axis=1) - shared)


def centre_errors(predicted: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return (N,) distances between box centres row by row, in pixels."""
    return np.hypot(*_centre_offsets(predicted, truth).T)


def norm_centre_errors(predicted: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return (N,) centre distances with each axis divided by the true box's side."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.hypot(*(_centre_offsets(predicted, truth) / _sides(np.asarray(truth, np.float64))).T)


def _sides(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return boxes[:, 2:] - boxes[:, :2]


def _centre_offsets(predicted: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    difference = np.asarray(predicted, np.float64) - np.asarray(truth, np.float64)
    return (difference[:, :2] + difference[:, 2:]) * 0.5


def frame_errors(
    predicted: ArrayLike, truth: ArrayLike, visible: ArrayLike, convention: Convention, valid: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return each frame's overlap, -1 where the annotation is not valid, centre error and normalised centre error.

    Boxes are (N, 4) xyxy; a NaN row of `predicted` is a miss in every curve, of `truth` no box. `visible` is (N,) bool,
    the set's flags; where box and flag are one (a track's `visible`), a box without size is absent. `convention` says
    what absent frames and empty boxes count as; `valid`, (N,) bool, what can be scored: boxes with a size by default.
    """
    truth, visible = np.asarray(truth, np.float64), np.asarray(visible, bool)
    valid = (_sides(truth) > 0.0).all(axis=1) if valid is None else np.asarray(valid, bool)
    kinds = [~visible, ~valid]  # np.select takes the first that applies
    return (
        np.select(kinds, [-1.0, -1.0], overlaps(predicted, truth)),
        np.select(kinds, [convention.absent_centre, convention.empty_centre], centre_errors(predicted, truth)),
        np.select(kinds, [convention.absent_norm, convention.empty_norm], norm_centre_errors(predicted, truth)),
    )


def ope_curves(
    predicted: ArrayLike, truth: ArrayLike, visible: ArrayLike, convention: Convention, valid: ArrayLike | None = None
) -> Curves:
    """Evaluate one sequence, as `frame_errors` takes it, N at least 1; the first prediction is taken to be the given
    box. A prediction without a size has no overlap (pytracking repeats the row before; the published system does not).
    """
    boxes, truth = np.array(predicted, np.float64), np.asarray(truth, np.float64)
    boxes[0] = truth[0]
    overlap, centre, norm_centre = frame_errors(boxes, truth, visible, convention, valid)
    return Curves(
        success=(overlap[:, None] > OVERLAP_THRESHOLDS).mean(axis=0),
        precision=(centre[:, None] <= CENTRE_THRESHOLDS).mean(axis=0),
        norm_precision=(norm_centre[:, None] <= NORM_THRESHOLDS).mean(axis=0),
    )


def mean_curves(curves: Sequence[Curves]) -> Curves:
    """Average curves, at least one; every sequence weighs the same, whatever its length."""
    return Curves(*(np.mean(of_all, axis=0) for of_all in zip(*curves, strict=True)))
