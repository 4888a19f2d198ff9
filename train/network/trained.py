"""Weight files of the tracker, in the published layout, so that files go both ways.

A LoRA variant's file holds what was trained, under the published names; the frozen backbone comes from its own file,
and the metadata hold its fingerprint. A variant without LoRA, or on a backbone that was never pretrained, is saved
whole. All values are float32. Files for others keep the variant in their metadata, too, so they load here as well.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lorat.configs.schema import VariantConfig
from lorat.shards.base.errors import UserError, some
from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.blocks.plan import Plan
from lorat.train.network.reading import WeightsFile, read_weights
from lorat.train.network.variants import around, filled, hold_matrices_in, hold_tables_in_float32, not_finite
from lorat.train.network.weights import published
from lorat.train.network.weights.backbones import BackboneWeights, load_backbone
from lorat.train.network.weights.containers import check_tensors, read_joined, write_tensors
from lorat.train.network.weights.streams import of_second_phase

FORMAT = "lorat-weights/1"
AVERAGED = {"averaged": "true"}  # in the metadata of weights that are a moving average (train.ema)
_LOG = logging.getLogger("lorat")


def save_weights(
    path: Path, network: OneStream, variant: VariantConfig, extra: Mapping[str, str] | None = None
) -> None:
    """Write a network's weights as safetensors, whole or not at all; the file's own metadata win over `extra`."""
    trained, frozen = published.published_tensors(network)
    held = published.to_file(trained if variant.backbone.pretrained else trained | frozen, variant.backbone.layout)
    tensors = {name: tensor.float() for name, tensor in held.items()}
    write_tensors(path, tensors, dict(extra or {}) | _metadata(variant, network.plan, network.fingerprint))


def _metadata(variant: VariantConfig, plan: Plan, fingerprint: str) -> dict[str, str]:
    """Return what a file says of itself: variant, backbone and its fingerprint, LoRA's rank and scale."""
    backbone, lora = {"backbone": variant.backbone.timm, "backbone_fingerprint": fingerprint}, variant.lora
    metadata = {"format": FORMAT, "variant": variant.model_dump_json(), "plan": plan.model_dump_json()} | backbone
    if lora is not None:
        scale = {"lora_alpha": str(lora.alpha), "lora_rslora": str(lora.rslora).lower()}
        metadata |= {"lora_rank": str(lora.rank)} | scale
    return metadata


def load_weights(
    path: Path,
    network: OneStream,
    *,
    before: Sequence[Path] = (),
    layout: str | None = None,
    force_backbone: bool = False,
) -> dict[str, str]:
    """Copy a file of `save_weights` or a published one, with what it lacks of those `before` (as `read_weights` takes
    them), into a network to train and return the file's metadata. Where the file's pairs have another scale than the
    network's, B takes up the difference, so the network computes what the file's did. Frozen tensors in the file must
    be those of the network, where that has a pretrained backbone, and are not copied then. A ``UserError`` tells of a
    file of another network, of another family than the variant's ``backbone.layout``, or, unless forced, of another
    backbone.
    """
    tensors, metadata = read_joined(path, before)
    (trained, frozen), adapters = published.published_tensors(network), published.adapters_of(network)
    named, scales = published.from_file(path, tensors, metadata, layout, trained | frozen)
    if adapters:
        _check_factors(path, named, published.ranks_of(trained))
    if adapters and network.fingerprint:
        _check_backbone(path, metadata, network.fingerprint, force_backbone)
        # Positions may be resampled.
        common = sorted(named.keys() & frozen.keys() - {"pos_embed"})
        check_tensors(path, {name: named[name] for name in common}, {name: frozen[name] for name in common})
        if other := [name for name in common if not torch.equal(named[name].to(frozen[name]), frozen[name])]:
            text = f"{path}: holds another backbone than the network's ({other[0]} differs)"
            _only_by_force(text, "the network keeps its own", force_backbone)
        named = {name: tensor for name, tensor in named.items() if name not in frozen}
    expected = trained if named.keys().isdisjoint(frozen) else trained | frozen
    if named.keys().isdisjoint(own := of_second_phase(expected)):  # a file of the first, which that goes on from
        expected = {name: tensor for name, tensor in expected.items() if name not in own}
    check_tensors(path, named, expected, published.shown_names(expected, layout or "official"))
    for layer in list(adapters.values())[:1]:  # all have one configuration
        published.say_other_scale(path, named, scales, layer.config)
        named = published.rescaled(named, scales, layer.config.scale)
    for name, tensor in named.items():
        expected[name].copy_(tensor)
    return metadata


