"""Where a backbone's pretrained weights come from, and which they are.

The official files, timm's and transformers' hold the same tensors under different names (`naming`). The fingerprint
covers the values that the tracker uses, so that it is the same for all of them and for any float type that holds the
values exactly.
"""

import logging
import math
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lorat.configs.schema import BackboneConfig
from lorat.shards.base.errors import UserError, some
from lorat.shards.base.waiting import fulfil, waiting
from lorat.train.network.blocks.vit import Transformer
from lorat.train.network.weights.containers import check_tensors, fingerprint, read_tensors
from lorat.train.network.weights.naming import TYPES, named_in_memory

_LOG = logging.getLogger("lorat")
FOLDER_VARIABLE = "LORAT_BACKBONES"
_HUB_FILE = "model.safetensors"
_HUB_ANSWER = 10.0  # seconds


@dataclass(frozen=True, eq=False, slots=True)
class BackboneWeights:
    """A backbone's tensors as in memory, float32; positions without a class token's."""

    source: str
    tensors: dict[str, Tensor]
    registers: int | None = None  # how many register tokens the file has, used or not; None where it does not say

    def fingerprint(self) -> str:
        """Hash the tensors."""
        return fingerprint(self.tensors)

    def load_into(self, transformer: Transformer) -> None:
        """Give `transformer` these tensors, of a grid of any size; a ``UserError`` lists those that do not fit."""
        if self.registers not in (None, transformer.plan.registers):
            what = f"a backbone with {self.registers} register tokens, but {transformer.config.timm} has "
            what += f"{transformer.plan.registers}, and blocks are trained with theirs"
            raise UserError(f"{self.source}: {what}; {how_to_get(transformer.config)}")
        positions, native = self.tensors.get("pos_embed"), transformer.pos_embed
        if positions is not None and positions.dim() == 3 and native is not None:
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
    if any(name.endswith(TYPES) for name in tensors):
        raise UserError(f"{path}: a tracker's weights, no backbone's ({TYPES}); give it with --weights")
    weights = backbone_weights(str(path), tensors, config.prefix_tokens)
    if "patch_embed.proj.weight" not in weights.tensors:
        known = "read are timm's names, those of the authors and, for DINOv2 and DINOv3, transformers'"
        what = f"no backbone under names that are known here ({some(sorted(tensors), 4)})"
        raise UserError(f"{path}: {what}; {known}; {how_to_get(config)}")
    return weights


def backbone_weights(
    source: str, tensors: Mapping[str, Tensor], prefix_tokens: Literal["none", "registers", "all"] = "none"
) -> BackboneWeights:
    """Bring a file's tensors under the names in memory, without those the tracker leaves out."""
    used = {name: t.detach().float() for name, t in named_in_memory(source, tensors).items()}
    classes, registers = used.pop("cls_token", None), used.pop("reg_token", None)
    positions = used.get("pos_embed")
    if positions is not None and positions.dim() == 3:
        # The class token's row comes first where there is one.
        rows = positions.shape[1]
        prefix = next((n for n in (0, 1) if math.isqrt(rows - n) ** 2 == rows - n), None)
        if prefix is None:
            raise UserError(f"{source}: pos_embed has {rows} rows, which is no square grid")
        used["pos_embed"] = positions[:, prefix:].contiguous()
        if prefix and classes is not None:
            classes = classes + positions[:, :1]
    held = {"registers": [registers], "all": [classes, registers]}.get(prefix_tokens, [])
    if kept := [tokens for tokens in held if tokens is not None]:
        used["prefix_tokens"] = torch.cat(kept, dim=1)
    return BackboneWeights(source, used, 0 if registers is None else registers.shape[1])


def _in_folder(config: BackboneConfig) -> Path | None:
    name = os.environ.get(FOLDER_VARIABLE)
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"{FOLDER_VARIABLE}={name}: no such folder; make it or unset the variable")
    names = [f"{config.timm}.safetensors", f"{config.timm}.pth"]
    if not any((folder / name).is_file() for name in names):  # others are asked of timm
        on_hub, official = ((name or "").rpartition("/")[2] for name in (_hub_place(config), _hub_entry(config).url))
        names = [f"{on_hub}.safetensors", official]
    return next((folder / name for name in names if name and (folder / name).is_file()), None)


def _from_hub(config: BackboneConfig) -> Path:
    """Return the file in the hub's cache, downloaded if it is not there."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import logging as hub_logging

    place = _hub_place(config)
    cached = huggingface_hub.try_to_load_from_cache(place, _HUB_FILE)
    if isinstance(cached, str):
        return Path(cached)
    _LOG.info("backbone %s: asking the hub for %s/%s", config.timm, place, _HUB_FILE)
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # each of its attempts would take two lines
    try:
        _ask_hub(place)
        with waiting(f"{place} from the hub"):
            return Path(huggingface_hub.hf_hub_download(place, _HUB_FILE))
    except (OSError, EntryNotFoundError) as error:
        why = f"its weights are not here and the hub does not give them ({type(error.__cause__ or error).__name__})"
        raise UserError(f"backbone {config.timm}: {why}; {how_to_get(config)}") from error
    finally:
        hub_logging.set_verbosity(verbosity)


def _ask_hub(place: str) -> None:
    """Raise an `OSError` where the hub does not answer within some seconds: its client would try for half a minute, and
    looking for its address may take longer still.
    """
    import huggingface_hub

    def ask() -> None:
        try:
            huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(place, _HUB_FILE), timeout=_HUB_ANSWER)
        except OSError:
            raise
        except Exception as error:  # what its client raises depends on its release, and is no OSError since 1.0
            raise ConnectionError from error

    coming = Future[None]()
    threading.Thread(target=fulfil, args=(ask, coming), name="lorat-hub", daemon=True).start()
    coming.result(_HUB_ANSWER)


def _hub_entry(config: BackboneConfig) -> Any:
    """Return what timm knows of a model's weights."""
    import timm  # takes seconds, and whoever brings a file need not wait for it

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
