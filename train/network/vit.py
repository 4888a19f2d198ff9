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

from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import GluMlp, Mlp
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lorat.configs.schema import BackboneConfig
from lorat.shards.errors import UserError

__all__ = [
    "Block",
    "Dense",
    "Transformer",
    "add_residual",
    "attend",
    "resize_positions",
    "sincos_positions",
]


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


def resize_positions(positions: Tensor, grid: int) -> Tensor:
    """Resample a square positional grid: bicubic, no antialiasing, in float32.

    Args:
        positions: (1, N, D), N a square number, rows one after another.
        grid: cells of a side of the result.

    Returns:
        (1, grid², D) float32; `positions` unchanged where the sizes are equal.
    """
    native = _side(positions)
    if native == grid:
        return positions.float()
    image = positions.float().view(1, native, native, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=(grid, grid), mode="bicubic", align_corners=False)
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def sincos_positions(like: Tensor) -> Tensor:
    """Return fixed 2D positions (Chen et al., 2021): sines and cosines of the row and the column.

    Args:
        like: (1, side·side, D) positions whose shape and device to take; D a multiple of 4.
    """
    side, quarter = _side(like), like.shape[-1] // 4
    if like.shape[-1] % 4:
        raise UserError(
            f"initial_positions: sincos needs a width that 4 divides, not {like.shape[-1]}"
        )
    rates = 10000.0 ** (-torch.arange(quarter, device=like.device) / quarter)
    angles = torch.arange(side, device=like.device)[:, None] * rates
    waves = torch.cat((angles.sin(), angles.cos()), dim=1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat((rows, columns), dim=-1).reshape(1, side * side, -1)


def _side(positions: Tensor) -> int:
    return round(positions.shape[1] ** 0.5)


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
