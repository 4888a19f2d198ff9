"""Low-rank pairs on frozen linear layers: trained beside them, merged into them for inference.

A layer computes ``x · (W + s·B·A)ᵀ + b`` (Hu et al., 2022). Training forms the sum anew for every product instead of
running x through A and B: for hundreds of tokens a sample that is cheaper than the two thin products, and equal to what
the merged network computes. Under autocast the sum is rounded once, as the weights of a network trained whole are.
Axes: N rows (tokens of all samples), P pairs of a layer, r rank.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lorat.configs.schema import LoraConfig
from lorat.train.network.blocks.layers import (
    Adapter,
    Dense,
    Pairing,
    operand,
    product,
    product_over_rows,
    replace_layers,
    without_autocast,
)
from lorat.train.network.blocks.tmoe import TmoeLinear, init_factors

_TARGETS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("q", "k", "v"),
    **{f"{part}_proj": (part,) for part in "qkv"},
    "proj": ("proj",),
    **dict.fromkeys(("fc1", "fc2", "w12", "w3", "fc1_g", "fc1_x"), ("mlp",)),
}
"""Name of a linear layer in its module → the targets that it computes, several of the same width one after another."""


class LoraLinear(Adapter):
    """A frozen linear layer with trained low-rank pairs: `lora_a` (P·r, in) and `lora_b` (P, out / results, r) hold
    them one after another.
    """

    def __init__(self, linear: nn.Linear, config: LoraConfig, results: tuple[str, ...] = ()) -> None:
        """Take over the tensors of a layer (see `Adapter`)."""
        super().__init__(linear, config, results)
        self.lora_a, self.lora_b = _new_pairs(linear, config, self.pairing)

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, out) for x (…, in), in autocast's number type or else the weight's."""
        return _beside(self, x, self.lora_a, self.lora_b)

    def factors(self) -> dict[str, Tensor]:
        """Return ``lora.A`` and ``lora.B``, of each part where there are several."""
        return _named_pairs(self.parts, self.lora_a, self.lora_b)

    def merged(self) -> Dense:
        """Return the plain frozen layer that computes the same: a sum formed in float32, kept in the weight's type."""
        return _merged(self, self.lora_a, self.lora_b)


class StreamLinear(Adapter):
    """A frozen linear layer with pairs for each of several streams, which have the weight in common (LoRATv2)."""

    def __init__(self, linear: nn.Linear, config: LoraConfig, results: tuple[str, ...], streams: int) -> None:
        """Take over the tensors of a layer (see `Adapter`)."""
        super().__init__(linear, config, results)
        pairs = [_new_pairs(linear, config, self.pairing) for _ in range(streams)]
        self.lora_a, self.lora_b = (nn.ParameterList(factors) for factors in zip(*pairs, strict=True))

    def forward(self, x: Tensor, stream: int) -> Tensor:
        """Return (…, out) for x (…, in) of a stream, in autocast's number type or else the weight's."""
        return _beside(self, x, self.lora_a[stream], self.lora_b[stream])

    def factors(self) -> dict[str, Tensor]:
        """Return ``<stream>.lora.A`` and ``<stream>.lora.B``, of each part where there are several."""
        named = dict[str, Tensor]()
        for stream, pair in enumerate(zip(self.lora_a, self.lora_b, strict=True)):
            named |= {f"{stream}.{name}": factor for name, factor in _named_pairs(self.parts, *pair).items()}
        return named

    def merged(self) -> "Streams":
        """Return plain frozen layers that compute the same, one a stream."""
        return Streams(_merged(self, *pair) for pair in zip(self.lora_a, self.lora_b, strict=True))


class Streams(nn.ModuleList):
    """A plain linear layer for each of several streams."""

    def forward(self, x: Tensor, stream: int) -> Tensor:
        """Return (…, out) for x (…, in) of a stream."""
        return self[stream](x)


def _new_pairs(linear: nn.Linear, config: LoraConfig, pairing: Pairing) -> tuple[nn.Parameter, nn.Parameter]:
    count, out, device = len(pairing.slots), linear.out_features // pairing.results, linear.weight.device
    a = nn.Parameter(torch.empty(count * config.rank, linear.in_features, device=device))
    b = nn.Parameter(torch.empty(count, out, config.rank, device=device))
    init_factors(a, b, config)
    return a, b


