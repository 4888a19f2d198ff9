"""The training loss: where the object is, and where it ends.

A cell inside the object should score the overlap of its own box with the truth, every other cell
nothing (binary cross entropy); boxes of cells inside the object are pulled to the truth by
1 - GIoU. Both are sums over cells, divided by the number of positive cells. Shapes are static:
cells are chosen by masks, and a pair without positive cells adds score loss only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lorat.train.network.blocks.lorat import Prediction

__all__ = ["Losses", "box_overlaps", "count_positives", "tracking_loss"]

_TINY = 1e-7
"""Least area to divide by; only degenerate boxes come near it."""


class Losses(NamedTuple):
    """Scalars, float32."""

    total: Tensor
    """With gradient."""
    score: Tensor
    """Detached."""
    box: Tensor
    """Detached."""


def count_positives(positive: Tensor) -> Tensor:
    """Return the number of positive cells of (B, G, G), at least 1, as a float32 scalar."""
    return positive.sum(dtype=torch.float32).clamp(min=1.0)


def tracking_loss(
    prediction: Prediction, positive: Tensor, box: Tensor, positives: Tensor | None = None
) -> Losses:
    """Compare a prediction with the truth.

    Args:
        prediction: the network's; score logits (B, G, G) and boxes (B, G, G, 4) xyxy in units of
            the search region.
        positive: (B, G, G) bool, cells inside the object; none in a pair without the object.
        box: (B, 4) float32 xyxy in units of the search region; not read where nothing is positive.
        positives: what to divide by, where it differs from the count in this batch: the mean over
            ranks, or over the micro-batches of a step.
    """
    logits, boxes = prediction.score_map.float(), prediction.boxes.float()
    divisor = count_positives(positive) if positives is None else positives
    # Outside, both boxes become the unit square: no division by zero, and no gradient.
    inside = positive.unsqueeze(-1)
    # Made on the device: a copy of four numbers would wait there for the whole forward pass.
    unit = (torch.arange(4, device=box.device) > 1).to(torch.float32)
    iou, giou = box_overlaps(
        torch.where(inside, boxes, unit), torch.where(inside, box.float()[:, None, None], unit)
    )
    target = torch.where(positive, iou.detach(), 0.0)
    score = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / divisor
    regression = torch.where(positive, 1.0 - giou, 0.0).sum() / divisor
    return Losses(score + regression, score.detach(), regression.detach())


def box_overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalised IoU (Rezatofighi et al., 2019) of boxes (…, 4) xyxy."""
    left_top = torch.maximum(first[..., :2], second[..., :2])
    right_bottom = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (right_bottom - left_top).clamp(min=0.0).prod(-1)
    union = _area(first) + _area(second) - intersection
    around_low = torch.minimum(first[..., :2], second[..., :2])
    around_high = torch.maximum(first[..., 2:], second[..., 2:])
    around = (around_high - around_low).prod(-1).clamp(min=_TINY)
    iou = intersection / union.clamp(min=_TINY)
    return iou, iou - (around - union) / around


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)
