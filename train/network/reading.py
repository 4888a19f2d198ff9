"""A weights file of the tracker, read and found to fit its variant, before anything is built.

A file is ours (its metadata hold the variant) or a published one (the variant must be named). It holds what LoRA
trained, alone or beside the frozen backbone, or a whole network without pairs.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from lorat.configs.schema import LoraConfig, VariantConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.plan import Plan
from lorat.train.network.variants import empty_network, plan_and_values
from lorat.train.network.weights.containers import check_tensors, read_joined
from lorat.train.network.weights.published import (
    Scales,
    from_file,
    is_new,
    pairs_of,
    published_tensors,
    ranks_of,
    say_other_scale,
    scale_of,
    shown_names,
)
from lorat.train.network.weights.streams import base_of_streams

_LOG = logging.getLogger("lorat")


@dataclass(frozen=True, eq=False, slots=True)
class WeightsFile:
    """A weights file that was read and found to fit a variant; tensors have the names in memory."""

    path: Path
    variant: VariantConfig  # the one to build, with the rank and the scale that the file was trained with
    metadata: dict[str, str]
    plan: Plan  # of its backbone
    trained: dict[str, Tensor]  # everything, where there are no pairs
    frozen: dict[str, Tensor]  # beside pairs; empty where the backbone comes from its own file
    scales: Scales

    def base(self) -> dict[str, Tensor]:
        """Return the backbone's tensors that the file holds, trained or not."""
        held = {name: tensor for name, tensor in (self.trained | self.frozen).items() if not is_new(name)}
        factors = re.compile(r".*\.(lora|tmoe)\.")
        return base_of_streams({name: tensor for name, tensor in held.items() if not factors.match(name)})

    def mergeable(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return layer → pair, of those that the backbone's tensors can take up; each stream of LoRATv2 is another."""
        return {} if self.variant.streams > 1 else pairs_of(self.trained)

    def scale(self, layer: str) -> float:
        """Return what multiplies B·A of a layer; 1 where nobody knows alpha."""
        scale = scale_of(self.scales, layer, ranks_of(self.trained)[layer], self.variant.lora)
        return 1.0 if scale is None else scale


def read_weights(
    path: Path, variant: VariantConfig | None = None, *, before: Sequence[Path] = (), force_backbone: bool = False
) -> WeightsFile:
    """Read a file of `save_weights` or a published one, with what it lacks of those `before` (LoRATv2's first phase),
    and see that it fits its variant. The variant is needed where the file does not say its own. Where it does, another
    crop size of the same network may be asked for, or by force another backbone. A ``UserError`` tells of a damaged
    file or one of another network.
    """
    tensors, metadata = read_joined(path, before)
    variant, lora = _variant_of(path, metadata, variant, force_backbone), None
    if ranks := ranks_of(tensors):
        rank = max(next(iter(ranks.values())), 1)
        lora = (variant.lora or LoraConfig(alpha=rank)).model_copy(update={"rank": rank})
    plan = _plan_of(metadata, variant)
    blank = empty_network(variant.model_copy(update={"lora": lora}), plan=plan)
    trained, frozen = published_tensors(blank)
    named, scales = from_file(path, tensors, metadata, variant.backbone.layout, trained | frozen)
    expected = dict(trained)
    if not named.keys().isdisjoint(frozen):
        expected |= frozen
    elif ranks and not variant.backbone.pretrained:
        raise UserError(f"{path}: holds no backbone, and variant {variant.name} has no file of it")
    # Every pair may have the rank that the file gives its A.
    for layer, (a, b) in ({} if variant.streams > 1 else pairs_of(trained)).items():
        own = named.get(f"{layer}.lora.A")
        if own is not None and own.dim() == 2 and len(own) > 0:
            expected[f"{layer}.lora.A"] = a.new_empty(len(own), a.shape[1])
            expected[f"{layer}.lora.B"] = b.new_empty(len(b), len(own))
    # A grid of another size is looked at when the network stands.
    own, wanted = named.get("pos_embed"), expected.get("pos_embed")
    if own is not None and wanted is not None and own.dim() == 3 and own.shape[2] == wanted.shape[2]:
        expected["pos_embed"] = own
    check_tensors(path, named, expected, shown_names(expected, variant.backbone.layout))
    given = variant.lora
    say_other_scale(path, named, scales, given)
    if lora is not None:
        variant = variant.model_copy(update={"lora": lora.model_copy(update=scales.get("", {}))})
    ours, rest = ({n: t for n, t in named.items() if n in table} for table in (trained, frozen))
    file = WeightsFile(path, variant, metadata, plan, ours, rest, scales)
    _say_guess(file, given)
    return file


def _plan_of(metadata: Mapping[str, str], variant: VariantConfig) -> Plan:
    """Return the plan of a variant's backbone: the file's own where that is of the same, else timm is asked."""
    asked = variant.backbone
    with suppress(KeyError, ValidationError):  # of older or newer files
        own = VariantConfig.model_validate_json(metadata["variant"]).backbone
        if (own.timm, own.args) == (asked.timm, asked.args):
            return Plan.model_validate_json(metadata["plan"])
    return plan_and_values(asked, values=False)[0]


def _say_guess(file: WeightsFile, given: LoraConfig | None) -> None:
    """Warn of pairs whose alpha nobody tells: not the file, and the `given` configuration for another rank."""
    ranks = ranks_of(file.trained)
    unknown = [layer for layer, rank in ranks.items() if scale_of(file.scales, layer, rank) is None]
    layer = next((layer for layer in unknown if given is None or ranks[layer] != given.rank), None)
    if layer is not None:
        own = f"variant's alpha {given.alpha:g} is for rank {given.rank}" if given else "variant has no LoRA"
        what = f"does not tell the alpha of its pairs of rank {ranks[layer]}, and the {own}"
        how = "if boxes are off, give a variant file with the lora.rank and lora.alpha it was trained with"
        _LOG.warning("%s: %s; a scale of %g is taken (%s); %s", file.path, what, file.scale(layer), layer, how)


def _variant_of(path: Path, metadata: Mapping[str, str], given: VariantConfig | None, force: bool) -> VariantConfig:
    """Return the variant to build: the given one, with what the file knows better."""
    own = None
    try:
        if "variant" in metadata:
            own = VariantConfig.model_validate_json(metadata["variant"])
    except ValidationError as error:
        if given is None:
            what = "its metadata hold a variant that this version cannot read"
            raise UserError(f"{path}: {what}; name it with --variant, or update lorat") from error
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
            f"{path}: weights of variant {own.name} ({own.backbone.timm}), not of {given.name} ({given.backbone.timm})"
            f": other {', '.join(other + lora)}; leave --variant out or give other weights"
        )
    if other:
        _LOG.warning("%s: weights of %s go onto the backbone of %s", path, own.name, given.name)
    return given.model_copy(update={"lora": own.lora})
