"""Attention that starts as trained attention looks: tokens attend to tokens like themselves.

In trained transformers queries · keys and values · projection are, as products over the width, near a multiple of the
identity plus noise, of the latter a negative one. To start there spares a network trained from scratch much of the time
in which it learns to compare patches (Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers", ICML
2023, whose constants these are).
"""

from typing import NamedTuple

import torch
from torch import Tensor

_COMPARE, _MIX = 0.7, 0.4  # of queries · keys, and of values · projection: share of the noise and of the identity alike


class AttentionMatrices(NamedTuple):
    """Matrices of one layer, as `torch.nn.Linear` holds them."""

    qkv: Tensor  # (3D, D)
    proj: Tensor  # (D, D)


def mimetic_attention(width: int, heads: int) -> AttentionMatrices:
    """Draw the matrices of a layer of D = `width` from torch's generator of the CPU, float32. Of each head, keys' and
    queries' rows are the nearest factors, of its few channels, of its own draw.
    """
    channels = width // heads
    pairs = [tuple(factor[:channels] for factor in _factors(_COMPARE, _COMPARE, width)) for _ in range(heads)]
    values, projection = _factors(_MIX, -_MIX, width)
    queries, keys = (torch.cat(part) for part in zip(*pairs, strict=True))
    return AttentionMatrices(torch.cat([queries, keys, values]), projection.T.contiguous())


def _factors(noise: float, identity: float, width: int) -> tuple[Tensor, Tensor]:
    """Return (D, D) A and B, their rows in falling order of weight, whose product Aᵀ B is a draw."""
    drawn = noise * torch.randn(width, width) / width**0.5 + identity * torch.eye(width)
    left, weights, right = torch.linalg.svd(drawn)
    root = weights.sqrt()
    return (left * root).T.contiguous(), (right.T * root).T.contiguous()
