"""Weight files of the tracker, in the published layout, so that files go both ways.

A LoRA variant's file holds what was trained, under the published names (``blocks.0.attn.qkv.q.lora.A``,
``token_type_embed``, ``head.cls_mlp.layers.0.weight``, …); the frozen backbone comes from its own file, and the
metadata hold its fingerprint. A variant without LoRA, or on a backbone that was never pretrained, is saved whole. All
values are float32.

Files for others (`export_merged`, `export_published`) keep the variant in their metadata, too, so they load here
without more words. Reading also accepts published files: every container, scalars for the scale of the pairs or none,
frozen tensors beside the pairs, other ranks, merged networks.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lorat.configs.schema import VariantConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.lorat import LoRAT
from lorat.train.network.reading import WeightsFile, is_new, lora_in, named_tensors, read_weights
from lorat.train.network.variants import assemble, hold_matrices_in
from lorat.train.network.weights.backbones import BackboneWeights, load_backbone
from lorat.train.network.weights.containers import check_tensors, read_tensors, write_tensors
from lorat.train.network.weights.published import (
    live_pairs,
    merge_pairs,
    pairs_of,
    published_tensors,
    shown_names,
    to_file,
)

FORMAT = "lorat-weights/1"
_LOG = logging.getLogger("lorat")


def save_weights(path: Path, network: LoRAT, variant: VariantConfig, extra: Mapping[str, str] | None = None) -> None:
    """Write the network's weights as safetensors, whole or not at all.

    Args:
        path: of the file; its folder is made.
        network: built from `variant`.
        variant: recorded whole in the metadata.
        extra: more metadata, such as the epoch; the file's own keys win.
    """
    tensors = {
        name: tensor.to(device="cpu", dtype=torch.float32, copy=True)
        for name, tensor in weights_to_save(network, variant).items()
    }
    write_tensors(path, tensors, dict(extra or {}) | metadata_of(variant, network.fingerprint))


def weights_to_save(network: LoRAT, variant: VariantConfig) -> dict[str, Tensor]:
    """Return the live tensors that a file of this variant holds, under its names."""
    trained, frozen = published_tensors(network)
    if not variant.backbone.pretrained:
        trained |= frozen
    return to_file(trained, variant.backbone.layout)


def metadata_of(variant: VariantConfig, fingerprint: str) -> dict[str, str]:
    """Return what a file says of itself: variant, LoRA's scale, backbone and its fingerprint."""
    metadata = {
        "format": FORMAT,
        "variant": variant.model_dump_json(),
        "backbone": variant.backbone.timm,
        "backbone_fingerprint": fingerprint,
    }
    if variant.lora is not None:
        metadata |= {
            "lora_rank": str(variant.lora.rank),
            "lora_alpha": str(variant.lora.alpha),
            "lora_rslora": str(variant.lora.rslora).lower(),
        }
    return metadata


def load_weights(
    path: Path, network: LoRAT, *, layout: str | None = None, force_backbone: bool = False
) -> dict[str, str]:
    """Copy a file's weights into a network to train and return the file's metadata.

    Where the file's pairs have another scale than the network's, B takes up the difference, so the network computes
    what the file's did. Frozen tensors in the file must be those of the network, where that has a pretrained backbone,
    and are not copied then.

    Args:
        path: a file of `save_weights` or a published one.
        network: gets the values.
        layout: the variant's ``backbone.layout``, to refuse files of the other family.
        force_backbone: take a file that was trained on another backbone.

    Raises:
        UserError: if the file is of another network or another backbone.
    """
    tensors, metadata = read_tensors(path)
    trained, frozen = published_tensors(network)
    live = live_pairs(network)
    named, scales = named_tensors(path, tensors, layout, trained | frozen)
    _check_pairs(path, named, live)
    expected = trained
    if live and network.fingerprint:
        _check_backbone(path, metadata, network.fingerprint, force_backbone)
        named = _without_backbone(path, named, frozen, force_backbone)
    elif not named.keys().isdisjoint(frozen):
        expected = trained | frozen
    check_tensors(path, named, expected, shown_names(expected, layout or "official"))
    for layer, (a, b) in pairs_of(named).items():
        own, wanted = live[layer][2], scales.of(layer, a.shape[0], lora_in(path, metadata))
        if wanted is not None and wanted != own:
            named[f"{layer}.lora.B"] = b.float() * (wanted / own)
    for name, tensor in named.items():
        expected[name].copy_(tensor)
    return metadata


