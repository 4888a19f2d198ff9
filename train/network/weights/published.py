"""Names of tensors: as weight files write them, and as the network here holds them.

In memory every block is built alike: ``attn.qkv`` is one layer, and the pairs on its parts are ``attn.qkv.q.lora.A``
and so on. Published files differ in four ways, which `from_file` undoes:

- a layer with a pair writes its frozen tensors as ``<layer>.linear.weight``, its parts apart;
- files of the family that is built on timm (``backbone.layout: timm``) call the last block's query
  ``attn.q``, its key and value ``attn.kv``, and both layers of a gated MLP ``fc1`` and ``fc2``;
- older files hold the scale of the pairs as scalars ``lora_alpha`` and ``use_rslora``;
- a layer may have its own: ``<layer>.lora.alpha`` and ``<layer>.lora.use_rslora``.

Axes: D channels, r rank.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lorat.configs.schema import LoraConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.lora import LoraLinear, lora_scale
from lorat.train.network.blocks.lorat import LoRAT

PARTS = ("q", "k", "v")
_SCALARS = {"lora_alpha": "alpha", "use_rslora": "rslora"}
_OWN_SCALARS = re.compile(r"(.+)\.lora\.(alpha|use_rslora)")
_QUERY = re.compile(r"(.+\.qkv)\.q\.(weight|bias)")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
GATED = {".mlp.fc1.": ".mlp.w12.", ".mlp.fc2.": ".mlp.w3."}
"""timm's names of a gated MLP's layers → the names in memory."""


@dataclass(frozen=True, slots=True)
class Scales:
    """What a file says of the scale of its pairs: layer → value; "" is for all layers."""

    alpha: dict[str, float] = field(default_factory=dict)
    rslora: dict[str, bool] = field(default_factory=dict)

    def of(self, layer: str, rank: int, config: LoraConfig | None) -> float | None:
        """Return what multiplies B·A of a layer, or None where nobody knows alpha.

        The layer's own word goes before the file's, the file's before the configuration's.
        """
        alpha = self.alpha.get(layer, self.alpha.get(""))
        rslora = self.rslora.get(layer, self.rslora.get(""))
        if alpha is None and config is None:
            return None
        base = config or LoraConfig()
        alpha = base.alpha if alpha is None else alpha
        rslora = base.rslora if rslora is None else rslora
        return lora_scale(LoraConfig(rank=rank, alpha=alpha, rslora=rslora))

    def told(self, config: LoraConfig) -> LoraConfig:
        """Return the configuration with what the file says for all layers."""
        alpha, rslora = self.alpha.get("", config.alpha), self.rslora.get("", config.rslora)
        return config.model_copy(update={"alpha": alpha, "rslora": rslora})


def from_file(path: Path, tensors: Mapping[str, Tensor], gated: bool) -> tuple[dict[str, Tensor], Scales]:
    """Bring a file's tensors under the names in memory.

    Args:
        path: for error messages.
        tensors: as the file names them.
        gated: whether layers called fc1 and fc2 are those of a gated MLP.

    Returns:
        The tensors, query, key and value of a frozen layer joined; and the scales of the pairs.

    Raises:
        UserError: if a scalar is none.
    """
    scales, named = Scales(), {}
    for name, tensor in tensors.items():
        own = _OWN_SCALARS.fullmatch(name)
        if name in _SCALARS:
            _put(path, scales, "", name, tensor)
        elif own:
            _put(path, scales, _in_memory(own[1], gated), own[2], tensor)
        else:
            named[_in_memory(name, gated)] = tensor
    return _join(named), scales


def _put(path: Path, scales: Scales, layer: str, name: str, tensor: Tensor) -> None:
    if tensor.numel() != 1:
        raise UserError(f"{path}: {name} of shape {tuple(tensor.shape)} is no number")
    if name.endswith("alpha"):
        scales.alpha[layer] = float(tensor.item())
    else:
        scales.rslora[layer] = bool(tensor.item())


def _in_memory(name: str, gated: bool) -> str:
    """Return a tensor's or a layer's name in memory."""
    name = re.sub(r"\.linear\.(weight|bias)$", r".\1", name)
    name = re.sub(r"\.attn\.q(?=\.|$)", ".attn.qkv.q", name)
    name = re.sub(r"\.attn\.kv\.([kv])(?=\.|$)", r".attn.qkv.\1", name)
    if gated:
        for theirs, ours in GATED.items():
            name = f"{name}.".replace(theirs, ours).removesuffix(".")
    return name


def _join(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make one layer of query, key and value where their frozen tensors stand apart."""
    for name in [name for name in named if re.search(r"\.attn\.kv\.(weight|bias)$", name)]:
        for part, piece in zip("kv", named.pop(name).chunk(2), strict=False):
            named[name.replace(".kv.", f".qkv.{part}.")] = piece
    for name in list(named):
        match = _QUERY.fullmatch(name)
        pieces = [f"{match[1]}.{part}.{match[2]}" for part in PARTS] if match else []
        if match and all(piece in named for piece in pieces):
            named[f"{match[1]}.{match[2]}"] = torch.cat([named.pop(piece) for piece in pieces])
    return named


