"""The transformer under the tracker: DINOv2, CLIP, MAE, EVA-02 and DINOv3.

The modules are ours, so that a forward pass takes two images at once, skips what nobody reads, and stays fast in
bfloat16 on a processor. Parameter names are the published ones (DINOv2's SwiGLU: ``mlp.w12``, ``mlp.w3``; DINOv3's
LayerScale: ``ls1.gamma``). Number types and axes are those of `layers`; G are cells of a side.
"""

import torch
from torch import Tensor, nn

from lorat.configs.schema import BackboneConfig
from lorat.train.network.blocks.eva import GatedFeedForward, RotaryAttention
from lorat.train.network.blocks.layers import (
    Block,
    Dense,
    FeedForward,
    LayerScale,
    PatchEmbedding,
    QuickGelu,
    SwiGlu,
    attend,
    split_heads,
)
from lorat.train.network.blocks.plan import Activation, ExtraNorm, Plan
from lorat.train.network.blocks.positions import rotate

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"gelu": nn.GELU, "quick_gelu": QuickGelu, "silu": nn.SiLU}


class Attention(nn.Module):
    """Multi-head self-attention with one product for queries, keys and values."""

    def __init__(self, qkv: nn.Module, proj: nn.Module, heads: int) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = qkv, proj, heads

    def forward(self, x: Tensor, skip: int = 0, rotation: Tensor | None = None) -> Tensor:
        """Return (B, T - skip, D): what tokens from `skip` on gather from all, where DINOv3 turns them by a table of
        `Rotary`.
        """
        if skip and isinstance(self.qkv, Dense):
            width = self.qkv.out_features // 3
            (query,) = split_heads(self.qkv.outputs(x[:, skip:], 0, width), self.heads)
            key, value = split_heads(self.qkv.outputs(x, width, 3 * width), self.heads, 2)
        else:
            # An adapter merges its pairs into all three weights at once; splitting costs more.
            query, key, value = split_heads(self.qkv(x), self.heads, 3)
            query = query[:, :, skip:]
        if rotation is not None:
            query, key = rotate(query, rotation[:, skip:], halves=True), rotate(key, rotation, halves=True)
        return self.proj(attend(query, key, value).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """The parts of a backbone that the tracker uses. They are on the meta device until they are given tensors."""

    pos_embed: nn.Parameter | None  # (1, N, D)
    prefix_tokens: nn.Parameter | None  # (1, P, D): the backbone's own tokens that are kept

    def __init__(self, plan: Plan, config: BackboneConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        self.plan, self.config, width = plan, config, plan.width
        kept = {"registers": plan.registers, "all": plan.registers + plan.class_token}.get(config.prefix_tokens, 0)
        with torch.device("meta"):
            biased = "patch_embed" not in plan.unbiased
            self.patch_embed = PatchEmbedding(nn.Conv2d(3, width, plan.patch, plan.patch, bias=biased))
            for name, rows in (("pos_embed", plan.grid**2), ("prefix_tokens", kept)):
                self.register_parameter(name, nn.Parameter(torch.empty(1, rows, width)) if rows else None)
            self.norm_pre = _norm(plan, "pre")
            rates = drop_rates(config.layout, drop_path, plan.depth)
            self.blocks = nn.ModuleList(_block(plan, rate) for rate in rates)
            self.norm = _norm(plan, "last")


def drop_rates(layout: str, rate: float, depth: int) -> list[float]:
    """Return each block's drop path rate: the official DINOv2's is the same for all, timm's grows linearly from 0."""
    if layout == "official":
        return [rate] * depth
    return [rate * (i / max(depth - 1, 1)) for i in range(depth)]


def _norm(plan: Plan, place: ExtraNorm) -> nn.Module:
    if place not in plan.norms:
        return nn.Identity()
    return nn.LayerNorm(plan.hidden if place == "mlp" else plan.width, eps=plan.epsilon)


def _block(plan: Plan, drop_path: float) -> Block:
    def dense(name: str, inputs: int, outputs: int) -> Dense:
        return Dense(inputs, outputs, bias=name not in plan.unbiased)

    width, hidden = plan.width, plan.hidden
    attention: nn.Module
    if plan.attention == "joint":
        attention = Attention(dense("qkv", width, 3 * width), dense("proj", width, width), plan.heads)
    else:
        q, k, v, proj = (dense(name, width, width) for name in ("q_proj", "k_proj", "v_proj", "proj"))
        attention = RotaryAttention(q, k, v, proj, plan.heads)
    last = dense("fc2", hidden, width)
    mlp: nn.Module
    if plan.mlp == "eva":
        gate, content = dense("fc1_g", width, hidden), dense("fc1_x", width, hidden)
        mlp = GatedFeedForward(gate, content, _norm(plan, "mlp"), last)
    elif plan.mlp == "swiglu":
        mlp = SwiGlu(dense("fc1", width, 2 * hidden), last)
    else:
        first, activation = dense("fc1", width, hidden), _ACTIVATIONS[plan.activation]()
        mlp = FeedForward(first, activation, last)
    return Block(
        attention,
        mlp,
        norms=(nn.LayerNorm(width, eps=plan.epsilon), nn.LayerNorm(width, eps=plan.epsilon)),
        scales=(LayerScale(width), LayerScale(width)) if plan.layer_scale else (nn.Identity(), nn.Identity()),
        drop_path=drop_path,
    )
