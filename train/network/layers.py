"""Small parts that every one-stream network here is made of.

Number types: matrices may be held in a smaller type; norms, scales and the residual stream stay
float32.

Axes: B batch, T tokens, D channels, H heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Dense", "FeedForward", "PatchEmbedding", "SwiGlu", "add_residual", "attend"]


class Dense(nn.Linear):
    """A linear layer whose input takes the number type of its weight, unless autocast chooses."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, out) for x (…, in)."""
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.weight.dtype)
        return F.linear(x, self.weight, self.bias)

    @classmethod
    def holding(cls, weight: Tensor, bias: Tensor | None) -> Dense:
        """Wrap tensors that exist; parameters are taken over as they are."""
        layer = cls(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        layer.weight = _parameter(weight)
        layer.register_parameter("bias", None if bias is None else _parameter(bias))
        return layer


def _parameter(tensor: Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)


class PatchEmbedding(nn.Module):
    """A square image becomes a row of tokens, one a patch."""

    def __init__(self, projection: nn.Conv2d) -> None:
        super().__init__()
        self.proj = projection

    def forward(self, images: Tensor) -> Tensor:
        """Return tokens (B, T, D), rows of patches one after another, for (B, 3, height, width)."""
        return self.proj(images.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention.

    Args:
        query: (B, H, T', d).
        key: (B, H, T, d).
        value: (B, H, T, d).

    Returns:
        (B, H, T', d).
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # PyTorch's fused kernel is three times slower here on processors without AMX.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return scores.softmax(-1) @ value
    return F.scaled_dot_product_attention(query, key, value)


class SwiGlu(nn.Module):
    """The gated MLP of ViT-g: silu of one half times the other."""

    def __init__(self, w12: nn.Module, w3: nn.Module) -> None:
        super().__init__()
        self.w12 = w12
        self.w3 = w3

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D)."""
        gate, content = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * content)


class FeedForward(nn.Module):
    """The plain MLP of a block."""

    def __init__(self, fc1: nn.Module, act: nn.Module, fc2: nn.Module) -> None:
        super().__init__()
        self.fc1 = fc1
        self.act = act
        self.fc2 = fc2

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D)."""
        return self.fc2(self.act(self.fc1(x)))


def add_residual(
    x: Tensor, branch: Callable[[Tensor], Tensor], drop_rate: float, skip: int = 0
) -> Tensor:
    """Return ``x[:, skip:] + branch(x)`` under drop path, as DINOv2 trains.

    A rate up to 0.1 zeroes the branch of samples drawn one by one; above it the branch is computed
    for a random part of the batch only, which saves its time. Either way the mean is kept.

    Args:
        x: (B, T, D).
        branch: maps (B', T, D) to (B', T - skip, D), each sample on its own.
        drop_rate: share of samples that go without the branch; 0 outside training.
        skip: leading tokens that the branch leaves out of its result.
    """
    kept, batch = x[:, skip:], x.shape[0]
    if drop_rate == 0.0:
        return kept + branch(x)
    if drop_rate <= 0.1:
        mask = x.new_empty(batch, 1, 1).bernoulli_(1.0 - drop_rate).div_(1.0 - drop_rate)
        return kept + branch(x) * mask
    size = max(int(batch * (1.0 - drop_rate)), 1)
    chosen = torch.randperm(batch, device=x.device)[:size]
    return kept.index_add(0, chosen, branch(x[chosen]).to(x.dtype), alpha=batch / size)
