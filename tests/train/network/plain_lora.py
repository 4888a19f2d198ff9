"""LoRA as its formula reads: the oracle for results, and what cost is compared with.

Query, key and value are layers of their own, each with a pair; frozen weights are float32 and autocast casts them;
attention is PyTorch's; autograd keeps what it likes.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorat.train.network.blocks.layers import replace_layers
from lorat.train.network.blocks.lora import LoraLinear
from lorat.train.network.blocks.vit import Attention


class PlainLora(nn.Module):
    """``x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ``."""

    def __init__(self, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().float().clone(), requires_grad=False)
        self.bias = None
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().float().clone(), requires_grad=False)
        self.a = nn.Parameter(a.detach().clone())
        self.b = nn.Parameter(b.detach().clone())
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        update = F.linear(F.linear(x, self.a), self.b)
        return F.linear(x, self.weight, self.bias) + self.scale * update

    @classmethod
    def parts_of(cls, layer: LoraLinear) -> "list[PlainLora]":
        """Take a layer that has all of its pairs apart."""
        count = len(layer.lora_b)
        biases = [None] * count if layer.bias is None else layer.bias.chunk(count)
        tensors = (layer.weight.chunk(count), biases, layer.lora_a.chunk(count), layer.lora_b)
        return [cls(*part, layer.pairing.scale) for part in zip(*tensors, strict=True)]


class PlainAttention(nn.Module):
    """Self-attention with three layers for query, key and value."""

    def __init__(self, attention: Attention, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.attend = attend
        self.q, self.k, self.v = PlainLora.parts_of(attention.qkv)
        (self.proj,) = PlainLora.parts_of(attention.proj)
        self.heads = attention.heads

    def forward(self, x: Tensor, skip: int = 0) -> Tensor:
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, tokens in ((self.q, x[:, skip:]), (self.k, x), (self.v, x))
        )
        return self.proj(self.attend(query, key, value).transpose(1, 2).flatten(2))


def make_plain(network: nn.Module, attend: Callable[..., Tensor] = F.scaled_dot_product_attention) -> nn.Module:
    """Put plain layers in the place of the network's, in place, with copies of their values."""
    replace_layers(network, Attention, lambda path, layer: PlainAttention(layer, attend))
    replace_layers(network, LoraLinear, lambda path, layer: PlainLora.parts_of(layer)[0])
    return network


def pairs_by_name(network: nn.Module, gradients: bool = False) -> dict[str, torch.Tensor]:
    """Return the pairs, or their gradients, under names that both kinds of network share."""

    def value(parameter: nn.Parameter) -> Tensor:
        return parameter.grad if gradients else parameter.detach()

    found = {}
    for path, layer in network.named_modules():
        name = path.replace("attn.qkv", "attn")
        if isinstance(layer, PlainLora):
            found |= {f"{name}.a": value(layer.a), f"{name}.b": value(layer.b)}
        elif isinstance(layer, LoraLinear):
            names = [f"{name}.{part}" for part in layer.parts] or [name]
            parts = value(layer.lora_a).chunk(len(names))
            for part, a, b in zip(names, parts, value(layer.lora_b), strict=True):
                found |= {f"{part}.a": a, f"{part}.b": b}
    return found
