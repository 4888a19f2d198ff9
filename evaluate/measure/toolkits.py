"""The measures of GOT-10k and TrackingNet, as their own toolkits define them.

Both sets hide the ground truth of their test splits, so here they serve the splits that have it (GOT-10k val, parts of
TrackingNet's training set); the servers' code is taken to be the same. GOT-10k's toolkit pools all frames of all
sequences; TrackingNet's development kit averages over sequences and reports areas under all three curves, not values at
one threshold. Boxes are (N, 4) xyxy float64 in continuous pixels, scores fractions of 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lorat.evaluate.measure.ope import (
    OVERLAP_THRESHOLDS,
    Curves,
    centre_errors,
    mean_curves,
    norm_centre_errors,
    overlaps,
)
from lorat.shards.pixels.geometry import xywh_to_xyxy, xyxy_to_xywh

_GOT10K_THRESHOLDS = np.linspace(0.0, 1.0, 101)
_TRACKINGNET_CENTRE = np.arange(21) * 2.5
_TRACKINGNET_NORM = np.arange(21) / 40.0


@dataclass(frozen=True, slots=True)
class Got10kScores:
    """Average overlap and success rates over the pooled frames of all sequences."""

    ao: float
    """Mean overlap."""
    sr50: float
    """Share of frames with an overlap over 0.50."""
    sr75: float
    """Share of frames with an overlap over 0.75."""
    frames: int
    """That count: not the first of a sequence, nor with cover 0; those of repeated runs again."""
    speed: float | None = None
    """Frames a second: the mean of 1/t over all frames that took a time t; None without times."""


@dataclass(frozen=True, slots=True)
class TrackingNetScores:
    """Areas under the mean curves over the sequences; 1 for a perfect tracker."""

    success: float
    precision: float
    norm_precision: float


def got10k_overlaps(
    predicted: ArrayLike, truth: ArrayLike, cover: ArrayLike, size: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the overlaps of the frames that count in one sequence.

    The first frame is skipped, and so is every frame with cover 0; absence flags play no part. Boxes are bounded by the
    image as the toolkit does it: the corner is clipped to the image, then the side to what is left from there, so a box
    that begins outside moves inwards. From (N, 4) xyxy, (N,) integers of cover.label (0 … 8) and the frames' (width,
    height); (M,) float64 in [0, 1], M at most N − 1.
    """
    values = overlaps(_bounded(predicted, size), _bounded(truth, size))
    counts = np.asarray(cover) > 0
    counts[:1] = False
    return np.clip(np.nan_to_num(values[counts], nan=0.0), 0.0, 1.0)  # two empty boxes: 0


def _bounded(boxes: ArrayLike, size: tuple[int, int]) -> NDArray[np.float64]:
    boxes = xyxy_to_xywh(boxes)
    corner = np.clip(boxes[:, :2], 0.0, size)
    side = np.clip(boxes[:, 2:], 0.0, np.asarray(size) - corner)
    return xywh_to_xyxy(np.concatenate([corner, side], axis=1))


def got10k_scores(values: Sequence[NDArray[np.float64]], times: Sequence[NDArray[np.float64]] = ()) -> Got10kScores:
    """Pool the `got10k_overlaps` of all sequences and runs into AO, SR0.50 and SR0.75.

    With no frame that counts, these are NaN. `times` are (N,) seconds a frame of each, the first frame included; those
    that are NaN or not positive are left out.
    """
    seconds = np.concatenate([np.zeros(0), *times])
    measured = seconds[seconds > 0.0]  # NaN is not > 0
    speed = float((1.0 / measured).mean()) if len(measured) else None
    pooled = np.concatenate([np.zeros(0), *values])
    if not len(pooled):
        return Got10kScores(np.nan, np.nan, np.nan, 0, speed)
    sr50, sr75 = (float((pooled > at).mean()) for at in _GOT10K_THRESHOLDS[[50, 75]])
    return Got10kScores(float(pooled.mean()), sr50, sr75, len(pooled), speed)


def trackingnet_curves(predicted: ArrayLike, truth: ArrayLike) -> Curves:
    """Return the three 21-point curves of one sequence, from (N, 4) xyxy, N at least 1.

    All values of both boxes are rounded to integers, halves to even, and the first prediction is the given box. Success
    compares with >=, so that threshold 0 is always passed; centre errors with <= at 0, 2.5, …, 50 pixels, normalised
    ones at 0, 0.025, …, 0.5. There are no absent frames.
    """
    true_boxes, boxes = _rounded(truth), _rounded(predicted)
    boxes[0] = true_boxes[0]
    centre, norm = centre_errors(boxes, true_boxes), norm_centre_errors(boxes, true_boxes)
    return Curves(
        success=(overlaps(boxes, true_boxes)[:, None] >= OVERLAP_THRESHOLDS).mean(axis=0),
        precision=(centre[:, None] <= _TRACKINGNET_CENTRE).mean(axis=0),
        norm_precision=(norm[:, None] <= _TRACKINGNET_NORM).mean(axis=0),
    )


def _rounded(boxes: ArrayLike) -> NDArray[np.float64]:
    # (x + w) - x is not always w: only its first decimals tell what is a half.
    return xywh_to_xyxy(np.round(np.round(xyxy_to_xywh(boxes), 6)))


def trackingnet_scores(curves: Sequence[Curves]) -> TrackingNetScores:
    """Return the areas (trapezoid rule over [0, 1]) under the mean of the sequences' curves."""

    def area(curve: NDArray[np.float64]) -> float:
        return float((curve[1:] + curve[:-1]).sum() * 0.5 / (len(curve) - 1))

    return TrackingNetScores(*map(area, mean_curves(curves)))