def _beside(layer: Adapter, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    x = operand(x, layer)
    if layer.dropout and layer.training:
        return _with_dropout(layer, x, a, b)
    return _MergedProduct.apply(x, layer.weight, layer.bias, a, b, layer.pairing)


def _with_dropout(layer: Adapter, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Run a thinned x, the same for all pairs, through them alone; no merged weight does."""
    pairing, bias = layer.pairing, None if layer.bias is None else layer.bias.to(x.dtype)
    pieces = list(F.linear(x, layer.weight.to(x.dtype), bias).chunk(pairing.results, -1))
    thin = F.linear(F.dropout(x, layer.dropout) * pairing.scale, a.to(x.dtype))
    for slot, part, height in zip(pairing.slots, thin.chunk(len(b), -1), b, strict=True):
        pieces[slot] = pieces[slot] + F.linear(part, height.to(x.dtype))
    return torch.cat(pieces, dim=-1)


def _named_pairs(parts: tuple[str, ...], a: Tensor, b: Tensor) -> dict[str, Tensor]:
    named = dict[str, Tensor]()
    for part, *pair in zip(parts or ("",), a.detach().chunk(len(b)), b.detach(), strict=True):
        named |= {f"{part}.lora.{name}".lstrip("."): factor for name, factor in zip("AB", pair, strict=True)}
    return named


def _merged(layer: Adapter, a: Tensor, b: Tensor) -> Dense:
    weight = _merge(layer.weight.float(), a, b, layer.pairing)
    bias = None if layer.bias is None else layer.bias.detach().clone()
    return Dense.holding(weight.to(layer.weight.dtype), bias).train(layer.training).requires_grad_(False)


def _merge(weight: Tensor, a: Tensor, b: Tensor, pairing: Pairing) -> Tensor:
    """Return W + s·B·A (out, in) in the number type of `weight`."""
    base = weight.detach().view(pairing.results, -1, weight.shape[1])
    b = b.detach().to(weight.dtype)
    a = a.detach().to(weight.dtype).view(len(b), b.shape[2], -1)
    with without_autocast(weight):
        if len(b) == pairing.results:
            return torch.baddbmm(base, b, a, alpha=pairing.scale).view_as(weight)
        parts = list(base)
        for pair, slot in enumerate(pairing.slots):
            parts[slot] = torch.addmm(parts[slot], b[pair], a[pair], alpha=pairing.scale)
        return torch.cat(parts)


class _MergedProduct(torch.autograd.Function):
    """``x · (W + s·B·A)ᵀ + bias`` with gradients for x, A and B only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, pairing: Pairing
    ) -> Tensor:
        merged = _merge(weight, a, b, pairing).to(x.dtype)
        ctx.save_for_backward(x, weight, a, b)  # merging again costs less than keeping the sum
        ctx.pairing = pairing
        return product(x, merged, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight, a, b), pairing = ctx.saved_tensors, ctx.pairing
        with without_autocast(x):
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


def add_adapters(blocks: nn.Module, config: LoraConfig, streams: int = 1) -> None:
    """Replace the linear layers inside `blocks` that the configuration names, in place, by layers with pairs, a set a
    stream where there are several, or with a mixture of experts.
    """

    def adapt(path: str, layer: nn.Linear) -> nn.Module:
        results = _TARGETS[path.rpartition(".")[2]]
        if not set(results) & set(config.targets):
            return layer
        several = results if len(results) > 1 else ()
        if streams > 1:
            return StreamLinear(layer, config, several, streams)
        return (TmoeLinear if config.experts else LoraLinear)(layer, config, several)

    replace_layers(blocks, nn.Linear, adapt)


def merge_adapters(network: nn.Module) -> dict[str, Adapter]:
    """Replace every `Adapter` that can be by plain layers that compute the same; return the replaced, to
    `unmerge_adapters`. A mixture of experts stays: what it adds depends on the token.
    """
    replaced = {path: layer for path, layer in network.named_modules() if isinstance(layer, Adapter)}
    replace_layers(network, Adapter, lambda path, layer: layer.merged())
    return {path: layer for path, layer in replaced.items() if network.get_submodule(path) is not layer}


def unmerge_adapters(network: nn.Module, replaced: Mapping[str, Adapter]) -> None:
    """Undo `merge_adapters`: the very layers come back; they train, or not, as those in their place did last."""
    for path, layer in replaced.items():
        layer.train(network.get_submodule(path).training)
        network.set_submodule(path, layer)
