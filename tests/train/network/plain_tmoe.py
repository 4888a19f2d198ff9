"""A mixture of experts as its formula reads, one expert after the other: the oracle for results and for cost."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorat.train.network.blocks.layers import replace_layers
from lorat.train.network.blocks.tmoe import TmoeLinear


def textbook(layer: TmoeLinear, x: Tensor) -> Tensor:
    """``x·Wᵀ + b + s·Σ_e g_e(x)·(x·Aᵀ)·B_eᵀ``; query, key and value share the frozen product."""
    rank, pieces = layer.plan.rank, list(F.linear(x, layer.weight, layer.bias).chunk(layer.pairing.results, -1))
    for slot, a, b, router in zip(layer.pairing.slots, layer.lora_a, layer.lora_b, layer.lora_router, strict=True):
        gates, inner = F.linear(x, router).softmax(-1), [F.linear(x, first) for first in a.split(rank)]
        for number, expert in enumerate(b.split(rank, 1)):
            gate = gates[..., number : number + 1] if number < len(router) else 1.0
            first = inner[number if layer.plan.own_first else 0]
            pieces[slot] = pieces[slot] + layer.pairing.scale * gate * F.linear(first, expert)
    return torch.cat(pieces, -1)


class PlainExperts(nn.Module):
    """A layer that computes its mixture so."""

    def __init__(self, layer: TmoeLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, out) for x (…, in)."""
        return textbook(self.layer, x)


def make_plain(network: nn.Module) -> None:
    """Put such layers in the place of the network's, in place, around the same tensors."""
    replace_layers(network, TmoeLinear, lambda path, layer: PlainExperts(layer))
