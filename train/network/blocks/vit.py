"""The transformer under the tracker: DINOv2, CLIP, MAE (timm's VisionTransformer) and EVA-02 (Eva).

timm builds the modules and their initial values; the forward pass is ours, so that it takes two images at once, skips
what nobody reads, and stays fast in bfloat16 on a processor. Parameter names are the published ones (DINOv2's SwiGLU:
``mlp.w12``, ``mlp.w3``). What this forward pass does not compute, such as query norms, is refused by name.

Number types: matrices may be held in a smaller type; norms, scales, positions and the residual stream stay float32.

Axes: B batch, T tokens, D channels, H heads, d channels of a head, G cells of a side.
"""

from typing import Any

import timm
import torch
from timm.layers import Attention as TimmAttention
from timm.layers import GluMlp, Mlp, PatchEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lorat.configs.schema import BackboneConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks import eva
from lorat.train.network.blocks.layers import (
    Block,
    Dense,
    FeedForward,
    PatchEmbedding,
    SwiGlu,
    attend,
    is_identity,
    split_heads,
)
from lorat.train.network.blocks.positions import Rotary, place_positions, sincos_positions


class Attention(nn.Module):
    """Multi-head self-attention with one product for queries, keys and values."""

    def __init__(self, qkv: nn.Module, proj: nn.Module, heads: int) -> None:
        super().__init__()
        self.qkv = qkv
        self.proj = proj
        self.heads = heads

    def forward(self, x: Tensor, skip: int = 0) -> Tensor:
        """Return (B, T - skip, D): what the tokens from `skip` on gather from all tokens."""
        if skip and isinstance(self.qkv, Dense):
            width = self.qkv.out_features // 3
            asking = self.qkv.outputs(x[:, skip:], 0, width)
            (query,) = split_heads(asking, self.heads)
            key, value = split_heads(self.qkv.outputs(x, width, 3 * width), self.heads, 2)
        else:
            # An adapter merges its pairs into all three weights at once; splitting costs more.
            query, key, value = split_heads(self.qkv(x), self.heads, 3)
            query = query[:, :, skip:]
        gathered = attend(query, key, value)
        return self.proj(gathered.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """The parts of a backbone that the tracker uses, at the backbone's own grid of positions.

    Attributes:
        rotary: the rule of rotary positions, for backbones that have them.
    """

    def __init__(self, config: BackboneConfig, drop_path: float = 0.0) -> None:
        """Let timm build the parts with its initial values.

        Raises:
            UserError: for a model that timm does not know or this network does not compute.
        """
        super().__init__()
        model = _create(config)
        rates = drop_rates(config.layout, drop_path, len(model.blocks))
        is_eva = isinstance(model, Eva)
        read = eva.read_block if is_eva else _read_block
        self.layout = config.layout
        self.rotary: Rotary | None = eva.read_rotary(model) if is_eva else None
        self.patch_embed = PatchEmbedding(model.patch_embed.proj)
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        rows = model.pos_embed.detach()[:, prefix:]
        # A plain clone would keep the stride over the rows left out, at which ranks that average gradients warn.
        self.pos_embed = nn.Parameter(rows.clone(memory_format=torch.contiguous_format))
        if config.initial_positions == "sincos":
            self.pos_embed = nn.Parameter(sincos_positions(self.pos_embed))
        self.norm_pre = model.norm_pre
        self.blocks = nn.ModuleList(map(read, model.blocks, rates))
        self.norm = model.norm

    @property
    def patch_size(self) -> int:
        """Pixels of a patch's side."""
        return self.patch_embed.proj.kernel_size[0]

    def positions_for(self, grid: int) -> Tensor:
        """Return positions (1, M, D) float32 for search crops of grid × grid cells.

        Crops take the top-left `corner` of them; M ≥ grid² (see `place_positions`).
        """
        return place_positions(self.pos_embed.detach(), grid, self.layout)


def drop_rates(layout: str, rate: float, depth: int) -> list[float]:
    """Return each block's drop path rate.

    The official DINOv2 drops every block at the same rate, timm from 0 at the first block linearly to the full rate at
    the last.
    """
    if layout == "official":
        return [rate] * depth
    return [rate * (i / max(depth - 1, 1)) for i in range(depth)]


def _create(config: BackboneConfig) -> Any:
    try:
        model = timm.create_model(config.timm, pretrained=False, num_classes=0, **config.args)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"backbone {config.timm}: timm cannot build it: {error}") from error
    if type(model) not in (VisionTransformer, Eva):
        raise UserError(
            f"backbone {config.timm}: is of type {type(model).__name__}, not VisionTransformer or "
            "Eva; use a DINOv2, CLIP, MAE or EVA-02 model"
        )
    found = _obstacles(model)
    if found:
        raise UserError(
            f"backbone {config.timm}: has {', '.join(found)}, which this network does not compute; "
            "change backbone.args or use a DINOv2, CLIP, MAE or EVA-02 model"
        )
    return model