def load_network(
    path: Path,
    *,
    before: Sequence[Path] = (),
    backbone: Path | None = None,
    variant: VariantConfig | None = None,
    dtype: torch.dtype | None = torch.float32,
    force_backbone: bool = False,
) -> tuple[OneStream, VariantConfig]:
    """Load a network to track with, of files as `read_weights` takes them, its matrices in `dtype`, or where that is
    None as `network_of` holds them, and its variant, with the file's own rank and scale.
    """
    file = read_weights(path, variant, before=before, force_backbone=force_backbone)
    if file.metadata.items() >= AVERAGED.items():
        _LOG.info("%s: the moving average of the weights (train.ema); the last step's are live.safetensors", path)
    network = network_of(file, backbone, force_backbone=force_backbone)
    if dtype is not None:
        hold_matrices_in(network, dtype)
    return network, file.variant


def network_of(file: WeightsFile, backbone: Path | None = None, *, force_backbone: bool = False) -> OneStream:
    """Build the network of a file, LoRA merged in float32, frozen, in eval mode. Matrices that the file holds merged
    keep their number type, and stay in the file until they are used. Where it does not hold the backbone, that one's
    own file is needed; without one, ``$LORAT_BACKBONES`` and then timm's hub are asked. A ``UserError`` tells where it
    cannot be had or, unless forced, is not the one that the file was trained on.
    """
    ranks = published.ranks_of(file.trained)
    if ranks and not file.frozen:
        weights = load_backbone(file.variant.backbone, backbone)
        fingerprint = weights.fingerprint()
        _check_backbone(file.path, file.metadata, fingerprint, force_backbone)
    else:
        if backbone is not None:
            _LOG.warning("%s holds the whole network; %s is not read", file.path, backbone)
        weights = BackboneWeights(str(file.path), file.base())
        fingerprint = file.metadata.get("backbone_fingerprint", "")
    variant, tensors, pairs = file.variant, file.trained, file.mergeable()
    if pairs:
        # As they are read, since each may have a rank of its own.
        merged = published.merge_pairs(weights.tensors, pairs, {layer: file.scale(layer) for layer in pairs})
        weights = BackboneWeights(weights.source, merged)
    elif ranks and variant.lora is not None:
        tensors = published.rescaled(tensors, file.scales, variant.lora.scale)
    if pairs or not ranks:
        variant = variant.model_copy(update={"lora": None})
    network = around(filled(file.plan, variant, weights), variant)
    network.fingerprint = fingerprint
    hold_tables_in_float32(network)
    live, frozen = published.published_tensors(network)
    own, built = (table.get("pos_embed") for table in (file.frozen | file.trained, live | frozen))
    # Resampled, but they were fixed for another search size.
    if own is not None and built is not None and own.shape != built.shape:
        raise UserError(
            f"{file.path}: holds positions for {own.shape[1]} search cells, but variant {file.variant.name} has "
            f"{built.shape[1]}; name the variant it was trained as"
        )
    for name in live.keys() & tensors.keys():
        if ranks or published.is_new(name) or variant.streams > 1:  # all else came with the backbone
            live[name].copy_(tensors[name])
    merge_adapters(network)
    return network.requires_grad_(False).eval()


