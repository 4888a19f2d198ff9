"""What a training step minimises, from crops and labels to losses, as one module.

A cell inside the object should score the overlap of its own box with the truth, every other cell nothing (binary cross
entropy); boxes of cells inside the object are pulled to the truth by 1 - GIoU. Both are sums over cells, divided by the
number of positive cells; those of the search crops of a sample, each divided by its own, are added. Shapes are static;
a sample without positive cells adds score loss only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorat.configs.schema import VariantConfig
from lorat.train.network.blocks.lorat import OneStream, Prediction
from lorat.train.network.deploy.devices import check_compiler

_TINY = 1e-7  # least area to divide by; only degenerate boxes come near it


class Losses(NamedTuple):
    """Float32; the total, a scalar, with gradient, its parts detached."""

    total: Tensor
    score: Tensor  # (S,), of each search crop, or a scalar of one
    box: Tensor


class Objective(nn.Module):
    """Normalises crops, runs the network under autocast and compares with the labels, all in one graph if compiled."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: OneStream, variant: VariantConfig, dtype: torch.dtype) -> None:
        """Hold a network, where it is trained or sharded from; float32 is no autocast."""
        super().__init__()
        self.network, self.dtype = network, dtype
        device = next(network.parameters()).device
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (variant.mean, variant.std))
        self.register_buffer("scale", (1.0 / (255.0 * std)).to(device), persistent=False)
        self.register_buffer("shift", (mean / std).to(device), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn (…, 3, H, W) images on 0 … 255 into (value / 255 - mean) / std, float32."""
        return images.to(torch.float32) * self.scale - self.shift

    def forward(
        self,
        template: Tensor,
        template_mask: Tensor,
        search: Tensor,
        reference: Tensor | None,
        positive: Tensor,
        box: Tensor,
        positives: Tensor,
        box_weight: Tensor,
    ) -> Losses:
        """Return the losses of a micro-batch: `Batch.inputs`, and what `losses_of` takes besides."""
        predictions = self.predict(template, template_mask, search, reference)
        return losses_of(predictions, positive, box, positives, box_weight)

    def predict(
        self, template: Tensor, template_mask: Tensor, search: Tensor, reference: Tensor | None
    ) -> tuple[Prediction, ...]:
        """Return the network's prediction for each search crop of a micro-batch."""
        template, search = self.normalise(template), self.normalise(search)
        if reference is not None:
            reference = self.normalise(reference)
        with torch.autocast(search.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.network.predict(template, template_mask, search, reference)

    def compile_whole(self, device: torch.device, mode: str = "default") -> None:
        """Compile forward pass, loss and gradients in place, at the first step; a `UserError` if `device` cannot."""
        check_compiler(device)
        self.compile(fullgraph=True, dynamic=False, mode=mode)  # micro-batches are of one size


def losses_of(
    predictions: Sequence[Prediction], positive: Tensor, box: Tensor, positives: Tensor, box_weight: Tensor
) -> Losses:
    """Add the losses of S predictions: `positive` (B, S, G, G) and `box` (B, S, 4) are the truth, `positives` (S,) what
    each is divided by (see `tracking_loss`).
    """
    found = [
        tracking_loss(prediction, positive[:, n], box[:, n], positives[n], box_weight)
        for n, prediction in enumerate(predictions)
    ]
    total, score, regression = (torch.stack(parts) for parts in zip(*found, strict=True))
    return Losses(total.sum(), score, regression)


def tracking_loss(
    prediction: Prediction, positive: Tensor, box: Tensor, positives: Tensor, box_weight: Tensor | float = 1.0
) -> Losses:
    """Compare score logits (B, G, G) and boxes (B, G, G, 4) of a search crop with the truth; boxes are xyxy in units of
    the crop. `positive` (B, G, G) bool are the cells inside the object, none in a sample without it; of such a sample
    `box` (B, 4) float32 is not read. `positives` is what to divide by, a scalar float32 above 0: the positive cells of
    this batch, or their mean over ranks or micro-batches of a step. In the total the loss of boxes counts `box_weight`
    times. All that is returned are scalars.
    """
    logits, boxes = prediction.score_map.float(), prediction.boxes.float()
    # Outside, both boxes become the unit square: no division by zero, and no gradient. It is made on the device: a copy
    # of four numbers would wait there for the whole forward pass.
    inside, unit = positive.unsqueeze(-1), (torch.arange(4, device=box.device) > 1).to(torch.float32)
    iou, giou = box_overlaps(torch.where(inside, boxes, unit), torch.where(inside, box.float()[:, None, None], unit))
    target = torch.where(positive, iou.detach(), 0.0)
    score = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / positives
    regression = torch.where(positive, 1.0 - giou, 0.0).sum() / positives
    return Losses(score + box_weight * regression, score.detach(), regression.detach())


def box_overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalised IoU (Rezatofighi et al., 2019) of boxes (…, 4) xyxy."""
    (low, high), (low2, high2) = first.split(2, dim=-1), second.split(2, dim=-1)
    intersection = (torch.minimum(high, high2) - torch.maximum(low, low2)).clamp(min=0.0).prod(-1)
    union = (high - low).prod(-1) + (high2 - low2).prod(-1) - intersection
    around = (torch.maximum(high, high2) - torch.minimum(low, low2)).prod(-1).clamp(min=_TINY)
    iou = intersection / union.clamp(min=_TINY)
    return iou, iou - (around - union) / around
