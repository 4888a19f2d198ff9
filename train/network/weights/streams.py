"""Names of LoRATv2's tensors: as published files write them ↔ as the network here holds them.

In memory all streams' token types but the second phase's own stand in one table, and there is one head and one last
norm, those of the frame that is tracked. A file of the second phase holds its own part alone; ours hold the first
phase's too. k numbers search regions from 0.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lorat.shards.base.errors import UserError
from lorat.train.network.weights.naming import TYPES, renamed

TEMPLATE_TYPES, REGION_TYPES, LAST_TYPE = f"template_{TYPES}", f"search_region_{TYPES}", "search_type_embed"
_STREAM = re.compile(r"blocks\.\d+\.(?:attn|mlp)\.\w+\.(\d+)\.")


def has_streams(names: Collection[str]) -> bool:
    """Whether names, a file's or in memory, are of a network with streams."""
    return any(map(_STREAM.match, names))


def of_second_phase(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the second phase trains of a network's tensors; none, where it is in the first."""
    if LAST_TYPE not in tensors:
        return {}
    streams = {name: int(match[1]) for name in tensors if (match := _STREAM.match(name))}
    last = max(streams.values())
    own = {LAST_TYPE, *(name for name, stream in streams.items() if stream == last)}
    return {name: tensor for name, tensor in tensors.items() if name in own or name.startswith("head.")}


def base_of_streams(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with the layers of the first stream alone, named as without streams."""
    streams = {name: match for name in tensors if (match := _STREAM.match(name))}
    plain = {name: tensor for name, tensor in tensors.items() if name not in streams}
    first = {name: match for name, match in streams.items() if match[1] == "0"}
    return plain | {name[: match.start(1)] + name[match.end() :]: tensors[name] for name, match in first.items()}


def streams_to_file(tensors: Mapping[str, Tensor], ours: Collection[str]) -> dict[str, Tensor]:
    """Name tensors as published files do, those of a network whose names `ours` are."""
    tracked = int(LAST_TYPE in ours)
    table = {r"^(head|norm)\.": rf"\1s.{tracked}.", r"^prefix_tokens$": "reg_token", LAST_TYPE: f"{REGION_TYPES}.1"}
    named = {renamed(name, table): tensor for name, tensor in tensors.items()}
    if TYPES in named:
        named[TEMPLATE_TYPES], named[f"{REGION_TYPES}.0"] = named.pop(TYPES).split((2, 1))
    return named


def streams_from_file(path: Path, tensors: Mapping[str, Tensor], ours: Collection[str]) -> dict[str, Tensor]:
    """Bring a file's tensors under the names in memory; a ``UserError`` tells of a file of the second phase alone."""
    tracked = int(LAST_TYPE in ours)
    if f"{REGION_TYPES}.{tracked}" in tensors and TEMPLATE_TYPES not in tensors:
        what = "holds LoRATv2's second phase alone, which goes on from the first"
        raise UserError(f"{path}: {what}; name both files, the first phase's first: --weights FIRST --weights {path}")
    norm = int(any(name.startswith(f"norms.{tracked}.") for name in tensors)) * tracked  # all are the backbone's
    other = re.compile(rf"norms\.(?!{norm})" + r"|heads\.0" * tracked)  # nothing reads these
    table = {rf"^heads\.{tracked}\.": "head.", rf"^norms\.{norm}\.": "norm.", "^reg_token$": "prefix_tokens"}
    table |= {rf"^{REGION_TYPES}\.1$": LAST_TYPE} if tracked else {}
    named = {renamed(name, table): tensor for name, tensor in tensors.items() if not other.match(name)}
    types = TEMPLATE_TYPES, f"{REGION_TYPES}.0"
    if all(name in named and named[name].dim() == 2 for name in types):
        named[TYPES] = torch.cat([named.pop(name) for name in types])
    return named