def _obstacles(model: Any) -> list[str]:
    """Return what the model has that is not computed here; empty where everything is."""
    patches = model.patch_embed
    if type(patches) is not PatchEmbed:
        return [f"patches of type {type(patches).__name__}"]
    checks = {
        "no learned positions": model.pos_embed is None,
        "a norm of patches": not isinstance(patches.norm, nn.Identity),
        "oblong images or patches": any(side[0] != side[1] for side in (patches.grid_size, patches.patch_size)),
        f"images of {patches.proj.in_channels} channels": patches.proj.in_channels != 3,
        "dropped patches": not isinstance(model.patch_drop, nn.Identity | None),
        "dropout": any(isinstance(part, nn.Dropout) and part.p for part in model.modules()),
        "drop_path_rate (drop_path of the variant)": any(
            not isinstance(block.drop_path1, nn.Identity) for block in model.blocks if hasattr(block, "drop_path1")
        ),
    }
    is_eva = isinstance(model, Eva)
    look = eva.block_obstacles if is_eva else _block_obstacles
    inner = {text for block in model.blocks for text in look(block)}
    inner |= eva.rotary_obstacles(model.rope) if is_eva else set()
    return [text for text, is_there in checks.items() if is_there] + sorted(inner)


def _block_obstacles(block: nn.Module) -> list[str]:
    if type(block) is not TimmBlock:
        return [f"blocks of type {type(block).__name__}"]
    attention: Any = block.attn
    mlp: Any = block.mlp
    if type(attention) is not TimmAttention or type(mlp) not in (Mlp, GluMlp):
        return [f"blocks of {type(attention).__name__} with {type(mlp).__name__}"]
    gated = isinstance(mlp, GluMlp)
    checks = {
        "query and key norms": not is_identity(attention.q_norm, attention.k_norm),
        "a norm inside attention": not is_identity(getattr(attention, "norm", None)),
        "gated attention": getattr(attention, "gate", None) is not None,
        "a norm inside the MLP": not is_identity(mlp.norm),
        "a gate after its content": gated and mlp.gate_last,
        "a gate other than SiLU": gated and not isinstance(mlp.act, nn.SiLU),
    }
    return [text for text, is_there in checks.items() if is_there]


def _read_block(block: TimmBlock, drop_path: float) -> Block:
    attention, mlp = block.attn, block.mlp
    fc1, fc2 = Dense.of(mlp.fc1), Dense.of(mlp.fc2)
    return Block(
        Attention(Dense.of(attention.qkv), Dense.of(attention.proj), attention.num_heads),
        SwiGlu(fc1, fc2) if isinstance(mlp, GluMlp) else FeedForward(fc1, mlp.act, fc2),
        norms=(block.norm1, block.norm2),
        scales=(block.ls1, block.ls2),
        drop_path=drop_path,
    )
