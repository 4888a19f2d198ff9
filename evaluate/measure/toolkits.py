"""The measures of GOT-10k and TrackingNet, as their own toolkits define them; the servers are taken to do the same.

GOT-10k's pools all frames of all sequences; TrackingNet's averages over sequences and reports areas under all three
curves, not values at one threshold. Boxes are (N, 4) xyxy float64 in continuous pixels, scores fractions of 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lorat.evaluate.measure import ope
from lorat.evaluate.measure.ope import Curves
from lorat.shards.pixels.geometry import xywh_to_xyxy, xyxy_to_xywh

_TRACKINGNET_CENTRE = np.arange(21) * 2.5
_TRACKINGNET_NORM = np.arange(21) / 40.0


@dataclass(frozen=True, slots=True)
class Got10kScores:
    """Average overlap, and shares of frames with an overlap over 0.50 and 0.75, over all sequences' pooled frames."""

    ao: float
    sr50: float
    sr75: float
    frames: int  # that count: not the first of a sequence, nor with cover 0; those of repeated runs again
    speed: float | None = None  # frames a second: the mean of 1/t of all frames that took a time t; None without times


@dataclass(frozen=True, slots=True)
class TrackingNetScores:
    """Areas under the mean curves over the sequences; 1 for a perfect tracker."""

    success: float
    precision: float
    norm_precision: float


def got10k_overlaps(
    predicted: ArrayLike, truth: ArrayLike, cover: ArrayLike, size: tuple[int, int]
) -> NDArray[np.float64]:
    """Return (M,) overlaps of frames but for the first and those with cover 0; absence plays no part. From (N, 4) xyxy,
    (N,) integers of cover.label (0 … 8) and (width, height). As in the toolkit the corner is clipped to the image, then
    the side to what is left from there, so a box that begins outside moves inwards.
    """
    values = ope.overlaps(_bounded(predicted, size), _bounded(truth, size))
    counts = np.asarray(cover) > 0
    counts[:1] = False
    return np.clip(np.nan_to_num(values[counts], nan=0.0), 0.0, 1.0)  # two empty boxes: 0


def _bounded(boxes: ArrayLike, size: tuple[int, int]) -> NDArray[np.float64]:
    corner, side = np.split(xyxy_to_xywh(boxes), 2, axis=1)
    corner = np.clip(corner, 0.0, size)
    return xywh_to_xyxy(np.concatenate([corner, np.clip(side, 0.0, np.asarray(size) - corner)], axis=1))


def got10k_scores(values: Sequence[NDArray[np.float64]], times: Sequence[NDArray[np.float64]] = ()) -> Got10kScores:
    """Pool the `got10k_overlaps` of all sequences and runs; with no frame that counts, scores are NaN. `times` are (N,)
    seconds a frame of each, the first frame included; those that are NaN or not positive are left out.
    """
    seconds, pooled = (np.concatenate([np.zeros(0), *parts]) for parts in (times, values))
    measured = seconds[seconds > 0.0]  # NaN is not > 0
    speed = float((1.0 / measured).mean()) if len(measured) else None
    ao, sr50, sr75 = (float(of.mean()) if len(of) else np.nan for of in (pooled, pooled > 0.5, pooled > 0.75))
    return Got10kScores(ao, sr50, sr75, len(pooled), speed)


def trackingnet_curves(predicted: ArrayLike, truth: ArrayLike) -> Curves:
    """Return the three 21-point curves of one sequence, from (N, 4) xyxy, N at least 1; no frame is absent. All values
    are rounded to integers, halves to even, and the first prediction is the given box. Success compares with >=: 0 is
    always passed; centre errors with <= at 0, 2.5, …, 50 pixels, normalised ones at 0, 0.025, …, 0.5.
    """
    boxes, true_boxes = _rounded(predicted), _rounded(truth)
    boxes[0] = true_boxes[0]
    return Curves(
        success=(ope.overlaps(boxes, true_boxes)[:, None] >= ope.OVERLAP_THRESHOLDS).mean(axis=0),
        precision=(ope.centre_errors(boxes, true_boxes)[:, None] <= _TRACKINGNET_CENTRE).mean(axis=0),
        norm_precision=(ope.norm_centre_errors(boxes, true_boxes)[:, None] <= _TRACKINGNET_NORM).mean(axis=0),
    )


def _rounded(boxes: ArrayLike) -> NDArray[np.float64]:
    # (x + w) - x is not always w: only its first decimals tell what is a half.
    return xywh_to_xyxy(np.round(np.round(xyxy_to_xywh(boxes), 6)))


def trackingnet_scores(curves: Sequence[Curves]) -> TrackingNetScores:
    """Return the areas (trapezoid rule over [0, 1]) under the mean of the sequences' curves."""

    def area(curve: NDArray[np.float64]) -> float:
        return float((curve[1:] + curve[:-1]).sum() * 0.5 / (len(curve) - 1))

    return TrackingNetScores(*map(area, ope.mean_curves(curves)))
