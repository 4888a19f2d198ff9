"""What a training step minimises, from stored crops and labels to losses, as one module.

A cell inside the object should score the overlap of its own box with the truth, every other cell nothing (binary cross
entropy); boxes of cells inside the object are pulled to the truth by 1 - GIoU. Both are sums over cells, divided by the
number of positive cells. Shapes are static; a pair without positive cells adds score loss only.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorat.configs.schema import VariantConfig
from lorat.train.network.blocks.lorat import LoRAT, Prediction
from lorat.train.network.deploy.devices import check_compiler

_TINY = 1e-7  # least area to divide by; only degenerate boxes come near it


class Losses(NamedTuple):
    """Scalars, float32; the total with gradient, its parts detached."""

    total: Tensor
    score: Tensor
    box: Tensor


class Objective(nn.Module):
    """Normalises crops, runs the network under autocast and compares with the labels, all in one graph if compiled."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: LoRAT, variant: VariantConfig, dtype: torch.dtype) -> None:
        """Hold a network, where it is trained or sharded from; float32 is no autocast."""
        super().__init__()
        self.network, self.dtype = network, dtype
        device = network.token_type_embed.device
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (variant.mean, variant.std))
        self.register_buffer("scale", (1.0 / (255.0 * std)).to(device), persistent=False)
        self.register_buffer("shift", (mean / std).to(device), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn (B, 3, H, W) images on 0 … 255 into (value / 255 - mean) / std, float32."""
        return images.to(torch.float32) * self.scale - self.shift

    def forward(
        self, template: Tensor, search: Tensor, template_mask: Tensor, positive: Tensor, box: Tensor, positives: Tensor
    ) -> Losses:
        """Return the losses of a micro-batch: `Batch.inputs`, and a scalar to divide by."""
        template, search = self.normalise(template), self.normalise(search)
        with torch.autocast(search.device.type, self.dtype, enabled=self.dtype != torch.float32):
            prediction = self.network(template, search, template_mask)
        return tracking_loss(prediction, positive, box, positives)

    def compile_whole(self, device: torch.device, mode: str = "default") -> None:
        """Compile forward pass, loss and gradients in place, at the first step; a `UserError` if `device` cannot."""
        check_compiler(device)
        self.compile(fullgraph=True, dynamic=False, mode=mode)  # micro-batches are of one size


def tracking_loss(prediction: Prediction, positive: Tensor, box: Tensor, positives: Tensor) -> Losses:
    """Compare score logits (B, G, G) and boxes (B, G, G, 4) with the truth; boxes are xyxy in units of the search crop.
    `positive` (B, G, G) bool are the cells inside the object, none in a pair without it; of such a pair `box` (B, 4)
    float32 is not read. `positives` is what to divide by, a scalar float32 above 0: the positive cells of this batch,
    or their mean over ranks or micro-batches of a step.
    """
    logits, boxes = prediction.score_map.float(), prediction.boxes.float()
    # Outside, both boxes become the unit square: no division by zero, and no gradient. It is made on the device: a copy
    # of four numbers would wait there for the whole forward pass.
    inside, unit = positive.unsqueeze(-1), (torch.arange(4, device=box.device) > 1).to(torch.float32)
    iou, giou = box_overlaps(torch.where(inside, boxes, unit), torch.where(inside, box.float()[:, None, None], unit))
    target = torch.where(positive, iou.detach(), 0.0)
    score = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / positives
    regression = torch.where(positive, 1.0 - giou, 0.0).sum() / positives
    return Losses(score + regression, score.detach(), regression.detach())


def box_overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalised IoU (Rezatofighi et al., 2019) of boxes (…, 4) xyxy."""
    (low, high), (low2, high2) = first.split(2, dim=-1), second.split(2, dim=-1)
    intersection = (torch.minimum(high, high2) - torch.maximum(low, low2)).clamp(min=0.0).prod(-1)
    union = (high - low).prod(-1) + (high2 - low2).prod(-1) - intersection
    around = (torch.maximum(high, high2) - torch.minimum(low, low2)).prod(-1).clamp(min=_TINY)
    iou = intersection / union.clamp(min=_TINY)
    return iou, iou - (around - union) / around
