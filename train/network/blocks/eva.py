"""EVA-02: separate query, key and value layers, rotary positions, a gated MLP with a norm.

timm builds the modules; the forward pass here is ours. Parameter names are timm's.
Axes: B batch, T tokens, D channels, H heads, d channels of a head.
"""

from typing import Any

import torch.nn.functional as F
from timm.layers import RotaryEmbeddingCat, SwiGLU
from timm.models.eva import Eva, EvaAttention, EvaBlock
from torch import Tensor, nn

from lorat.train.network.blocks.layers import Block, Dense, attend, is_identity, operand, split_heads
from lorat.train.network.blocks.positions import Rotary, rotate

_USUAL = {"in_pixels": False, "grid_offset": 0.0, "grid_indexing": "ij", "rotate_half": False, "aug_active": False}
"""Options of timm's rotary positions → the values that EVA-02 has."""


class RotaryAttention(nn.Module):
    """Multi-head self-attention whose queries and keys are turned by their tokens' places."""

    def __init__(self, q: nn.Module, k: nn.Module, v: nn.Module, proj: nn.Module, heads: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.proj = q, k, v, proj
        self.heads = heads

    def forward(self, x: Tensor, skip: int, rotation: Tensor) -> Tensor:
        """Return (B, T - skip, D): what the tokens from `skip` on gather from all tokens of x (B, T, D). The rotation
        holds (2, T, d / 2) sines and cosines (see `Rotary.table`).
        """
        x = operand(x, self.q_proj)
        (query,) = split_heads(self.q_proj(x[:, skip:]), self.heads)
        (key,) = split_heads(self.k_proj(x), self.heads)
        (value,) = split_heads(self.v_proj(x), self.heads)
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


def rotary_obstacles(rope: Any) -> set[str]:
    """Return what rotary positions have that `Rotary` does not compute."""
    if type(rope) is not RotaryEmbeddingCat:
        return {f"positions of type {type(rope).__name__}"}
    found = {f"rotary {name}" for name, usual in _USUAL.items() if getattr(rope, name, usual) != usual}
    return found | ({"an oblong reference grid"} if len(set(rope.ref_feat_shape or (0,))) > 1 else set())


def block_obstacles(block: nn.Module) -> dict[str, bool]:
    """Return what is not computed here → whether a block has it."""
    if type(block) is not EvaBlock:
        return {f"blocks of type {type(block).__name__}": True}
    attention: Any = block.attn
    mlp: Any = block.mlp
    if type(attention) is not EvaAttention or type(mlp) is not SwiGLU:
        kinds = f"{type(attention).__name__} with {type(mlp).__name__}"
        return {f"blocks of {kinds} (not EvaAttention with SwiGLU)": True}
    return {
        "fused query, key and value": attention.qkv is not None,
        "query and key norms": not is_identity(attention.q_norm, attention.k_norm),
        "a norm inside attention": not is_identity(attention.norm),
        "gated attention": getattr(attention, "gate", None) is not None,
        "half rotations": getattr(attention, "rotate_half", False),
        "layer scale": block.gamma_1 is not None or block.gamma_2 is not None,
        "another activation than SiLU": not isinstance(mlp.act, nn.SiLU),
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


def read_rotary(model: Eva) -> Rotary:
    """Return the rule of the model's rotary positions."""
    rope = model.rope
    return Rotary(rope.dim, rope.ref_feat_shape and rope.ref_feat_shape[0], rope.temperature)
