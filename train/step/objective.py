"""What a training step minimises, from stored crops and labels to losses, as one module.

It is what may be compiled into one graph, and what ranks average the gradients of.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lorat.configs.schema import VariantConfig
from lorat.train.data.batches import normalise, scale_and_shift
from lorat.train.network.blocks.lorat import LoRAT
from lorat.train.network.deploy.compiling import check_compiler
from lorat.train.step.loss import Losses, tracking_loss

__all__ = ["Objective"]


class Objective(nn.Module):
    """Normalises crops, runs the network under autocast and compares with the labels."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: LoRAT, variant: VariantConfig, dtype: torch.dtype) -> None:
        """Hold the network, which stays the caller's.

        Args:
            network: what is trained, on the device that it is trained on or sharded from.
            variant: gives the statistics of its inputs.
            dtype: of autocast; float32 is none.
        """
        super().__init__()
        self.network = network
        self.dtype = dtype
        device = network.token_type_embed.device
        for name, value in zip(
            ("scale", "shift"), scale_and_shift(variant.mean, variant.std), strict=True
        ):
            self.register_buffer(name, value.to(device), persistent=False)

    def forward(
        self,
        template: Tensor,
        search: Tensor,
        template_mask: Tensor,
        positive: Tensor,
        box: Tensor,
        positives: Tensor,
    ) -> Losses:
        """Return the losses of a micro-batch.

        Args:
            template: (B, 3, h, w) uint8.
            search: (B, 3, H, W) uint8.
            template_mask: (B, g, g) bool.
            positive: (B, G, G) bool.
            box: (B, 4) float32, as `tracking_loss` takes it.
            positives: scalar float32 to divide by.
        """
        template = normalise(template, self.scale, self.shift)
        search = normalise(search, self.scale, self.shift)
        autocast = self.dtype != torch.float32
        with torch.autocast(search.device.type, self.dtype, enabled=autocast):
            prediction = self.network(template, search, template_mask)
        return tracking_loss(prediction, positive, box, positives)

    def compile_whole(self, device: torch.device) -> None:
        """Compile forward pass, loss and gradients in place; the first step takes the time.

        Micro-batches are of one size throughout a run, so there is one graph.

        Raises:
            UserError: if nothing can be compiled for `device` here.
        """
        check_compiler(device)
        self.compile(fullgraph=True, dynamic=False)
