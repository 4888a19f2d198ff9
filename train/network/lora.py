"""Low-rank pairs on frozen linear layers: trained beside them, merged into them for inference.

A layer computes ``x · (W + s·B·A)ᵀ + b``. Training forms the sum anew for every product instead of
running x through A and B: for hundreds of tokens a sample that is cheaper than the two thin
products, and equal to what the merged network computes. The gradients of A and B come from thin
products; the frozen weight never gets a gradient, and only x is kept for the backward pass.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lorat.configs.schema import LoraConfig
from lorat.train.network.layers import Dense

__all__ = ["LoraLinear", "add_lora", "lora_scale", "merge_lora"]

FUSED = {"qkv": ("q", "k", "v")}
"""Layers that are one product in memory but several with a pair each in files."""


def lora_scale(config: LoraConfig) -> float:
    """Return what multiplies B·A: alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA."""
    return config.alpha / (math.sqrt(config.rank) if config.rslora else config.rank)


class LoraLinear(nn.Module):
    """A frozen linear layer with a trained low-rank pair for each of its P parts.

    The parts split the output evenly (query, key, value) and share the input.

    Attributes:
        weight: (out, in), frozen, in any float type.
        bias: (out,) or None, frozen.
        lora_a: (P·rank, in) float32, the parts one after another.
        lora_b: (P, out / P, rank) float32.
    """

    def __init__(self, linear: nn.Linear, config: LoraConfig, parts: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.parts = parts
        self.scale = lora_scale(config)
        self.dropout = config.dropout
        self.weight = linear.weight.requires_grad_(False)
        self.bias = None if linear.bias is None else linear.bias.requires_grad_(False)
        count, device = max(len(parts), 1), linear.weight.device
        wide, out = linear.in_features, linear.out_features // count
        self.lora_a = nn.Parameter(torch.empty(count * config.rank, wide, device=device))
        self.lora_b = nn.Parameter(torch.empty(count, out, config.rank, device=device))
        nn.init.trunc_normal_(self.lora_a, std=0.02)
        nn.init.trunc_normal_(self.lora_b, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, out) for x (…, in), in autocast's number type or else the weight's."""
        kind = x.device.type
        dtype = (
            torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.weight.dtype
        )
        x = x.to(dtype)
        if self.dropout and self.training:
            return self._with_dropout(x)
        return _MergedProduct.apply(x, self.weight, self.bias, self.lora_a, self.lora_b, self.scale)

    def _with_dropout(self, x: Tensor) -> Tensor:
        """Run a thinned x through the pairs alone, which no merged weight can do."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        a, b = self.lora_a.to(x.dtype), self.lora_b.to(x.dtype)
        thin = F.linear(F.dropout(x, self.dropout), a).unflatten(-1, (b.shape[0], -1))
        update = torch.einsum("...pr,por->...po", thin, b).flatten(-2)
        return F.linear(x, self.weight.to(x.dtype), bias) + self.scale * update

    def merged(self) -> Dense:
        """Return the plain layer that computes the same; summed in float32, kept in weight's type.

        The result is frozen.
        """
        weight = _merge(self.weight.float(), self.lora_a, self.lora_b, self.scale)
        layer = Dense.holding(weight.to(self.weight.dtype), self.bias)
        return layer.requires_grad_(False)


def _merge(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return W + s·B·A (out, in) in the number type of `weight`."""
    parts, out, rank = b.shape
    base = weight.detach().view(parts, out, -1)
    b, a = b.detach().to(weight.dtype), a.detach().to(weight.dtype).view(parts, rank, -1)
    with torch.autocast(weight.device.type, enabled=False):
        return torch.baddbmm(base, b, a, alpha=scale).view_as(weight)


class _MergedProduct(torch.autograd.Function):
    """``x · (W + s·B·A)ᵀ + bias`` with gradients for x, A and B only."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        merged = _merge(weight, a, b, scale).to(x.dtype)
        return F.linear(x, merged, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        parts, rank = b.shape[0], b.shape[2]
        with torch.autocast(x.device.type, enabled=False):
            rows, grad = x.flatten(0, -2), grad.flatten(0, -2)
            grad_x = None
            if ctx.needs_input_grad[0]:
                grad_x = (grad @ _merge(weight, a, b, ctx.scale).to(x.dtype)).view_as(x)
            thin = rows @ a.to(x.dtype).t()
            columns = b.to(x.dtype)
            pieces, grads_b = [], []
            for part, piece in enumerate(grad.chunk(parts, dim=1)):
                pieces.append(piece @ columns[part])
                grads_b.append(piece.t() @ thin[:, part * rank : (part + 1) * rank])
            grad_a = torch.cat(pieces, dim=1).t() @ rows
        return (
            grad_x,
            None,
            None,
            grad_a.to(a.dtype).mul_(ctx.scale),
            torch.stack(grads_b).to(b.dtype).mul_(ctx.scale),
            None,
        )


def add_lora(blocks: nn.Module, config: LoraConfig) -> None:
    """Replace every linear layer inside `blocks` by a `LoraLinear`, in place."""
    for parent, name, layer in _layers(blocks, nn.Linear):
        setattr(parent, name, LoraLinear(layer, config, FUSED.get(name, ())))


def merge_lora(network: nn.Module) -> None:
    """Replace every `LoraLinear` of `network` by the plain layer that computes the same."""
    for parent, name, layer in _layers(network, LoraLinear):
        setattr(parent, name, layer.merged())


def _layers(root: nn.Module, kind: type[nn.Module]) -> list[tuple[nn.Module, str, Any]]:
    return [
        (parent, name, child)
        for parent in root.modules()
        for name, child in parent.named_children()
        if isinstance(child, kind)
    ]
