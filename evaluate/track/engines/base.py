"""What an engine computes. Crops come to it as they are cut: float32 RGB on 0 … 255, channels last.

Axes: B batch; h, r and S are the sides of a template, a reference and a search crop; g and G of the two grids.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lorat.configs.schema import VariantConfig
from lorat.train.network.blocks.lorat import OneStream, Tracked
from lorat.train.network.blocks.loratv2 import LoRATv2


class Engine(ABC):
    """A network that is ready to track, in one thread at a time. What goes in and out is on the engine's device."""

    @abstractmethod
    def remember(self, template: Tensor, mask: Tensor) -> Tensor:
        """Return (B, …) what each of templates (B, h, h, 3) with masks (B, g, g), bool, leaves for its sequence."""

    @abstractmethod
    def remember_reference(self, memory: Tensor, reference: Tensor) -> Tensor:
        """Return the whole memories (B, …) of templates' ones and references (B, r, r, 3)."""

    @abstractmethod
    def follow(self, memory: Tensor, search: Tensor, state: Tensor | None = None) -> Tracked:
        """Find the objects of memories (B, …) in search crops (B, S, S, 3), with the states (B, …) that their frames
        before left, where the method carries one.
        """


class TorchEngine(Engine):
    """The network itself, computed by PyTorch."""

    def __init__(self, network: OneStream, variant: VariantConfig, device: torch.device) -> None:
        """Take over a network that is on the device."""
        self.network = network
        mean, std = (torch.tensor(v, dtype=torch.float32) for v in (variant.mean, variant.std))
        self._factor = (1.0 / (255.0 * std)).view(1, 3, 1, 1).to(device)
        self._shift = (-mean / std).view(1, 3, 1, 1).to(device)

    def remember(self, template: Tensor, mask: Tensor) -> Tensor:
        """Return what each template leaves."""
        return self.network.remember(self._normalise(template)[:, None], mask[:, None])

    def remember_reference(self, memory: Tensor, reference: Tensor) -> Tensor:
        """Return the whole memories."""
        assert isinstance(self.network, LoRATv2)
        return self.network.remember_reference(memory, self._normalise(reference))

    def follow(self, memory: Tensor, search: Tensor, state: Tensor | None = None) -> Tracked:
        """Find the objects."""
        return self.network.follow(memory, self._normalise(search), state)

    def _normalise(self, images: Tensor) -> Tensor:
        """Turn (B, H, W, 3) values on 0 … 255 into (B, 3, H, W) float32: (x / 255 − mean) / std."""
        # Planes first, then in place: a third of the time that four passes over pixels take.
        planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return planes.mul_(self._factor).add_(self._shift)
