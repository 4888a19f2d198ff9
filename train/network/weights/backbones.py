"""Where a backbone's pretrained weights come from, and which they are.

The official files and timm's hold the same tensors under slightly different names; both are read into the names in
memory (DINOv2's official ones, timm's for the others). The fingerprint covers the values that the tracker uses, so that
it is the same for either file and for any float type that holds the values exactly.
"""

import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import xxhash
from torch import Tensor, nn

from lorat.configs.schema import BackboneConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.vit import Transformer
from lorat.train.network.weights.containers import check_tensors, read_tensors
from lorat.train.network.weights.published import GATED, renamed

_LOG = logging.getLogger("lorat")
FOLDER_VARIABLE = "LORAT_BACKBONES"
_HUB_FILE = "model.safetensors"
_REGISTERS = frozenset({"reg_token", "register_tokens"})
_UNUSED = r"cls_token|mask_token|reg_token|register_tokens|(head|fc_norm|lm_head|rope)\..*|.*\.rope\..*"
_EVA = {  # its official names → timm's
    r"\.mlp\.w1\.": ".mlp.fc1_g.",
    r"\.mlp\.w2\.": ".mlp.fc1_x.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
    r"\.mlp\.ffn_ln\.": ".mlp.norm.",
    r"\.attn\.([qv])_bias": r".attn.\1_proj.bias",
}


@dataclass(frozen=True, eq=False, slots=True)
class BackboneWeights:
    """A backbone's tensors as in memory, float32; positions without a class token's."""

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
        """Give `transformer` these tensors, of a grid of any size; a ``UserError`` lists those that do not fit."""
        positions, native = self.tensors.get("pos_embed"), transformer.pos_embed
        if positions is not None and positions.dim() == 3:
            transformer.pos_embed = nn.Parameter(native.new_empty(1, positions.shape[1], native.shape[2]))
        check_tensors(self.source, self.tensors, transformer.state_dict())
        transformer.load_state_dict(self.tensors, assign=True)


def load_backbone(config: BackboneConfig, file: Path | None = None) -> BackboneWeights:
    """Find and read the weights: `file`, else a file in ``$LORAT_BACKBONES``, else timm's hub. In the folder the file
    is called ``<timm name>.safetensors`` or ``.pth``, like its folder on the hub, or as its authors call it
    (``dinov2_vitb14_pretrain.pth``). What the hub sent once is kept in its own cache. Where they cannot be had, a
    ``UserError`` says what to fetch and where to put it.
    """
    path = file or _in_folder(config) or _from_hub(config)
    tensors, _ = read_tensors(path)
    registers = sorted(_REGISTERS & tensors.keys())
    if registers and not re.search(r"_reg\d", config.timm):
        what = f"a backbone with register tokens ({registers[0]}), but {config.timm} has none"
        raise UserError(f"{path}: {what}; {how_to_get(config)}")
    return backbone_weights(str(path), tensors)


def backbone_weights(source: str, tensors: Mapping[str, Tensor]) -> BackboneWeights:
    """Bring an official or a timm file's tensors under the names in memory, without those the tracker leaves out."""
    is_eva = "blocks.0.attn.q_proj.weight" in tensors
    table = _EVA if is_eva else GATED if _is_gated(tensors) else {}
    # EVA-02's last norm belongs to its pretraining; timm's model does not have it either.
    unused = re.compile(rf"{_UNUSED}|norm\..*" if is_eva else _UNUSED)
    used = {renamed(name, table): t.detach().float() for name, t in tensors.items() if not unused.fullmatch(name)}
    positions = used.get("pos_embed")
    if positions is not None and positions.dim() == 3:
        # The class token's row comes first where there is one.
        rows = positions.shape[1]
        prefix = next((n for n in (0, 1) if math.isqrt(rows - n) ** 2 == rows - n), None)
        if prefix is None:
            raise UserError(f"{source}: pos_embed has {rows} rows, which is no square grid")
        used["pos_embed"] = positions[:, prefix:].contiguous()
    return BackboneWeights(source, used)


def _is_gated(tensors: Mapping[str, Tensor]) -> bool:
    """Whether timm's MLP halves its width between the layers, which only a gate does."""
    first, second = (tensors.get(f"blocks.0.mlp.fc{number}.weight") for number in (1, 2))
    if first is None or second is None or (first.dim(), second.dim()) != (2, 2):
        return False
    return first.shape[0] == 2 * second.shape[1]


def _in_folder(config: BackboneConfig) -> Path | None:
    name = os.environ.get(FOLDER_VARIABLE)
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"{FOLDER_VARIABLE}={name}: no such folder; make it or unset the variable")
    on_hub, official = ((name or "").rpartition("/")[2] for name in (_hub_place(config), _hub_entry(config).url))
    names = (f"{config.timm}.safetensors", f"{config.timm}.pth", f"{on_hub}.safetensors", official)
    return next((folder / name for name in names if name and (folder / name).is_file()), None)


def _from_hub(config: BackboneConfig) -> Path:
    """Return the file in the hub's cache, downloaded if it is not there."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import logging as hub_logging

    place = _hub_place(config)
    # Asked first: without a network the hub's client tries for half a minute.
    cached = huggingface_hub.try_to_load_from_cache(place, _HUB_FILE)
    if isinstance(cached, str):
        return Path(cached)
    _LOG.info("backbone %s: asking the hub for %s/%s", config.timm, place, _HUB_FILE)
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # each of its attempts would take two lines
    try:
        return Path(huggingface_hub.hf_hub_download(place, _HUB_FILE))
    except (OSError, EntryNotFoundError) as error:
        why = f"its weights are not here and the hub does not give them ({type(error).__name__})"
        raise UserError(f"backbone {config.timm}: {why}; {how_to_get(config)}") from error
    finally:
        hub_logging.set_verbosity(verbosity)


def _hub_entry(config: BackboneConfig) -> Any:
    """Return what timm knows of a model's weights."""
    try:
        entry = timm.models.get_pretrained_cfg(config.timm)
    except RuntimeError as error:
        raise UserError(f"backbone {config.timm}: timm has no such weights ({error})") from None
    if entry is None:
        raise UserError(f"backbone {config.timm}: timm knows no such model; check backbone.timm")
    return entry


def _hub_place(config: BackboneConfig) -> str:
    return _hub_entry(config).hf_hub_id or f"timm/{config.timm}"


def how_to_get(config: BackboneConfig) -> str:
    """Return what to fetch, where from, and where to put it."""
    url = _hub_entry(config).url
    official, suffix = (f" (or {url})", " (.pth for the official file)") if url else ("", "")
    what = f"https://huggingface.co/{_hub_place(config)}/resolve/main/{_HUB_FILE}{official}"
    return (
        f"fetch {what} where there is a network and pass it with --backbone FILE, or put it into the folder that "
        f"{FOLDER_VARIABLE} names, as {config.timm}.safetensors{suffix}"
    )
