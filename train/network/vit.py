"""The transformer under the tracker, in the layout of the official DINOv2 files.

timm builds the modules and their initial values; the forward pass here is ours, so that it takes
two images at once, skips what nobody reads, and stays fast in bfloat16 on a processor. Parameter
names are the official ones (SwiGLU: ``mlp.w12``, ``mlp.w3``). Transformers with rotary positions,
normalised queries or a norm before the blocks are refused.

Number types: matrices may be held in a smaller type; norms, scales, positions and the residual
stream stay float32.

Axes: B batch, T tokens, D channels, H heads, d channels of a head, G cells of a side.
"""

from __future__ import annotations

from typing import Any

import timm
from timm.layers import GluMlp, Mlp
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lorat.configs.schema import BackboneConfig
from lorat.shards.errors import UserError
from lorat.train.network.layers import (
    Dense,
    FeedForward,
    PatchEmbedding,
    SwiGlu,
    add_residual,
    attend,
)
from lorat.train.network.positions import sincos_positions

__all__ = ["Block", "Transformer"]


class Attention(nn.Module):
    """Multi-head self-attention with one product for queries, keys and values."""

    def __init__(self, qkv: nn.Module, proj: nn.Module, heads: int) -> None:
        super().__init__()
        self.qkv = qkv
        self.proj = proj
        self.heads = heads

    def forward(self, x: Tensor, skip: int = 0) -> Tensor:
        """Return (B, T - skip, D): what the tokens from `skip` on gather from all tokens."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        gathered = attend(query[:, :, skip:], key, value)
        return self.proj(gathered.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm transformer block made of the parts of timm's."""

    def __init__(self, block: TimmBlock, drop_path: float = 0.0) -> None:
        super().__init__()
        attention, mlp = block.attn, block.mlp
        self.norm1 = block.norm1
        self.attn = Attention(_dense(attention.qkv), _dense(attention.proj), attention.num_heads)
        self.ls1 = block.ls1
        self.norm2 = block.norm2
        self.mlp = (
            SwiGlu(_dense(mlp.fc1), _dense(mlp.fc2))
            if isinstance(mlp, GluMlp)
            else FeedForward(_dense(mlp.fc1), mlp.act, _dense(mlp.fc2))
        )
        self.ls2 = block.ls2
        self.drop_path = drop_path

    def forward(self, x: Tensor, skip: int = 0) -> Tensor:
        """Return the tokens from `skip` on, (B, T - skip, D), after attention to all of x."""
        rate = self.drop_path if self.training else 0.0

        def gather(x: Tensor) -> Tensor:
            return self.ls1(self.attn(self.norm1(x), skip))

        def think(x: Tensor) -> Tensor:
            return self.ls2(self.mlp(self.norm2(x)))

        return add_residual(add_residual(x, gather, rate, skip), think, rate)


def _dense(linear: nn.Linear) -> Dense:
    return Dense.holding(linear.weight, linear.bias)


class Transformer(nn.Module):
    """The parts of a backbone that the tracker uses, at the backbone's own grid of positions."""

    def __init__(self, config: BackboneConfig, drop_path: float = 0.0) -> None:
        """Let timm build the parts with its initial values.

        Raises:
            UserError: for a model that timm does not know or this network cannot use.
        """
        super().__init__()
        model = _create(config)
        self.patch_embed = PatchEmbedding(model.patch_embed.proj)
        self.pos_embed = nn.Parameter(model.pos_embed.detach()[:, _prefix_rows(model) :].clone())
        if config.initial_positions == "sincos":
            self.pos_embed = nn.Parameter(sincos_positions(self.pos_embed))
        self.blocks = nn.ModuleList(Block(block, drop_path) for block in model.blocks)
        self.norm = model.norm

    @property
    def patch_size(self) -> int:
        """Pixels of a patch's side."""
        return self.patch_embed.proj.kernel_size[0]


def _prefix_rows(model: VisionTransformer) -> int:
    return 0 if model.no_embed_class else model.num_prefix_tokens


def _create(config: BackboneConfig) -> VisionTransformer:
    try:
        model = timm.create_model(config.timm, pretrained=False, num_classes=0, **config.args)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"backbone {config.timm}: timm cannot build it: {error}") from error
    if type(model) is not VisionTransformer or not all(map(_is_plain, model.blocks)):
        raise UserError(f"backbone {config.timm}: not a plain vision transformer; use a DINOv2 one")
    odd = [
        name
        for name in ("norm_pre", "patch_drop")
        if not isinstance(getattr(model, name), nn.Identity)
    ]
    if odd or not isinstance(model.patch_embed.norm, nn.Identity) or model.pos_embed is None:
        raise UserError(f"backbone {config.timm}: extra norms are not supported; use a DINOv2 one")
    return model


def _is_plain(block: nn.Module) -> bool:
    """Whether `Block` computes the same as timm's block, dropout aside."""
    if type(block) is not TimmBlock or type(block.mlp) not in (Mlp, GluMlp):
        return False
    attention: Any = block.attn
    mlp: Any = block.mlp
    if isinstance(mlp, GluMlp) and (mlp.gate_last or not isinstance(mlp.act, nn.SiLU)):
        return False
    optional = (attention.q_norm, attention.k_norm, getattr(attention, "norm", None))
    norms = all(part is None or isinstance(part, nn.Identity) for part in (*optional, mlp.norm))
    return norms and getattr(attention, "gate", None) is None
