"""DINOv3 (Siméoni et al., 2025) in timm's form: EVA's block with one product for queries, keys and values, rotary
positions that turn the halves of a head's channels, and LayerScale. There are no learned positions.

timm builds the modules; `vit` has the forward pass. Its LayerScale stands under DINOv3's own names, ``ls1.gamma``.
"""

from typing import Any

from timm.layers import LayerScale, RotaryEmbeddingDinoV3
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from lorat.train.network.blocks.positions import Rotary

_USUAL = {
    "normalize_coords": "separate",
    "grid_offset": 0.0,
    "grid_indexing": "ij",
    "rotate_half": True,
    "aug_active": False,
    "min_period": None,
    "max_period": None,
}
"""Options of timm's rotary positions → the values that DINOv3 has."""


def rotary_of(rope: RotaryEmbeddingDinoV3) -> Rotary:
    """Return the rule of timm's rotary positions."""
    return Rotary(rope.dim, None, rope.temperature or 0.0, centred=True)


def rotary_obstacles(rope: RotaryEmbeddingDinoV3) -> set[str]:
    """Return what rotary positions have that `Rotary` does not compute."""
    return {f"rotary {name}" for name, usual in _USUAL.items() if getattr(rope, name) != usual}


def block_obstacles(block: Any) -> dict[str, bool]:
    """Return what is not computed here of DINOv3 alone → whether a block has it."""
    return {
        "separate query, key and value": block.attn.qkv is None,
        "biases of query and value (the published ones are zero: take the model without _qkvb)": (
            block.attn.q_bias is not None
        ),
    }


def layer_scales(block: EvaBlock) -> tuple[nn.Module, nn.Module]:
    """Return what scales attention and MLP."""
    return _layer_scale(block.gamma_1), _layer_scale(block.gamma_2)


def _layer_scale(gamma: Tensor | None) -> nn.Module:
    if gamma is None:
        return nn.Identity()
    scale = LayerScale(len(gamma), device=gamma.device)
    scale.gamma = gamma
    return scale