def load_network(
    path: Path,
    *,
    backbone: Path | None = None,
    variant: VariantConfig | None = None,
    dtype: torch.dtype = torch.float32,
    force_backbone: bool = False,
) -> tuple[LoRAT, VariantConfig]:
    """Load a network to track with: LoRA merged in float32, frozen, in eval mode.

    Args:
        path: a file of `save_weights` or a published one.
        backbone: the backbone's file, for files that do not hold it; otherwise ``$LORAT_BACKBONES`` and then timm's hub
            are asked.
        variant: needed where the file does not say its own. Where it does, another crop size of the same network may be
            asked for.
        dtype: number type of the matrices; the rest stays float32.
        force_backbone: take another backbone than the one that the file was trained on.

    Returns:
        The network, and the variant with the rank and the scale that the file was trained with.

    Raises:
        UserError: if the file is damaged or of another network, or the backbone is not the one that it was trained on.
    """
    file = read_weights(path, variant, force_backbone=force_backbone)
    network = network_of(file, backbone, force_backbone=force_backbone)
    hold_matrices_in(network, dtype)
    return network, file.variant


def network_of(file: WeightsFile, backbone: Path | None = None, *, force_backbone: bool = False) -> LoRAT:
    """Build the network of a file, LoRA merged in float32, frozen, in eval mode.

    Raises:
        UserError: as for `load_network`.
    """
    pairs = pairs_of(file.trained)
    if file.needs_backbone:
        weights = load_backbone(file.variant.backbone, backbone)
        fingerprint = weights.fingerprint()
        _check_backbone(file.path, file.metadata, fingerprint, force_backbone)
    else:
        if backbone is not None:
            _LOG.warning("%s holds the whole network; %s is not read", file.path, backbone)
        weights = BackboneWeights(str(file.path), {n: t.float() for n, t in file.base().items()})
        fingerprint = file.metadata.get("backbone_fingerprint", "")
    scales = {layer: file.scale(layer) for layer in pairs}
    merged = BackboneWeights(weights.source, merge_pairs(weights.tensors, file.trained, scales))
    plain = file.variant.model_copy(update={"lora": None})
    network = assemble(plain, merged).requires_grad_(False).eval()
    network.fingerprint = fingerprint
    live, _ = published_tensors(network)
    _check_positions(file, live["pos_embed"])
    for name in live.keys() & file.trained.keys():
        if pairs or is_new(name):
            live[name].copy_(file.trained[name])
    return network


def export_merged(
    file: WeightsFile, out: Path, dtype: torch.dtype, *, backbone: Path | None = None, force_backbone: bool = False
) -> None:
    """Write the whole network with LoRA merged (in float32, then cast), as published files name it.

    Args:
        file: what to export.
        out: ``.safetensors`` or ``.bin`` for safetensors, ``.pth`` or ``.pt`` for PyTorch's format.
        dtype: number type of the matrices; norms, scales and tables stay float32.
        backbone: the backbone's file, as for `load_network`.
        force_backbone: take another backbone than the one that the file was trained on.

    Raises:
        UserError: if the backbone cannot be had or is another one.
    """
    network = network_of(file, backbone, force_backbone=force_backbone)
    hold_matrices_in(network, dtype)
    tensors, _ = published_tensors(network)
    number_type = str(dtype).removeprefix("torch.")
    metadata = metadata_of(file.variant, network.fingerprint)
    metadata |= {"merged": "true", "dtype": number_type}
    write_tensors(out, to_file(tensors, file.variant.backbone.layout), metadata)


