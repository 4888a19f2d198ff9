"""EVA-02: separate query, key and value layers, rotary positions, a gated MLP with a norm.

Parameter names are timm's.
Axes: B batch, T tokens, D channels, H heads, d channels of a head.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from lorat.train.network.blocks.layers import attend, operand, split_heads
from lorat.train.network.blocks.positions import rotate


class RotaryAttention(nn.Module):
    """Multi-head self-attention whose queries and keys are turned by their tokens' places."""

    def __init__(self, q: nn.Module, k: nn.Module, v: nn.Module, proj: nn.Module, heads: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.proj, self.heads = q, k, v, proj, heads

    def forward(self, x: Tensor, skip: int, rotation: Tensor) -> Tensor:
        """Return (B, T - skip, D): what tokens from `skip` on gather from x (B, T, D), turned by a `Rotary.table`."""
        x = operand(x, self.q_proj)
        wholes = self.q_proj(x[:, skip:]), self.k_proj(x), self.v_proj(x)
        query, key, value = (split_heads(whole, self.heads)[0] for whole in wholes)
        gathered = attend(rotate(query, rotation[:, skip:]), rotate(key, rotation), value)
        return self.proj(gathered.transpose(1, 2).flatten(2))


class GatedFeedForward(nn.Module):
    """The gated MLP of EVA-02: two layers side by side, and a norm before the last one."""

    def __init__(self, fc1_g: nn.Module, fc1_x: nn.Module, norm: nn.Module, fc2: nn.Module) -> None:
        super().__init__()
        self.fc1_g, self.fc1_x, self.norm, self.fc2 = fc1_g, fc1_x, norm, fc2

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D)."""
        x = operand(x, self.fc1_g)
        hidden = F.silu(self.fc1_g(x)) * self.fc1_x(x)
        return self.fc2(self.norm(hidden.float()))
