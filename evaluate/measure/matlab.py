"""One-pass evaluation as the MATLAB toolkits of LaSOT and OTB do it, and those that share their code.

Promise: the numbers are those of the toolkits of `MATLAB_SETS`. They differ from `ope`:

- a predicted row that is no box (NaN, negative) or has no size is replaced by the row before it;
- an annotation is valid where all four of its values are positive as they stand in the file, so a box that touches the
  left or top border is not (TNL2K has 14,555 such frames); a frame without a valid one is a miss in success and a hit
  in both precisions;
- LaSOT's family first removes the frames that are flagged absent, whatever their box says: misses in every curve. OTB's
  knows no flags;
- a sequence whose whole curve is zero is left out of the mean of that curve.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lorat.evaluate.measure.ope import HIT, MISS, Convention, Curves, ope_curves
from lorat.shards.pixels.geometry import xyxy_to_xywh

MATLAB_SETS: Final[Mapping[str, bool]] = MappingProxyType(
    dict.fromkeys(("lasot", "lasot_ext", "tnl2k", "vasttrack"), True)
    | dict.fromkeys(("otb", "uav123", "uav123_10fps", "uav20l", "uavdt", "dtb70"), False)
)
"""Data set, by short name → whether its toolkit removes absent frames, as LaSOT's, or knows none, as OTB's."""
_CONVENTION = Convention(absent_centre=MISS, absent_norm=MISS, empty_centre=HIT, empty_norm=HIT)


def repairs(dataset: str, convention: str) -> bool | None:
    """Return whether rows that are no box are repaired under a convention; None where none of a set's would."""
    return convention == "matlab" if dataset in MATLAB_SETS else None


def matlab_curves(
    predicted: ArrayLike, truth: ArrayLike, flagged: ArrayLike | None, *, removes: bool, one_based: bool
) -> Curves:
    """Evaluate one sequence, N at least 1, from (N, 4) xyxy; the first prediction is taken to be the given box. `truth`
    is NaN where there is no box. `removes`: whether the toolkit removes absent frames, those `flagged`, (N,) bool, or,
    where the tree has no flags, boxes of zeros, as in the toolkits' own files. `one_based`: whether annotation files
    count pixels from 1, so that `truth` is less by 1.
    """
    truth = np.asarray(truth, np.float64)
    raw = xyxy_to_xywh(truth)
    raw[:, :2] += 1.0 if one_based else 0.0
    absent = (raw == 0.0).all(axis=1) if flagged is None else np.asarray(flagged, bool)
    boxes = _repaired(np.array(predicted, np.float64), truth)
    return ope_curves(boxes, truth, ~(absent & removes), _CONVENTION, (raw > 0.0).all(axis=1))


def matlab_mean(curves: Sequence[Curves]) -> Curves:
    """Average each curve over the sequences in which it is not zero throughout; zero where that is none."""

    def mean(of_all: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.mean([curve for curve in of_all if curve.sum() > np.finfo(np.float64).eps] or of_all, axis=0)

    return Curves(*map(mean, zip(*curves, strict=True)))


def _repaired(boxes: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace (N, 4) rows that cannot be scored by the last row before them that can."""
    good = ~np.isnan(boxes).any(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    kept = np.logical_or(good, np.isnan(truth).any(axis=1))
    kept[0] = True
    return boxes[np.maximum.accumulate(np.where(kept, np.arange(len(boxes)), 0))]
