"""What timm knows of a backbone by its name: the plan that it is built from, and its initial values.

Its models are DINOv2, CLIP, MAE (timm's VisionTransformer), EVA-02 and DINOv3 (Eva): EVA's block with one product for
queries, keys and values, and rotary positions that turn the halves of a head's channels.
"""

from typing import Any, Literal

import timm
import torch
from timm.layers import Attention as TimmAttention
from timm.layers import GluMlp, Mlp, PatchEmbed, RotaryEmbeddingCat, RotaryEmbeddingDinoV3, SwiGLU
from timm.layers import LayerNorm as TimmNorm
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lorat.configs.schema import BackboneConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.layers import is_identity
from lorat.train.network.blocks.plan import Activation, ExtraNorm, Plan
from lorat.train.network.blocks.positions import Rotary, sincos_positions
from lorat.train.network.weights.mimetic import mimetic_attention
from lorat.train.network.weights.naming import named_in_memory

_Family = Literal["vit", "eva", "dinov3"]
_ACTIVATIONS: dict[str, Activation] = {"GELU": "gelu", "QuickGELU": "quick_gelu", "SiLU": "silu"}
_CENTRED = {"grid_offset": 0.0, "grid_indexing": "ij", "aug_active": False}
_USUAL = {
    "eva": _CENTRED | {"in_pixels": False, "rotate_half": False},
    "dinov3": _CENTRED | {"normalize_coords": "separate", "rotate_half": True, "min_period": None, "max_period": None},
}
"""Options of timm's rotary positions → the values that a family has."""


def timm_model(config: BackboneConfig) -> tuple[Plan, dict[str, Tensor]]:
    """Let timm build a model and return its plan, and its initial values under names in memory. A ``UserError`` names
    what cannot be computed here.
    """
    model = _create(config)
    plan = _plan(model)
    tensors = named_in_memory(config.timm, model.state_dict())
    for name in ("cls_token", "reg_token", "pos_embed"):
        tensors.pop(name, None)
    tensors |= {f"norm.{name}": tensor for name, tensor in model.norm.state_dict().items()}
    if config.initial_attention == "mimetic":
        if plan.attention == "apart":
            what = "has queries, keys and values apart; set backbone.initial_attention to timm"
            raise UserError(f"backbone {config.timm}: {what}")
        for block in range(plan.depth):
            for name, drawn in mimetic_attention(plan.width, plan.heads)._asdict().items():
                tensors[f"blocks.{block}.attn.{name}.weight"] = drawn
    return plan, tensors | _own_tokens(model, config)


def _plan(model: Any) -> Plan:
    block, patches, family = model.blocks[0], model.patch_embed, _family(model)
    attention, mlp = block.attn, block.mlp
    norms: dict[ExtraNorm, nn.Module] = {"pre": model.norm_pre, "mlp": mlp.norm, "last": model.norm}
    layers = [*attention.named_children(), *mlp.named_children(), ("patch_embed", patches.proj)]
    return Plan(
        width=model.embed_dim,
        depth=len(model.blocks),
        heads=attention.num_heads,
        patch=patches.patch_size[0],
        grid=0 if model.pos_embed is None else patches.grid_size[0],
        class_token=model.cls_token is not None,
        registers=0 if model.reg_token is None else model.reg_token.shape[1],
        attention="apart" if family == "eva" else "joint",
        mlp="eva" if family == "eva" else "swiglu" if isinstance(mlp, GluMlp) else "plain",
        hidden=mlp.fc2.in_features,
        activation=_ACTIVATIONS[type(mlp.act).__name__],
        norms=tuple(place for place, norm in norms.items() if not is_identity(norm)),
        epsilon=block.norm1.eps,
        layer_scale=not is_identity(*_scales(block)),
        unbiased=tuple(
            name for name, layer in layers if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is None
        ),
        rotary=_rotary(getattr(model, "rope", None), family),
    )


def _rotary(rope: Any, family: _Family) -> Rotary | None:
    if family == "vit":
        return None
    if family == "dinov3":
        return Rotary(rope.dim, None, rope.temperature or 0.0, centred=True)
    return Rotary(rope.dim, rope.ref_feat_shape and rope.ref_feat_shape[0], rope.temperature)


def _scales(block: Any) -> tuple[nn.Module | None, nn.Module | None]:
    return (block.gamma_1, block.gamma_2) if isinstance(block, EvaBlock) else (block.ls1, block.ls2)


