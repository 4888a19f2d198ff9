"""EVA-02: separate query, key and value layers, rotary positions, a gated MLP with a norm.

timm builds the modules; the forward pass here is ours. Parameter names are timm's.
Axes: B batch, T tokens, D channels, H heads, d channels of a head.
"""

from typing import Any

import torch.nn.functional as F
from timm.layers import RotaryEmbeddingCat
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from lorat.train.network.blocks.layers import Block, Dense, attend, operand, split_heads
from lorat.train.network.blocks.positions import Rotary, rotate

_USUAL = {"in_pixels": False, "grid_offset": 0.0, "grid_indexing": "ij", "rotate_half": False, "aug_active": False}
"""Options of timm's rotary positions → the values that EVA-02 has."""


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


def rotary_of(rope: RotaryEmbeddingCat) -> Rotary:
    """Return the rule of timm's rotary positions."""
    return Rotary(rope.dim, rope.ref_feat_shape and rope.ref_feat_shape[0], rope.temperature)


def rotary_obstacles(rope: Any) -> set[str]:
    """Return what rotary positions have that `Rotary` does not compute."""
    if type(rope) is not RotaryEmbeddingCat:
        return {f"positions of type {type(rope).__name__}"}
    found = {f"rotary {name}" for name, usual in _USUAL.items() if getattr(rope, name, usual) != usual}
    return found | ({"an oblong reference grid"} if len(set(rope.ref_feat_shape or (0,))) > 1 else set())


def block_obstacles(block: Any) -> dict[str, bool]:
    """Return what is not computed here of EVA-02 alone → whether a block has it."""
    return {
        "fused query, key and value": block.attn.qkv is not None,
        "half rotations": getattr(block.attn, "rotate_half", False),
        "layer scale": block.gamma_1 is not None or block.gamma_2 is not None,
        "another activation than SiLU": not isinstance(block.mlp.act, nn.SiLU),
    }


def read_block(block: EvaBlock, drop_path: float) -> Block:
    """Return a block in our form."""
    attention, mlp = block.attn, block.mlp
    q, k, v, proj = map(Dense.of, (attention.q_proj, attention.k_proj, attention.v_proj, attention.proj))
    fc1_g, fc1_x, fc2 = map(Dense.of, (mlp.fc1_g, mlp.fc1_x, mlp.fc2))
    return Block(
        RotaryAttention(q, k, v, proj, attention.num_heads),
        GatedFeedForward(fc1_g, fc1_x, mlp.norm, fc2),
        norms=(block.norm1, block.norm2),
        scales=(nn.Identity(), nn.Identity()),
        drop_path=drop_path,
    )