def export_merged(
    file: WeightsFile, out: Path, dtype: torch.dtype, *, backbone: Path | None = None, force_backbone: bool = False
) -> None:
    """Write the whole network with LoRA merged (in float32, then cast), as published files name it; SPMTrack's experts,
    which cannot be merged, stand beside the weights, and a line says so. A suffix ``.safetensors`` or ``.bin`` stands
    for safetensors, ``.pth`` or ``.pt`` for PyTorch's format. Matrices are in `dtype`; norms, scales and tables stay
    float32. The backbone is as for `network_of`. A ``UserError`` if a number is not finite, or would not be in `dtype`.
    """
    network = network_of(file, backbone, force_backbone=force_backbone)
    hold_matrices_in(network, dtype)
    beside = bool(published.adapters_of(network))
    kind = {"merged": str(not beside).lower(), "dtype": str(dtype).removeprefix("torch.")}
    # How the shards of a training hold frames is asked for by trackers that cut crops alike.
    kind |= {key: value for key, value in file.metadata.items() if key == "stored"}
    metadata = _metadata(file.variant, file.plan, network.fingerprint) | kind
    tensors, frozen = published.published_tensors(network)
    named = published.to_file(tensors | frozen, file.variant.backbone.layout)
    if odd := [name for name, tensor in named.items() if not tensor.isfinite().all()]:
        raise UserError(f"{file.path}: {some(odd)} would be {not_finite(dtype)}; nothing was written")
    if beside:
        _LOG.info("%s: its experts, weighed anew for each token, are not merged but stand beside the weights", out)
    write_tensors(out, named, metadata)


def export_published(file: WeightsFile, out: Path, *, scalars: bool = True) -> None:
    """Write what the file holds under the published names, of LoRATv2's second phase its own part alone; values and
    number types are kept. The suffix is as for `export_merged`. The scale of the pairs goes with them as `scalars`, as
    older published files have it; without, as LoRATv2's always are, readers take the scale that they are configured
    for, or 1.
    """
    tensors, lora, ranks = file.trained | file.frozen, file.variant.lora, published.ranks_of(file.trained)
    streamed = file.variant.method == "loratv2"
    if streamed and ranks and not file.frozen:
        tensors = of_second_phase(tensors) or tensors  # as published, which goes on from the first phase's file
    scalars = scalars and not streamed  # published readers take no others
    own = {layer: told for layer, told in file.scales.items() if layer and scalars}
    tensors |= {f"{layer}.lora.alpha": _alpha(told["alpha"]) for layer, told in own.items() if "alpha" in told}
    for layer, told in own.items():
        if "rslora" in told:
            tensors[f"{layer}.lora.use_rslora"] = torch.tensor(told["rslora"])
    named = published.to_file(tensors, file.variant.backbone.layout)
    if ranks and scalars and lora is not None:
        names = ("expert_alpha", "use_rsexpert") if lora.experts else ("lora_alpha", "use_rslora")
        named |= dict(zip(names, (_alpha(lora.alpha), torch.tensor(lora.rslora)), strict=True))
    scales = sorted({file.scale(layer) for layer in ranks} - {1.0})
    if scales and not scalars:
        _LOG.warning("%s: its pairs have the scale %g; readers of files without scalars may take 1", out, scales[0])
    write_tensors(out, named, _metadata(file.variant, file.plan, file.metadata.get("backbone_fingerprint", "")))


def _alpha(value: float) -> Tensor:
    """Return a 0-dim tensor: int64 for a whole number, else float32, as published."""
    return torch.tensor(int(value) if value == int(value) else value)


def _check_factors(path: Path, found: Mapping[str, Tensor], ranks: Mapping[str, int]) -> None:
    theirs = published.ranks_of(found)
    if not theirs and any(name.startswith("blocks.") for name in found):
        raise UserError(
            f"{path}: a network without LoRA pairs (merged, or trained whole), but the one to train has them; give the "
            "file that was not merged, or a variant with lora: null"
        )
    for layer, rank in theirs.items():
        if ranks.get(layer, rank) != rank:
            raise UserError(
                f"{path}: its pairs have rank {rank}, those of the network to train {ranks[layer]} ({layer}); "
                "set lora.rank in a variant file of your own"
            )


def _check_backbone(path: Path, metadata: Mapping[str, str], here: str, force: bool) -> None:
    """Compare the fingerprint of the backbone that is used with that in the file's metadata."""
    wanted = metadata.get("backbone_fingerprint", "")
    if wanted and here and wanted != here:
        kind = metadata.get("backbone", "its kind")
        text = f"{path}: trained on another backbone file of {kind} (fingerprint {wanted}, not {here})"
        _only_by_force(text, "taken all the same", force)


def _only_by_force(text: str, otherwise: str, force: bool) -> None:
    if not force:
        raise UserError(f"{text}; give that one with --backbone, or --force-backbone")
    _LOG.warning("%s; %s", text, otherwise)
