"""One-pass evaluation as the MATLAB toolkit of LaSOT does it, and those that share its code.

Promise: the numbers are those of the toolkits of LaSOT, LaSOT_Extension, TNL2K and VastTrack. They differ from the
published convention (`metrics`) in this:

- a predicted row that is no box or has no size is replaced by the row before it;
- an annotation is valid where all four of its values are positive as they stand in the file, so a
  box that touches the left or top border is not (TNL2K has 14,555 such frames);
- a frame in which the object is absent is a miss in every curve; a frame with the object but
  without a valid annotation is a miss in success and a hit in both precisions;
- a sequence whose whole curve is zero is left out of the mean of that curve.

Scores and thresholds are otherwise the same, and all frames count in the denominator.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lorat.evaluate.measure.ope import HIT, MISS, Convention, Curves, frame_errors
from lorat.shards.pixels.geometry import xyxy_to_xywh

MATLAB_SETS: Final = frozenset({"lasot", "lasot_ext", "tnl2k", "vasttrack"})
"""The data sets whose toolkit this is, by short name."""
_CONVENTION = Convention(absent_centre=MISS, absent_norm=MISS, empty_centre=HIT, empty_norm=HIT)


def matlab_curves(predicted: ArrayLike, truth: ArrayLike, visible: ArrayLike, *, one_based: bool) -> Curves:
    """Evaluate one sequence; the first prediction is taken to be the given box.

    Args:
        predicted: (N, 4) xyxy, N at least 1, a row for each annotated frame.
        truth: (N, 4) xyxy; NaN where there is no box.
        visible: (N,) bool, a track's: the flags and a box with size.
        one_based: whether the annotation files count pixels from 1, so that `truth` is less by 1.
    """
    truth, visible = np.asarray(truth, np.float64), np.asarray(visible, bool)
    raw = xyxy_to_xywh(truth)
    raw[:, :2] += 1.0 if one_based else 0.0
    boxes = _repaired(np.array(predicted, np.float64), truth)
    boxes[0] = truth[0]
    valid = (raw > 0.0).all(axis=1)
    return frame_errors(boxes, truth, ~_absent(raw, visible), _CONVENTION, valid).curves()


def matlab_mean(curves: Sequence[Curves]) -> Curves:
    """Average each curve over the sequences in which it is not zero throughout, if there are any.

    A curve that is zero in all sequences has mean zero.
    """
    return Curves(*map(_mean_of_some, zip(*curves, strict=True)))


def _mean_of_some(curves: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    kept = [curve for curve in curves if curve.sum() > np.finfo(np.float64).eps]
    return np.mean(kept or curves, axis=0)


def _repaired(boxes: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace (N, 4) rows that cannot be scored by the last row before them that can."""
    good = ~np.isnan(boxes).any(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    kept = np.logical_or(good, np.isnan(truth).any(axis=1))
    kept[0] = True
    return boxes[np.maximum.accumulate(np.where(kept, np.arange(len(boxes)), 0))]


def _absent(raw: NDArray[np.float64], visible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (N,) the toolkits' own absence flags, of which a track keeps only a part.

    A box of zeros is their mark of absence. One with other values but without size (three frames of LaSOT test, twelve
    of TNL2K test) is a slip in a frame that they do not flag.
    """
    sized = (raw[:, 2:] > 0.0).all(axis=1)
    return ~visible & (sized | (raw == 0.0).all(axis=1))