def _own_tokens(model: Any, config: BackboneConfig) -> dict[str, Tensor]:
    """Return a model's positions (1, N, D) without rows of class and register tokens, and those of the latter that are
    kept (1, P, D), their rows added, where there are any.
    """
    held = {"registers": [model.reg_token], "all": [model.cls_token, model.reg_token]}.get(config.prefix_tokens, [])
    tokens = [token.detach() for token in held if token is not None]
    found = {"prefix_tokens": torch.cat(tokens, dim=1)} if tokens else {}
    if model.pos_embed is None:
        return found
    rows = 0 if model.no_embed_class else model.num_prefix_tokens
    before, positions = model.pos_embed.detach().tensor_split([rows], dim=1)
    if tokens and rows:
        found["prefix_tokens"] = found["prefix_tokens"] + before[:, rows - found["prefix_tokens"].shape[1] :]
    if config.initial_positions == "sincos":
        positions = sincos_positions(positions)
    # A plain clone would keep the stride over the rows left out, at which ranks that average gradients warn.
    return found | {"pos_embed": positions.clone(memory_format=torch.contiguous_format)}


def _family(model: Any) -> _Family:
    if not isinstance(model, Eva):
        return "vit"
    return "dinov3" if isinstance(model.rope, RotaryEmbeddingDinoV3) else "eva"


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
    norms = [part for name, part in model.named_modules() if "norm" in name.rpartition(".")[2]]
    kept = [norm for norm in norms if norm is not model.fc_norm and not is_identity(norm)]
    checks = {
        "no learned positions": model.pos_embed is None and family != "dinov3",
        "learned positions beside rotary ones": model.pos_embed is not None and family == "dinov3",
        "a norm of patches": not is_identity(patches.norm),
        "oblong images or patches": any(side[0] != side[1] for side in (patches.grid_size, patches.patch_size)),
        f"images of {patches.proj.in_channels} channels": patches.proj.in_channels != 3,
        "dropped patches": not is_identity(model.patch_drop),
        "dropout": any(isinstance(part, nn.Dropout) and part.p for part in model.modules()),
        "drop_path_rate (drop_path of the variant)": not all(
            is_identity(getattr(block, "drop_path1", None)) for block in model.blocks
        ),
        "norms other than LayerNorm": any(type(norm) not in (nn.LayerNorm, TimmNorm) for norm in kept),
        "norms of several epsilons": len({getattr(norm, "eps", None) for norm in kept}) > 1,
    }
    inner = set() if family == "vit" else _rotary_obstacles(model.rope, family)
    for block in model.blocks:
        inner |= {text for text, is_there in _block_obstacles(block, family).items() if is_there}
    return [text for text, is_there in checks.items() if is_there] + sorted(inner)


def _rotary_obstacles(rope: Any, family: _Family) -> set[str]:
    """Return what rotary positions have that `Rotary` does not compute."""
    if family == "eva" and type(rope) is not RotaryEmbeddingCat:
        return {f"positions of type {type(rope).__name__}"}
    found = {f"rotary {name}" for name, usual in _USUAL[family].items() if getattr(rope, name, usual) != usual}
    oblong = family == "eva" and len(set(rope.ref_feat_shape or (0,))) > 1
    return found | ({"an oblong reference grid"} if oblong else set())


def _block_obstacles(block: Any, family: _Family) -> dict[str, bool]:
    if type(block) is not (TimmBlock if family == "vit" else EvaBlock):
        return {f"blocks of type {type(block).__name__}": True}
    attention, mlp = block.attn, block.mlp
    kind = TimmAttention if family == "vit" else EvaAttention
    mlps = {"vit": (Mlp, GluMlp), "eva": (SwiGLU,), "dinov3": (Mlp,)}[family]
    if type(attention) is not kind or type(mlp) not in mlps:
        instead = "" if family == "vit" else f" (not EvaAttention with {mlps[0].__name__})"
        return {f"blocks of {type(attention).__name__} with {type(mlp).__name__}{instead}": True}
    gated = isinstance(mlp, GluMlp)
    act = type(mlp.act).__name__
    return _eva_obstacles(block, family) | {
        "query and key norms": not is_identity(attention.q_norm, attention.k_norm),
        "a norm inside attention": not is_identity(getattr(attention, "norm", None)),
        "gated attention": getattr(attention, "gate", None) is not None,
        "a norm inside the MLP": not (family == "eva" or is_identity(mlp.norm)),
        "a gate after its content": gated and mlp.gate_last,
        "a gate other than SiLU": gated and not isinstance(mlp.act, nn.SiLU),
        f"the activation {act}": act not in _ACTIVATIONS or getattr(mlp.act, "approximate", "none") != "none",
    }


def _eva_obstacles(block: Any, family: _Family) -> dict[str, bool]:
    """Return what a block of timm's Eva may have that is not computed here of the family."""
    if family == "vit":
        return {}
    if family == "dinov3":
        return {
            "separate query, key and value": block.attn.qkv is None,
            "biases of query and value (the published ones are zero: take the model without _qkvb)": (
                block.attn.q_bias is not None
            ),
        }
    return {
        "fused query, key and value": block.attn.qkv is not None,
        "half rotations": getattr(block.attn, "rotate_half", False),
        "layer scale": not is_identity(*_scales(block)),
        "another activation than SiLU": not isinstance(block.mlp.act, nn.SiLU),
    }
