"""Names of tensors: as weight files write them, and as the network here holds them.

In memory every block is built alike: ``attn.qkv`` is one layer, and the pairs on its parts are ``attn.qkv.q.lora.A``
and so on. `from_file` undoes how published files differ. Axes: D channels, r rank.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from lorat.configs.schema import LoraConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.layers import Adapter, is_factor
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.weights.naming import GATED, PARTS, TYPES, join_parts, last_block, renamed, without_prefix
from lorat.train.network.weights.streams import (
    REGION_TYPES,
    TEMPLATE_TYPES,
    has_streams,
    streams_from_file,
    streams_to_file,
)

_LOG = logging.getLogger("lorat")
_UNGATED = {r"\.mlp\.w12\b": ".mlp.fc1", r"\.mlp\.w3\b": ".mlp.fc2"}
_IN_MEMORY = {
    r"\.linear\.(weight|bias)$": r".\1",
    r"\.attn\.q(?=\.|$)": ".attn.qkv.q",
    r"\.attn\.kv\.([kv])(?=\.|$)": r".attn.qkv.\1",
}
_SCALARS = {"lora_alpha": "alpha", "use_rslora": "rslora", "expert_alpha": "alpha", "use_rsexpert": "rslora"}
_OWN_SCALARS = {"alpha": "alpha", "use_rslora": "rslora"}

_FIRST = re.compile(r"(.+)\.(?:lora\.A|tmoe\.compress_expert(?:\.0)?)")
_SECOND = re.compile(r"(.+)\.(?:lora\.B|tmoe\.(?:routed_experts\.\d+|shared_expert))")
_NEW = {"token_type_embed", "search_type_embed", "track_query", "query_embed"}

Scales = dict[str, dict[str, float]]
"""What a file says of the scale of its pairs: layer → fields of `LoraConfig`; "" is for all layers."""


def scale_of(scales: Scales, layer: str, rank: int, config: LoraConfig | None = None) -> float | None:
    """Return what multiplies B·A: as the layer says, else the file, else the configuration; None where nobody knows."""
    told = scales.get("", {}) | scales.get(layer, {}) | {"rank": rank}
    if config is None and "alpha" not in told:
        return None
    return LoraConfig(**((config or LoraConfig()).model_dump() | told)).scale


def from_file(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], layout: str | None, ours: Collection[str]
) -> tuple[dict[str, Tensor], Scales]:
    """Bring a file's tensors under the names of a network's own, and return the scales of its pairs beside them.

    Published files differ from what is in memory in four ways:

    - a layer with a pair writes its frozen tensors as ``<layer>.linear.weight``, its parts apart;
    - files of the family that is built on timm (``backbone.layout: timm``) call the last block's query ``attn.q``, its
      key and value ``attn.kv``, and, where `ours` are gated, both layers of an MLP ``fc1`` and ``fc2``;
    - older files hold the scale of the pairs as scalars ``lora_alpha`` and ``use_rslora``, SPMTrack's as
      ``expert_alpha`` and ``use_rsexpert``, ours in the metadata;
    - a layer may have its own: ``<layer>.lora.alpha`` and ``<layer>.lora.use_rslora``.

    LoRATv2's have names of their own besides (`streams`).

    A ``UserError`` names a scale that is none, or a `layout` that is not that of the family of the file's names.
    """
    tensors = without_prefix(path, tensors, [TYPES, TEMPLATE_TYPES, f"{REGION_TYPES}.1"])
    if has_streams(ours):
        layout, tensors = None, streams_from_file(path, tensors, ours)
    found = _layout_of(tensors)
    if layout is not None and found is not None and found != layout:
        raise UserError(
            f"{path}: its last block has the names of the published {found} family, but the variant is of the {layout} "
            f"one (backbone.layout), whose positions differ; name a variant of the {found} family"
        )
    scales, named = Scales(), {}
    table = {} if has_streams(ours) else _IN_MEMORY | (GATED if layout != "official" and is_gated(ours) else {})
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".lora.")
        field = (_OWN_SCALARS if layer else _SCALARS).get(kind)
        if field is None:
            named[renamed(name, table)] = tensor
        elif tensor.numel() != 1:
            raise UserError(f"{path}: {kind} of shape {tuple(tensor.shape)} is no number")
        else:
            value = float(tensor.item()) if field == "alpha" else bool(tensor.item())
            scales.setdefault(renamed(layer, table), {})[field] = value
    for name in [name for name in named if re.search(r"\.attn\.kv\.(weight|bias)$", name)]:
        for part, piece in zip("kv", named.pop(name).chunk(2), strict=False):
            named[name.replace(".kv.", f".qkv.{part}.")] = piece
    named = join_parts(named)
    if ranks_of(named) and "lora_alpha" in metadata:
        told = {"alpha": metadata["lora_alpha"], "rslora": metadata.get("lora_rslora", "false")}
        try:
            lora = LoraConfig.model_validate_strings(told)
        except ValidationError:
            raise UserError(f"{path}: its metadata hold a lora_alpha or lora_rslora that is no such value") from None
        scales[""] = {"alpha": lora.alpha, "rslora": lora.rslora} | scales.get("", {})
    return named, scales


def to_file(tensors: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Name tensors (those of a layer's own scale, too) as published files of a ``backbone.layout`` do. It is the
    reverse of `from_file`, without scalars: the same values, parts of a joined layer as views of it.
    """
    if has_streams(tensors):
        return streams_to_file(tensors, tensors)
    paired, last = ranks_of(tensors), last_block(tensors)
    joined = {layer.rpartition(".")[0] for layer in paired if layer.rpartition(".")[2] in PARTS}
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if layer in joined:
            for part, piece in zip(PARTS, tensor.chunk(3), strict=True):
                inner = "linear." if f"{layer}.{part}" in paired else ""
                named[f"{layer}.{part}.{inner}{kind}"] = piece
        elif layer in paired:
            named[f"{layer}.linear.{kind}"] = tensor
        elif layout == "timm" and layer == f"blocks.{last}.attn.qkv":
            width = tensor.shape[0] // 3
            named[f"{layer}.q.{kind}"] = tensor[:width]
            named[f"blocks.{last}.attn.kv.{kind}"] = tensor[width:]
        else:
            named[name] = tensor
    shown = shown_names(tensors, layout)
    return {shown(name): tensor for name, tensor in named.items()}


