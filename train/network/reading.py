"""A weights file of the tracker, read and found to fit its variant, before anything is built.

A file is ours (its metadata hold the variant) or a published one (the variant must be named). It holds what LoRA
trained, alone or beside the frozen backbone, or a whole network without pairs.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from lorat.configs.schema import LoraConfig, VariantConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.variants import assemble
from lorat.train.network.weights.containers import check_tensors, read_tensors
from lorat.train.network.weights.published import (
    Scales,
    from_file,
    is_gated,
    layout_of,
    pairs_of,
    published_tensors,
    shown_names,
)

_LOG = logging.getLogger("lorat")


@dataclass(frozen=True, eq=False, slots=True)
class WeightsFile:
    """A weights file that was read and found to fit a variant."""

    path: Path
    variant: VariantConfig
    """The one to build, with the rank and the scale that the file was trained with."""
    metadata: dict[str, str]
    trained: dict[str, Tensor]
    """Under the names in memory; everything, where there are no pairs."""
    frozen: dict[str, Tensor]
    """Beside pairs; empty where the backbone comes from its own file."""
    scales: Scales

    @property
    def needs_backbone(self) -> bool:
        """Whether the backbone's own file is needed beside this one."""
        return bool(pairs_of(self.trained)) and not self.frozen

    def base(self) -> dict[str, Tensor]:
        """Return the backbone's tensors that the file holds, trained or not."""
        held = self.trained | self.frozen
        return {name: t for name, t in held.items() if not is_new(name) and ".lora." not in name}

    def scale(self, layer: str) -> float:
        """Return what multiplies B·A of a layer; 1 where nobody knows alpha."""
        rank = self.trained[f"{layer}.lora.A"].shape[0]
        scale = self.scales.of(layer, rank, self.variant.lora)
        return 1.0 if scale is None else scale


def read_weights(path: Path, variant: VariantConfig | None = None, *, force_backbone: bool = False) -> WeightsFile:
    """Read a file of `save_weights` or a published one, and see that it fits its variant.

    Args:
        path: of the file.
        variant: needed where the file does not say its own. Where it does, another crop size of the same network may be
            asked for.
        force_backbone: let `variant` have another backbone than the file's.

    Raises:
        UserError: if the file is damaged or of another network.
    """
    tensors, metadata = read_tensors(path)
    variant = _variant_of(path, metadata, variant, force_backbone)
    factors = [t for name, t in tensors.items() if name.endswith(".lora.A") and t.dim() == 2]
    lora = None
    if factors:
        rank = max(factors[0].shape[0], 1)
        base = variant.lora or LoraConfig(alpha=rank)
        told = lora_in(path, metadata) or base
        lora = base.model_copy(update={"rank": rank, "alpha": told.alpha, "rslora": told.rslora})
    with torch.device("meta"):
        blank = assemble(variant.model_copy(update={"lora": lora}), None)
    trained, frozen = published_tensors(blank)
    named, scales = named_tensors(path, tensors, variant.backbone.layout, trained | frozen)
    expected = _with_ranks_of(named, trained)
    if not named.keys().isdisjoint(frozen):
        expected |= frozen
    elif factors and not variant.backbone.pretrained:
        raise UserError(f"{path}: holds no backbone, and variant {variant.name} has no file of it")
    found = _excuse_positions(named, expected)
    check_tensors(path, found, expected, shown_names(expected, variant.backbone.layout))
    if lora is not None:
        variant = variant.model_copy(update={"lora": scales.told(lora)})
    return WeightsFile(
        path,
        variant,
        metadata,
        trained={name: tensor for name, tensor in named.items() if name in trained},
        frozen={name: tensor for name, tensor in named.items() if name in frozen},
        scales=scales,
    )


def is_new(name: str) -> bool:
    """Whether a tensor belongs to the tracker rather than to the backbone."""
    return name == "token_type_embed" or name.startswith("head.")


def _with_ranks_of(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Let every expected pair have the rank that the file gives its A."""
    adapted = dict(expected)
    for layer, (a, b) in pairs_of(expected).items():
        own = found.get(f"{layer}.lora.A")
        if own is not None and own.dim() == 2 and own.shape[0] > 0:
            adapted[f"{layer}.lora.A"] = a.new_empty(own.shape[0], a.shape[1])
            adapted[f"{layer}.lora.B"] = b.new_empty(b.shape[0], own.shape[0])
    return adapted


def _excuse_positions(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pass a grid of another size by; `_check_positions` looks at it when the network stands."""
    own, wanted = found.get("pos_embed"), expected.get("pos_embed")
    if own is None or wanted is None or own.dim() != 3 or own.shape[2] != wanted.shape[2]:
        return dict(found)
    return {**found, "pos_embed": wanted}


def _variant_of(path: Path, metadata: Mapping[str, str], given: VariantConfig | None, force: bool) -> VariantConfig:
    """Return the variant to build: the given one, with what the file knows better."""
    own = None
    if "variant" in metadata:
        try:
            own = VariantConfig.model_validate_json(metadata["variant"])
        except ValidationError as error:
            if given is None:
                raise UserError(
                    f"{path}: its metadata hold a variant that this version cannot read; name it "
                    "with --variant, or update lorat"
                ) from error
    if own is None:
        if given is None:
            raise UserError(f"{path}: does not say which variant it is; name it with --variant")
        return given
    if given is None:
        return own
    # Crops and ranks may be others.
    ours, theirs = own.backbone.model_dump(), given.backbone.model_dump()
    other = [f"backbone.{name}" for name, value in ours.items() if theirs[name] != value]
    lora = ["lora"] if (given.lora is None) != (own.lora is None) else []
    if (other and not force) or lora:
        raise UserError(
            f"{path}: weights of variant {own.name} ({own.backbone.timm}), not of {given.name} "
            f"({given.backbone.timm}): other {', '.join(other + lora)}; leave "
            "--variant out or give other weights"
        )
    if other:
        _LOG.warning("%s: weights of %s go onto the backbone of %s", path, own.name, given.name)
    return given.model_copy(update={"lora": own.lora})


def lora_in(path: Path, metadata: Mapping[str, str]) -> LoraConfig | None:
    """Return what the metadata say of LoRA's scale."""
    if "lora_alpha" not in metadata:
        return None
    try:
        return LoraConfig.model_validate_strings(
            {"alpha": metadata["lora_alpha"], "rslora": metadata.get("lora_rslora", "false")}
        )
    except ValidationError:
        raise UserError(f"{path}: its metadata hold a lora_alpha or lora_rslora that is no such value") from None


def named_tensors(
    path: Path, tensors: Mapping[str, Tensor], layout: str | None, ours: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Scales]:
    """Bring a file's tensors under the names of a network's own (see `from_file`).

    Raises:
        UserError: if `layout` is another than that of the family which the file's names belong to.
    """
    found = layout_of(tensors)
    if layout is not None and found is not None and found != layout:
        raise UserError(
            f"{path}: its last block has the names of the published {found} family, but the "
            f"variant is of the {layout} one (backbone.layout), whose positions differ; name a "
            f"variant of the {found} family"
        )
    return from_file(path, tensors, layout != "official" and is_gated(ours))
