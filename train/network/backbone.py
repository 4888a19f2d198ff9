"""Where a backbone's pretrained weights come from, and which they are.

The official DINOv2 files and timm's hold the same tensors under slightly different names; both are
read into the official names. The fingerprint covers the values that the tracker uses, so that it
is the same for either file and for any float type that holds the values exactly.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import xxhash
from torch import Tensor, nn

from lorat.configs.schema import BackboneConfig
from lorat.shards.errors import UserError
from lorat.train.network.files import check_tensors, read_tensors
from lorat.train.network.vit import Transformer

__all__ = ["BackboneWeights", "backbone_weights", "load_backbone"]

FOLDER_VARIABLE = "LORAT_BACKBONES"
_UNUSED = frozenset({"cls_token", "mask_token", "reg_token", "register_tokens"})
_OFFICIAL = {".mlp.fc1.": ".mlp.w12.", ".mlp.fc2.": ".mlp.w3."}
"""timm's names of the SwiGLU layers → the official ones."""


@dataclass(frozen=True, eq=False, slots=True)
class BackboneWeights:
    """A backbone's tensors under official names, float32; positions without a class token's."""

    source: str
    tensors: dict[str, Tensor]

    def fingerprint(self) -> str:
        """Hash names, shapes and float32 values, in the order of names."""
        digest = xxhash.xxh3_128()
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {tuple(tensor.shape)};".encode())
            digest.update(tensor.contiguous().numpy().data)
        return f"xxh3:{digest.hexdigest()}"

    def load_into(self, transformer: Transformer) -> None:
        """Give `transformer` these tensors; its grid of positions may differ in size.

        Raises:
            UserError: lists missing, unexpected and misshapen tensors by name.
        """
        positions, native = self.tensors.get("pos_embed"), transformer.pos_embed
        if positions is not None and positions.dim() == 3:
            rows = native.new_empty(1, positions.shape[1], native.shape[2])
            transformer.pos_embed = nn.Parameter(rows)
        check_tensors(self.source, self.tensors, transformer.state_dict())
        transformer.load_state_dict(self.tensors, assign=True)


def load_backbone(config: BackboneConfig, file: Path | None = None) -> BackboneWeights:
    """Find and read the weights: `file`, else ``$LORAT_BACKBONES/<timm name>``, else timm's hub.

    Raises:
        UserError: if they cannot be had; says what to fetch and where to put it.
    """
    file = file or _in_folder(config)
    if file is not None:
        return backbone_weights(str(file), read_tensors(file)[0])
    try:
        model = timm.create_model(config.timm, pretrained=True, num_classes=0, **config.args)
    except OSError as error:
        raise UserError(_how_to_get(config)) from error
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"backbone {config.timm}: timm cannot load it: {error}") from error
    return backbone_weights(config.timm, model.state_dict())


def backbone_weights(source: str, tensors: Mapping[str, Tensor]) -> BackboneWeights:
    """Bring a backbone's tensors into official names, without those the tracker leaves out.

    Args:
        source: what error messages call the file.
        tensors: of an official or a timm file.
    """
    gated = any(".mlp.w12." in name for name in tensors) or _is_gated(tensors)
    used = {}
    for name, tensor in tensors.items():
        if name in _UNUSED or name.startswith("head."):
            continue
        if gated:
            for theirs, official in _OFFICIAL.items():
                name = name.replace(theirs, official)
        used[name] = tensor.detach().float()
    positions = used.get("pos_embed")
    if positions is not None and positions.dim() == 3:
        used["pos_embed"] = _grid_only(source, positions)
    return BackboneWeights(source, used)


def _is_gated(tensors: Mapping[str, Tensor]) -> bool:
    """Whether timm's MLP halves its width between the layers, which only a gate does."""
    first = tensors.get("blocks.0.mlp.fc1.weight")
    second = tensors.get("blocks.0.mlp.fc2.weight")
    return first is not None and second is not None and first.shape[0] == 2 * second.shape[1]


def _grid_only(source: str, positions: Tensor) -> Tensor:
    """Drop the class token's row, which comes first where there is one."""
    for prefix in (0, 1):
        rows = positions.shape[1] - prefix
        if math.isqrt(rows) ** 2 == rows:
            return positions[:, prefix:].contiguous()
    raise UserError(f"{source}: pos_embed has {positions.shape[1]} rows, which is no square grid")


def _in_folder(config: BackboneConfig) -> Path | None:
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    candidates = (Path(folder) / f"{config.timm}{suffix}" for suffix in (".safetensors", ".pth"))
    return next((path for path in candidates if path.is_file()), None)


def _how_to_get(config: BackboneConfig) -> str:
    cfg = timm.models.get_pretrained_cfg(config.timm)
    hub = getattr(cfg, "hf_hub_id", None) or f"timm/{config.timm}"
    official = f" (or {cfg.url})" if getattr(cfg, "url", None) else ""
    return (
        f"backbone {config.timm}: its weights are not here and the hub cannot be reached; fetch "
        f"https://huggingface.co/{hub}/resolve/main/model.safetensors{official} elsewhere and pass "
        f"it with --backbone FILE, or put it into ${FOLDER_VARIABLE} as {config.timm}.safetensors "
        "(.pth for the official file)"
    )
