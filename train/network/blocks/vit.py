"""The transformer under the tracker: DINOv2, CLIP, MAE (timm's VisionTransformer) and EVA-02 (Eva).

timm builds the modules and their initial values; the forward pass is ours, so that it takes two images at once, skips
what nobody reads, and stays fast in bfloat16 on a processor. Parameter names are the published ones (DINOv2's SwiGLU:
``mlp.w12``, ``mlp.w3``). Number types and axes are those of `layers`; G are cells of a side.
"""

from collections import OrderedDict
from typing import Any

import timm
import torch
from timm.layers import Attention as TimmAttention
from timm.layers import GluMlp, Mlp, PatchEmbed, SwiGLU
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lorat.configs.schema import BackboneConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks import eva
from lorat.train.network.blocks.layers import Block, Dense, PatchEmbedding, SwiGlu, attend, is_identity, split_heads
from lorat.train.network.blocks.positions import Rotary, sincos_positions


class Attention(nn.Module):
    """Multi-head self-attention with one product for queries, keys and values."""

    def __init__(self, qkv: nn.Module, proj: nn.Module, heads: int) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = qkv, proj, heads

    def forward(self, x: Tensor, skip: int = 0) -> Tensor:
        """Return (B, T - skip, D): what the tokens from `skip` on gather from all tokens."""
        if skip and isinstance(self.qkv, Dense):
            width = self.qkv.out_features // 3
            (query,) = split_heads(self.qkv.outputs(x[:, skip:], 0, width), self.heads)
            key, value = split_heads(self.qkv.outputs(x, width, 3 * width), self.heads, 2)
        else:
            # An adapter merges its pairs into all three weights at once; splitting costs more.
            query, key, value = split_heads(self.qkv(x), self.heads, 3)
            query = query[:, :, skip:]
        return self.proj(attend(query, key, value).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """The parts of a backbone that the tracker uses, at its own grid; `rotary` is its rule of rotary positions."""

    def __init__(self, config: BackboneConfig, drop_path: float = 0.0) -> None:
        """Let timm build the parts with its initial values; a ``UserError`` names what cannot be computed here."""
        super().__init__()
        model = _create(config)
        rates = drop_rates(config.layout, drop_path, len(model.blocks))
        is_eva = isinstance(model, Eva)
        self.layout = config.layout
        rope: Any = model.rope if is_eva else None
        reference = rope and rope.ref_feat_shape and rope.ref_feat_shape[0]
        self.rotary: Rotary | None = rope and Rotary(rope.dim, reference, rope.temperature)
        self.patch_embed = PatchEmbedding(model.patch_embed.proj)
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        rows = model.pos_embed.detach()[:, prefix:]
        # A plain clone would keep the stride over the rows left out, at which ranks that average gradients warn.
        self.pos_embed = nn.Parameter(rows.clone(memory_format=torch.contiguous_format))
        if config.initial_positions == "sincos":
            self.pos_embed = nn.Parameter(sincos_positions(self.pos_embed))
        self.norm_pre = model.norm_pre
        self.blocks = nn.ModuleList(map(eva.read_block if is_eva else _read_block, model.blocks, rates))
        self.norm = model.norm

    @property
    def patch_size(self) -> int:
        """Pixels of a patch's side."""
        return self.patch_embed.proj.kernel_size[0]


def drop_rates(layout: str, rate: float, depth: int) -> list[float]:
    """Return each block's drop path rate: the official DINOv2's is the same for all, timm's grows linearly from 0."""
    if layout == "official":
        return [rate] * depth
    return [rate * (i / max(depth - 1, 1)) for i in range(depth)]


def _create(config: BackboneConfig) -> Any:
    try:
        model = timm.create_model(config.timm, pretrained=False, num_classes=0, **config.args)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"backbone {config.timm}: timm cannot build it: {error}") from error
    usable = "use a DINOv2, CLIP, MAE or EVA-02 model"
    if type(model) not in (VisionTransformer, Eva):
        kind = type(model).__name__
        raise UserError(f"backbone {config.timm}: is of type {kind}, not VisionTransformer or Eva; {usable}")
    if found := _obstacles(model):
        what = f"has {', '.join(found)}, which this network does not compute"
        raise UserError(f"backbone {config.timm}: {what}; change backbone.args or {usable}")
    return model


def _obstacles(model: Any) -> list[str]:
    """Return what the model has that is not computed here; empty where everything is."""
    patches = model.patch_embed
    if type(patches) is not PatchEmbed:
        return [f"patches of type {type(patches).__name__}"]
    checks = {
        "no learned positions": model.pos_embed is None,
        "a norm of patches": not is_identity(patches.norm),
        "oblong images or patches": any(side[0] != side[1] for side in (patches.grid_size, patches.patch_size)),
        f"images of {patches.proj.in_channels} channels": patches.proj.in_channels != 3,
        "dropped patches": not is_identity(model.patch_drop),
        "dropout": any(isinstance(part, nn.Dropout) and part.p for part in model.modules()),
        "drop_path_rate (drop_path of the variant)": not all(
            is_identity(getattr(block, "drop_path1", None)) for block in model.blocks
        ),
    }
    is_eva = isinstance(model, Eva)
    inner = eva.rotary_obstacles(model.rope) if is_eva else set()
    for block in model.blocks:
        inner |= {text for text, is_there in _block_obstacles(block, is_eva).items() if is_there}
    return [text for text, is_there in checks.items() if is_there] + sorted(inner)


def _block_obstacles(block: Any, is_eva: bool) -> dict[str, bool]:
    if type(block) is not (EvaBlock if is_eva else TimmBlock):
        return {f"blocks of type {type(block).__name__}": True}
    attention, mlp = block.attn, block.mlp
    known = (EvaAttention, SwiGLU) if is_eva else (TimmAttention, Mlp, GluMlp)
    if type(attention) is not known[0] or type(mlp) not in known[1:]:
        instead = " (not EvaAttention with SwiGLU)" if is_eva else ""
        return {f"blocks of {type(attention).__name__} with {type(mlp).__name__}{instead}": True}
    gated = isinstance(mlp, GluMlp)
    return (eva.block_obstacles(block) if is_eva else {}) | {
        "query and key norms": not is_identity(attention.q_norm, attention.k_norm),
        "a norm inside attention": not is_identity(getattr(attention, "norm", None)),
        "gated attention": getattr(attention, "gate", None) is not None,
        "a norm inside the MLP": not (is_eva or is_identity(mlp.norm)),
        "a gate after its content": gated and mlp.gate_last,
        "a gate other than SiLU": gated and not isinstance(mlp.act, nn.SiLU),
    }


def _read_block(block: TimmBlock, drop_path: float) -> Block:
    attention, mlp = block.attn, block.mlp
    fc1, fc2 = Dense.of(mlp.fc1), Dense.of(mlp.fc2)
    plain = OrderedDict[str, nn.Module](fc1=fc1, act=mlp.act, fc2=fc2)
    return Block(
        Attention(Dense.of(attention.qkv), Dense.of(attention.proj), attention.num_heads),
        SwiGlu(fc1, fc2) if isinstance(mlp, GluMlp) else nn.Sequential(plain),
        norms=(block.norm1, block.norm2),
        scales=(block.ls1, block.ls2),
        drop_path=drop_path,
    )