def export_published(file: WeightsFile, out: Path, *, scalars: bool = True) -> None:
    """Write what the file holds under the published names; values and number types are kept.

    Args:
        file: what to export.
        out: as for `export_merged`.
        scalars: with the scale of the pairs, as older published files have it. Without, readers take the scale that
            they are configured for, or 1.
    """
    tensors = file.trained | file.frozen
    pairs = pairs_of(file.trained)
    if scalars:
        alpha, rslora = file.scales.alpha, file.scales.rslora  # layers that have their own
        tensors |= {f"{n}.lora.alpha": _alpha(value) for n, value in alpha.items() if n}
        tensors |= {f"{n}.lora.use_rslora": torch.tensor(v) for n, v in rslora.items() if n}
    named = to_file(tensors, file.variant.backbone.layout)
    lora = file.variant.lora
    if pairs and scalars and lora is not None:
        named["lora_alpha"] = _alpha(lora.alpha)
        named["use_rslora"] = torch.tensor(lora.rslora)
    scales = sorted({file.scale(layer) for layer in pairs} - {1.0})
    if scales and not scalars:
        _LOG.warning("%s: its pairs have the scale %g; readers of files without scalars may take 1", out, scales[0])
    metadata = metadata_of(file.variant, file.metadata.get("backbone_fingerprint", ""))
    write_tensors(out, named, metadata)


def _alpha(value: float) -> Tensor:
    """Return a 0-dim tensor: int64 for a whole number, else float32, as published."""
    return torch.tensor(int(value) if value == int(value) else value)


def _check_positions(file: WeightsFile, built: Tensor) -> None:
    """Refuse positions that were resampled: they were fixed for another search size."""
    own = (file.frozen | file.trained).get("pos_embed")
    if own is not None and own.shape != built.shape:
        raise UserError(
            f"{file.path}: holds positions for {own.shape[1]} search cells, but variant "
            f"{file.variant.name} has {built.shape[1]}; name the variant it was trained as"
        )


def _check_pairs(path: Path, found: Mapping[str, Tensor], live: Mapping[str, tuple[Tensor, Tensor, float]]) -> None:
    if live and any(name.startswith("blocks.") for name in found) and not any(".lora." in name for name in found):
        raise UserError(
            f"{path}: a network without LoRA pairs (merged, or trained whole), but the one to "
            "train has them; give the file that was not merged, or a variant with lora: null"
        )
    for layer, (a, _) in pairs_of(found).items():
        if layer in live and a.dim() == 2 and a.shape[0] != live[layer][0].shape[0]:
            raise UserError(
                f"{path}: its pairs have rank {a.shape[0]}, those of the network to train "
                f"{live[layer][0].shape[0]} ({layer}); set lora.rank in a variant file of your own"
            )


def _check_backbone(path: Path, metadata: Mapping[str, str], here: str, force: bool) -> None:
    """Compare the fingerprint of the backbone that is used with that in the file's metadata."""
    wanted = metadata.get("backbone_fingerprint", "")
    if not wanted or not here or wanted == here:
        return
    text = (
        f"{path}: trained on another backbone file of {metadata.get('backbone', 'its kind')} "
        f"(fingerprint {wanted}, not {here})"
    )
    if not force:
        raise UserError(f"{text}; give that one with --backbone, or --force-backbone")
    _LOG.warning("%s; taken all the same", text)


def _without_backbone(
    path: Path, named: dict[str, Tensor], frozen: Mapping[str, Tensor], force: bool
) -> dict[str, Tensor]:
    """Drop the frozen tensors, which must be those of the network; positions may be resampled."""
    common = sorted(named.keys() & frozen.keys() - {"pos_embed"})
    check = {name: named[name] for name in common}
    check_tensors(path, check, {name: frozen[name] for name in common})
    other = [n for n in common if not torch.equal(check[n].to(frozen[n]), frozen[n])]
    if other:
        text = f"{path}: holds another backbone than the network's ({other[0]} differs)"
        if not force:
            raise UserError(f"{text}; give that one with --backbone, or --force-backbone")
        _LOG.warning("%s; the network keeps its own", text)
    return {name: tensor for name, tensor in named.items() if name not in frozen}