def shown_names(expected: Collection[str], layout: str) -> Callable[[str], str]:
    """Return what turns a name in memory into the published one, for the network with the names `expected`."""
    if has_streams(expected):
        return lambda name: next(iter(streams_to_file({name: torch.empty(3)}, expected)))
    if layout != "timm":
        return str
    attention = rf"^(blocks\.{last_block(expected)}\.attn)\.qkv"
    table = {rf"{attention}\.q\.": r"\1.q.", rf"{attention}\.([kv])\.": r"\1.kv.\2."}
    table |= _UNGATED if is_gated(expected) else {}
    return lambda name: renamed(name, table)


def _layout_of(names: Collection[str]) -> str | None:
    """Return the family that a file's names belong to, or None where both would write them so."""
    begin = f"blocks.{last_block(names)}.attn."
    if any(name.startswith((f"{begin}q.", f"{begin}kv.")) for name in names):
        return "timm"
    return "official" if any(name.startswith(f"{begin}qkv.") for name in names) else None


def is_gated(names: Iterable[str]) -> bool:
    """Return whether names in memory are of a network with gated MLPs (EVA-02's are others)."""
    return any(".mlp.w12." in name for name in names)


def ranks_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return layer → rank of its factors, for every layer, or part of one, that has some."""
    firsts = ((_FIRST.fullmatch(name), tensor) for name, tensor in tensors.items())
    return {match[1]: len(tensor) for match, tensor in firsts if match and tensor.dim() == 2}


def rescaled(tensors: Mapping[str, Tensor], scales: Scales, own: float) -> dict[str, Tensor]:
    """Return tensors whose factors are to be scaled by `own`, where a file tells another scale of theirs: the second
    factors take up the difference.
    """
    ranks, named = ranks_of(tensors), dict(tensors)
    for name, tensor in tensors.items():
        match = _SECOND.fullmatch(name)
        wanted = scale_of(scales, match[1], ranks[match[1]]) if match and match[1] in ranks else None
        if wanted not in (None, own):
            named[name] = tensor.float() * (wanted / own)
    return named


def say_other_scale(path: Path, tensors: Mapping[str, Tensor], scales: Scales, config: LoraConfig | None) -> None:
    """Warn where a file of SPMTrack's tells another scale than the configuration, which published code would take."""
    rank = next(iter(ranks_of(tensors).values()), None)
    if config is None or not config.experts or rank is None:
        return
    told, own = scale_of(scales, "", rank), config.model_copy(update={"rank": rank}).scale
    if told not in (None, own):
        what = "its expert_alpha and use_rsexpert tell a scale of %g, the variant %g; the file's is taken"
        _LOG.warning("%s: " + what, path, told, own)


def pairs_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return layer → its pair A (r, in) and B (out, r), for every layer that has both."""
    layers = [name.removesuffix(".lora.A") for name in tensors if name.endswith(".lora.A")]
    both = [layer for layer in layers if f"{layer}.lora.B" in tensors]
    return {layer: (tensors[f"{layer}.lora.A"], tensors[f"{layer}.lora.B"]) for layer in both}


def merge_pairs(
    frozen: Mapping[str, Tensor], pairs: Mapping[str, tuple[Tensor, Tensor]], scales: Mapping[str, float]
) -> dict[str, Tensor]:
    """Return `frozen` with every pair added to its layer's weight, ``W + s·B·A`` in float32; s is the layer's scale."""
    merged = dict(frozen)
    for layer, (a, b) in pairs.items():
        whole, _, part = layer.rpartition(".")
        name = f"{whole if part in PARTS else layer}.weight"
        if merged[name] is frozen[name]:
            merged[name] = frozen[name].float().clone()
        rows = merged[name].chunk(3)[PARTS.index(part)] if part in PARTS else merged[name]
        rows.addmm_(b.float(), a.float(), alpha=scales[layer])
    return merged


def published_tensors(network: OneStream) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the network's live tensors by name: what training gave it (without adapters everything), an earlier
    phase's too, and the frozen rest, the backbone. Factors that stand together are views, one a published name, so the
    tensors can be saved or copied into.
    """
    trained, frozen = dict[str, Tensor](), dict[str, Tensor]()
    for path, layer in adapters_of(network).items():
        trained |= {f"{path}.{name}": factor for name, factor in layer.factors().items()}
    has_adapters = bool(trained)
    for name, parameter in network.named_parameters():
        if not is_factor(name):
            of_backbone = has_adapters and not parameter.requires_grad and not is_kept(name)
            (frozen if of_backbone else trained)[name] = parameter.detach()
    return trained, frozen


def adapters_of(network: nn.Module) -> dict[str, Adapter]:
    """Return layer → adapter."""
    return {path: layer for path, layer in network.named_modules() if isinstance(layer, Adapter)}


def is_kept(name: str) -> bool:
    """Whether a file of a network with adapters holds a tensor that is no factor, frozen or not."""
    return is_new(name) or name.startswith("norm_pre.")


def is_new(name: str) -> bool:
    """Whether a tensor belongs to the tracker rather than to the backbone."""
    return name in _NEW or name.startswith("head.")
