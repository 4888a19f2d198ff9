"""Low-rank pairs on frozen linear layers: trained beside them, merged into them for inference.

A layer computes ``x · (W + s·B·A)ᵀ + b`` (Hu et al., 2022). Training forms the sum anew for every product instead of
running x through A and B: for hundreds of tokens a sample that is cheaper than the two thin products, and equal to what
the merged network computes. Under autocast the sum is rounded once, as the weights of a network trained whole are.
Axes: N rows (tokens of all samples), P pairs of a layer, r rank.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lorat.configs.schema import LoraConfig
from lorat.train.network.blocks.layers import Dense, autocasts, operand, product, product_over_rows, replace_layers

_TARGETS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("q", "k", "v"),
    **{f"{part}_proj": (part,) for part in "qkv"},
    "proj": ("proj",),
    **dict.fromkeys(("fc1", "fc2", "w12", "w3", "fc1_g", "fc1_x"), ("mlp",)),
}
"""Name of a linear layer in its module → the targets that it computes, several of the same width one after another."""


def lora_scale(config: LoraConfig) -> float:
    """Return what multiplies B·A: alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA."""
    return config.alpha / (math.sqrt(config.rank) if config.rslora else config.rank)


class _Pairing(NamedTuple):
    """Which rows of a weight its pairs are for: those of the parts numbered `slots`, of `results` of equal height."""

    slots: tuple[int, ...]
    results: int
    scale: float  # what multiplies B·A


class LoraLinear(nn.Module):
    """A frozen linear layer with trained low-rank pairs. Several results side by side (query, key, value) may share the
    input; each has a pair of its own, or none if it is no target. Weight (out, in) and bias (out,) or None are frozen,
    in any float type; `lora_a` (P·r, in) and `lora_b` (P, out / results, r), float32, hold the pairs one after another.
    `parts` names the results that have a pair, in order; it is empty where there is one result.
    """

    def __init__(self, linear: nn.Linear, config: LoraConfig, results: tuple[str, ...] = ()) -> None:
        """Take over the tensors of a layer; where it has several results, name them, one or more of them targets."""
        super().__init__()
        slots = tuple(i for i, name in enumerate(results) if name in config.targets) or (0,)
        self.pairing = _Pairing(slots, max(len(results), 1), lora_scale(config))
        self.parts = tuple(results[slot] for slot in slots if results)
        self.dropout = config.dropout
        self.weight = linear.weight.requires_grad_(False)
        self.bias = None if linear.bias is None else linear.bias.requires_grad_(False)
        out, device = linear.out_features // self.pairing.results, linear.weight.device
        self.lora_a = nn.Parameter(torch.empty(len(slots) * config.rank, linear.in_features, device=device))
        self.lora_b = nn.Parameter(torch.empty(len(slots), out, config.rank, device=device))
        nn.init.trunc_normal_(self.lora_a, std=0.02)
        nn.init.trunc_normal_(self.lora_b, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, out) for x (…, in), in autocast's number type or else the weight's."""
        x = operand(x, self)
        if self.dropout and self.training:
            return self._with_dropout(x)
        return _MergedProduct.apply(x, self.weight, self.bias, self.lora_a, self.lora_b, self.pairing)

    def _with_dropout(self, x: Tensor) -> Tensor:
        """Run a thinned x, the same for all pairs, through them alone; no merged weight does."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        pieces = list(F.linear(x, self.weight.to(x.dtype), bias).chunk(self.pairing.results, -1))
        thin = F.linear(F.dropout(x, self.dropout) * self.pairing.scale, self.lora_a.to(x.dtype))
        for slot, part, b in zip(self.pairing.slots, thin.chunk(len(self.lora_b), -1), self.lora_b, strict=True):
            pieces[slot] = pieces[slot] + F.linear(part, b.to(x.dtype))
        return torch.cat(pieces, dim=-1)

    def merged(self) -> Dense:
        """Return the plain frozen layer that computes the same: a sum formed in float32, kept in the weight's type."""
        weight = _merge(self.weight.float(), self.lora_a, self.lora_b, self.pairing)
        bias = None if self.bias is None else self.bias.detach().clone()
        return Dense.holding(weight.to(self.weight.dtype), bias).train(self.training).requires_grad_(False)


