"""The transformer under the tracker: DINOv2, CLIP, MAE (timm's VisionTransformer), EVA-02 and DINOv3 (Eva).

timm builds the modules and their initial values; the forward pass is ours, so that it takes two images at once, skips
what nobody reads, and stays fast in bfloat16 on a processor. Parameter names are the published ones (DINOv2's SwiGLU:
``mlp.w12``, ``mlp.w3``). Number types and axes are those of `layers`; G are cells of a side.
"""

from collections import OrderedDict
from types import ModuleType
from typing import Any

import timm
import torch
from timm.layers import Attention as TimmAttention
from timm.layers import GluMlp, Mlp, PatchEmbed, RotaryEmbeddingDinoV3, SwiGLU
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lorat.configs.schema import BackboneConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks import dinov3, eva
from lorat.train.network.blocks.layers import Block, Dense, PatchEmbedding, SwiGlu, attend, is_identity, split_heads
from lorat.train.network.blocks.positions import Rotary, rotate, sincos_positions


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
    """The parts of a backbone that the tracker uses, at its own grid; `rotary` is its rule of rotary positions, and
    `registers` how many register tokens timm's model has, kept among the prefix tokens or not.
    """

    pos_embed: nn.Parameter | None  # (1, N, D)
    prefix_tokens: nn.Parameter | None  # (1, P, D)

    def __init__(self, config: BackboneConfig, drop_path: float = 0.0) -> None:
        """Let timm build the parts with its initial values; a ``UserError`` names what cannot be computed here."""
        super().__init__()
        model = _create(config)
        rates = drop_rates(config.layout, drop_path, len(model.blocks))
        family = _family(model)
        self.config = config
        self.rotary: Rotary | None = family.rotary_of(model.rope) if family else None
        self.patch_embed = PatchEmbedding(model.patch_embed.proj)
        self.registers = 0 if model.reg_token is None else model.reg_token.shape[1]
        positions, prefix = _own_tokens(model, config.prefix_tokens)
        if config.initial_positions == "sincos" and positions is not None:
            positions = sincos_positions(positions)
        self.register_parameter("pos_embed", None if positions is None else nn.Parameter(positions))
        self.register_parameter("prefix_tokens", None if prefix is None else nn.Parameter(prefix))
        self.norm_pre = model.norm_pre
        self.blocks = nn.ModuleList(map(eva.read_block if family is eva else _read_block, model.blocks, rates))
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


def _own_tokens(model: Any, kept: str) -> tuple[Tensor | None, Tensor | None]:
    """Return a model's positions (1, N, D) without rows of class and register tokens, and those of the latter that are
    `kept` (1, P, D), their rows added; None where there are none.
    """
    held = {"registers": [model.reg_token], "all": [model.cls_token, model.reg_token]}.get(kept, [])
    tokens = [token.detach() for token in held if token is not None]
    if model.pos_embed is None:
        return None, torch.cat(tokens, dim=1) if tokens else None
    rows = 0 if model.no_embed_class else model.num_prefix_tokens
    before, positions = model.pos_embed.detach().tensor_split([rows], dim=1)
    prefix = torch.cat(tokens, dim=1) if tokens else None
    if prefix is not None and rows:
        prefix = prefix + before[:, rows - prefix.shape[1] :]
    # A plain clone would keep the stride over the rows left out, at which ranks that average gradients warn.
    return positions.clone(memory_format=torch.contiguous_format), prefix


def _family(model: Any) -> ModuleType | None:
    """Return what reads the blocks and rotary positions of timm's Eva; None for its VisionTransformer."""
    if not isinstance(model, Eva):
        return None
    return dinov3 if isinstance(model.rope, RotaryEmbeddingDinoV3) else eva