def to_file(tensors: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Name tensors as published files do; the reverse of `from_file`, without scalars.

    Args:
        tensors: under the names in memory; those of a layer's own scale too.
        layout: the variant's ``backbone.layout``.

    Returns:
        The same values; parts of a joined layer are views of it.
    """
    paired = pairs_of(tensors)
    joined = {layer.rpartition(".")[0] for layer in paired if layer.rpartition(".")[2] in PARTS}
    last = last_block(tensors)
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


def shown_names(expected: Iterable[str], layout: str) -> Callable[[str], str]:
    """Return the function that turns a name in memory into the one that published files have.

    Args:
        expected: the names of all tensors of the network.
        layout: the variant's ``backbone.layout``.
    """
    if layout != "timm":
        return str
    last, gated = last_block(expected), is_gated(expected)

    def shown(name: str) -> str:
        name = name.replace(f"blocks.{last}.attn.qkv.q.", f"blocks.{last}.attn.q.")
        name = re.sub(rf"blocks\.{last}\.attn\.qkv\.([kv])\.", rf"blocks.{last}.attn.kv.\1.", name)
        for theirs, ours in GATED.items() if gated else ():
            name = name.replace(ours, theirs)
        return name

    return shown


def layout_of(names: Iterable[str]) -> str | None:
    """Return the family that a file's names belong to, or None where both would write them so."""
    names = list(names)
    last = last_block(names)
    begin = f"blocks.{last}.attn."
    if any(name.startswith((f"{begin}q.", f"{begin}kv.")) for name in names):
        return "timm"
    return "official" if any(name.startswith(f"{begin}qkv.") for name in names) else None


def is_gated(names: Iterable[str]) -> bool:
    """Return whether names in memory are of a network with gated MLPs (EVA-02's are others)."""
    return any(".mlp.w12." in name for name in names)


def block_of(name: str) -> int | None:
    """Return the number of the block that a tensor belongs to, or None."""
    match = _BLOCK.match(name)
    return int(match[1]) if match else None


def last_block(names: Iterable[str]) -> int:
    """Return the number of the last block that names speak of, or -1."""
    return max((block for name in names if (block := block_of(name)) is not None), default=-1)


def pairs_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return layer → its pair A (r, in) and B (out, r), for every layer that has both."""
    ends = ".lora.A", ".lora.B"
    layers = [name.removesuffix(ends[0]) for name in tensors if name.endswith(ends[0])]
    return {
        layer: (tensors[layer + ends[0]], tensors[layer + ends[1]]) for layer in layers if layer + ends[1] in tensors
    }


def merge_pairs(
    frozen: Mapping[str, Tensor], trained: Mapping[str, Tensor], scales: Mapping[str, float]
) -> dict[str, Tensor]:
    """Add every pair to its layer's weight: ``W + s·B·A`` in float32.

    Args:
        frozen: under names in memory; not changed.
        trained: holds the pairs.
        scales: layer → s.

    Returns:
        `frozen` with new weights, float32, in the layers that have pairs.
    """
    merged = dict(frozen)
    for layer, (a, b) in pairs_of(trained).items():
        whole, _, part = layer.rpartition(".")
        name = f"{whole if part in PARTS else layer}.weight"
        if merged[name] is frozen[name]:
            merged[name] = frozen[name].float().clone()
        weight = merged[name]
        rows = weight.chunk(3)[PARTS.index(part)] if part in PARTS else weight
        rows.addmm_(b.float(), a.float(), alpha=scales[layer])
    return merged


def published_tensors(network: LoRAT) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the network's live tensors by name: what is trained, and the rest.

    Pairs that are stacked in memory appear as views, one per published name, so the tensors can be saved or copied
    into. Without LoRA everything is in the first table.
    """
    trained: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    for layer, (a, b, _) in live_pairs(network).items():
        trained[f"{layer}.lora.A"], trained[f"{layer}.lora.B"] = a, b
    has_lora = bool(trained)
    for name, parameter in network.named_parameters():
        if name.endswith((".lora_a", ".lora_b")):
            continue
        table = frozen if has_lora and not parameter.requires_grad else trained
        table[name] = parameter.detach()
    return trained, frozen


def live_pairs(network: LoRAT) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Return layer → A, B (views) and scale."""
    pairs = {}
    for path, module in network.named_modules():
        if isinstance(module, LoraLinear):
            layers = [f"{path}.{part}" for part in module.parts] or [path]
            factors = module.lora_a.detach().chunk(len(layers)), module.lora_b.detach()
            for layer, a, b in zip(layers, *factors, strict=True):
                pairs[layer] = a, b, module.pairing.scale
    return pairs