def _merge(weight: Tensor, a: Tensor, b: Tensor, pairing: _Pairing) -> Tensor:
    """Return W + s·B·A (out, in) in the number type of `weight`."""
    base = weight.detach().view(pairing.results, -1, weight.shape[1])
    b = b.detach().to(weight.dtype)
    a = a.detach().to(weight.dtype).view(len(b), b.shape[2], -1)
    with _no_autocast(weight):
        if len(b) == pairing.results:
            return torch.baddbmm(base, b, a, alpha=pairing.scale).view_as(weight)
        parts = list(base)
        for pair, slot in enumerate(pairing.slots):
            parts[slot] = torch.addmm(parts[slot], b[pair], a[pair], alpha=pairing.scale)
        return torch.cat(parts)


def _no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()


class _MergedProduct(torch.autograd.Function):
    """``x · (W + s·B·A)ᵀ + bias`` with gradients for x, A and B only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, pairing: _Pairing
    ) -> Tensor:
        merged = _merge(weight, a, b, pairing).to(x.dtype)
        ctx.save_for_backward(x, weight, a, b)  # merging again costs less than keeping the sum
        ctx.pairing = pairing
        return product(x, merged, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight, a, b), pairing = ctx.saved_tensors, ctx.pairing
        with _no_autocast(x):
            rows, grad = x.flatten(0, -2), grad.flatten(0, -2)
            merged = _merge(weight, a, b, pairing).to(x.dtype) if ctx.needs_input_grad[0] else None
            grad_x = None if merged is None else product(grad, merged.t()).view_as(x)
            thin = product(rows, a.to(x.dtype)).chunk(len(b), dim=1)
            columns, parts = b.to(x.dtype), grad.chunk(pairing.results, dim=1)
            pieces = [product(parts[slot], columns[pair].t()) for pair, slot in enumerate(pairing.slots)]
            grad_b = torch.stack(
                [product_over_rows(parts[slot], thin[pair]) for pair, slot in enumerate(pairing.slots)]
            )
            grad_a = product_over_rows(rows, torch.cat(pieces, dim=1)).t()
        grad_a, grad_b = (
            g.to(p.dtype, memory_format=torch.contiguous_format).mul_(pairing.scale)
            for g, p in ((grad_a, a), (grad_b, b))
        )
        return grad_x, None, None, grad_a, grad_b, None


def add_lora(blocks: nn.Module, config: LoraConfig) -> None:
    """Replace the linear layers inside `blocks` that the configuration names, in place."""

    def adapt(path: str, layer: nn.Linear) -> nn.Module:
        results = _TARGETS[path.rpartition(".")[2]]
        if not set(results) & set(config.targets):
            return layer
        return LoraLinear(layer, config, results if len(results) > 1 else ())

    replace_layers(blocks, nn.Linear, adapt)


def merge_lora(network: nn.Module) -> dict[str, LoraLinear]:
    """Replace every `LoraLinear` by the plain layer that computes the same; return the replaced, to `unmerge_lora`."""
    replaced = {path: layer for path, layer in network.named_modules() if isinstance(layer, LoraLinear)}
    replace_layers(network, LoraLinear, lambda path, layer: layer.merged())
    return replaced


def unmerge_lora(network: nn.Module, replaced: Mapping[str, LoraLinear]) -> None:
    """Undo `merge_lora`: the very layers come back; they train, or not, as those in their place did last."""
    for path, layer in replaced.items():
        layer.train(network.get_submodule(path).training)
        network.set_submodule(path, layer)