def _create(config: BackboneConfig) -> Any:
    try:
        model = timm.create_model(config.timm, pretrained=False, num_classes=0, **config.args)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"backbone {config.timm}: timm cannot build it: {error}") from error
    usable = "use a DINOv2, DINOv3, CLIP, MAE or EVA-02 model"
    if type(model) not in (VisionTransformer, Eva):
        kind = type(model).__name__
        raise UserError(f"backbone {config.timm}: is of type {kind}, not VisionTransformer or Eva; {usable}")
    if config.prefix_tokens == "registers" and model.reg_token is None:
        raise UserError(f"backbone {config.timm}: has no register tokens; set backbone.prefix_tokens to none")
    if config.initial_positions == "sincos" and model.pos_embed is None:
        raise UserError(f"backbone {config.timm}: has no positions to start; set backbone.initial_positions to timm")
    if found := _obstacles(model):
        what = f"has {', '.join(found)}, which this network does not compute"
        raise UserError(f"backbone {config.timm}: {what}; change backbone.args or {usable}")
    return model


def _obstacles(model: Any) -> list[str]:
    """Return what the model has that is not computed here; empty where everything is."""
    patches, family = model.patch_embed, _family(model)
    if type(patches) is not PatchEmbed:
        return [f"patches of type {type(patches).__name__}"]
    checks = {
        "no learned positions": model.pos_embed is None and family is not dinov3,
        "learned positions beside rotary ones": model.pos_embed is not None and family is dinov3,
        "a norm of patches": not is_identity(patches.norm),
        "oblong images or patches": any(side[0] != side[1] for side in (patches.grid_size, patches.patch_size)),
        f"images of {patches.proj.in_channels} channels": patches.proj.in_channels != 3,
        "dropped patches": not is_identity(model.patch_drop),
        "dropout": any(isinstance(part, nn.Dropout) and part.p for part in model.modules()),
        "drop_path_rate (drop_path of the variant)": not all(
            is_identity(getattr(block, "drop_path1", None)) for block in model.blocks
        ),
    }
    inner: set[str] = family.rotary_obstacles(model.rope) if family else set()
    for block in model.blocks:
        inner |= {text for text, is_there in _block_obstacles(block, family).items() if is_there}
    return [text for text, is_there in checks.items() if is_there] + sorted(inner)


def _block_obstacles(block: Any, family: ModuleType | None) -> dict[str, bool]:
    if type(block) is not (EvaBlock if family else TimmBlock):
        return {f"blocks of type {type(block).__name__}": True}
    attention, mlp = block.attn, block.mlp
    kind = EvaAttention if family else TimmAttention
    mlps = (SwiGLU,) if family is eva else (Mlp,) if family else (Mlp, GluMlp)
    if type(attention) is not kind or type(mlp) not in mlps:
        instead = f" (not EvaAttention with {mlps[0].__name__})" if family else ""
        return {f"blocks of {type(attention).__name__} with {type(mlp).__name__}{instead}": True}
    gated = isinstance(mlp, GluMlp)
    return (family.block_obstacles(block) if family else {}) | {
        "query and key norms": not is_identity(attention.q_norm, attention.k_norm),
        "a norm inside attention": not is_identity(getattr(attention, "norm", None)),
        "gated attention": getattr(attention, "gate", None) is not None,
        "a norm inside the MLP": not (family is eva or is_identity(mlp.norm)),
        "a gate after its content": gated and mlp.gate_last,
        "a gate other than SiLU": gated and not isinstance(mlp.act, nn.SiLU),
    }


def _read_block(block: TimmBlock | EvaBlock, drop_path: float) -> Block:
    attention, mlp = block.attn, block.mlp
    fc1, fc2 = Dense.of(mlp.fc1), Dense.of(mlp.fc2)
    plain = OrderedDict[str, nn.Module](fc1=fc1, act=mlp.act, fc2=fc2)
    return Block(
        Attention(Dense.of(attention.qkv), Dense.of(attention.proj), attention.num_heads),
        SwiGlu(fc1, fc2) if isinstance(mlp, GluMlp) else nn.Sequential(plain),
        norms=(block.norm1, block.norm2),
        scales=dinov3.layer_scales(block) if isinstance(block, EvaBlock) else (block.ls1, block.ls2),
        drop_path=drop_path,
    )
