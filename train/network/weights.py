"""Weight files of the tracker, in the published layout, so that files go both ways.

A LoRA variant's file holds what was trained, under the published names
(``blocks.0.attn.qkv.q.lora.A``, ``token_type_embed``, ``head.cls_mlp.layers.0.weight``, …); the
frozen backbone comes from its own file, and the metadata hold its fingerprint. A variant without
LoRA, or on a backbone that was never pretrained, is saved whole. All values are float32.

Reading also accepts published files: scalars ``lora_alpha`` and ``use_rslora``, frozen tensors
under ``….linear.weight`` with query, key and value apart, and merged networks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from lorat.configs.schema import LoraConfig, VariantConfig
from lorat.shards.errors import UserError
from lorat.train.network.backbone import BackboneWeights, load_backbone
from lorat.train.network.files import check_tensors, read_tensors, write_tensors
from lorat.train.network.lora import LoraLinear, merge_lora
from lorat.train.network.lorat import LoRAT
from lorat.train.network.variants import assemble, hold_matrices_in

__all__ = ["load_network", "load_weights", "published_tensors", "save_weights"]

FORMAT = "lorat-weights/1"
_SCALARS = ("lora_alpha", "use_rslora")
_QUERY = re.compile(r"(.+\.qkv)\.q\.(weight|bias)")


def published_tensors(network: LoRAT) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the network's live tensors under published names: what LoRA trains, and the rest.

    Pairs that are stacked in memory appear as views, one per published name, so the tensors can
    be saved or copied into. Without LoRA everything is in the first table.
    """
    trained: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    for path, module in network.named_modules():
        if isinstance(module, LoraLinear):
            count = module.lora_b.shape[0]
            parts = [f"{path}.{part}.lora" for part in module.parts] or [f"{path}.lora"]
            for part, a, b in zip(
                parts, module.lora_a.detach().chunk(count), module.lora_b.detach(), strict=True
            ):
                trained[f"{part}.A"], trained[f"{part}.B"] = a, b
    has_lora = bool(trained)
    for name, parameter in network.named_parameters():
        if name.endswith((".lora_a", ".lora_b")):
            continue
        table = trained if not has_lora or _is_new(name) else frozen
        table[name] = parameter.detach()
    return trained, frozen


def _is_new(name: str) -> bool:
    """Whether a tensor belongs to the tracker rather than to the backbone."""
    return name == "token_type_embed" or name.startswith("head.") or ".lora." in name


def save_weights(
    path: Path, network: LoRAT, variant: VariantConfig, extra: Mapping[str, str] | None = None
) -> None:
    """Write the network's weights as safetensors, whole or not at all.

    Args:
        path: of the file; its folder is made.
        network: built from `variant`.
        variant: recorded whole in the metadata.
        extra: more metadata, such as the epoch; the file's own keys win.
    """
    trained, frozen = published_tensors(network)
    if not variant.backbone.pretrained:
        trained |= frozen
    metadata = dict(extra or {}) | {
        "format": FORMAT,
        "variant": variant.model_dump_json(),
        "backbone": variant.backbone.timm,
        "backbone_fingerprint": network.fingerprint,
    }
    if variant.lora is not None:
        metadata |= {
            "lora_rank": str(variant.lora.rank),
            "lora_alpha": str(variant.lora.alpha),
            "lora_rslora": str(variant.lora.rslora).lower(),
        }
    tensors = {
        name: tensor.to(device="cpu", dtype=torch.float32, copy=True).contiguous()
        for name, tensor in trained.items()
    }
    write_tensors(path, tensors, metadata)


def load_weights(path: Path, network: LoRAT) -> dict[str, str]:
    """Copy a file's weights into a network to train and return the file's metadata.

    Raises:
        UserError: if the file is of another network or another backbone.
    """
    tensors, metadata = read_tensors(path)
    _check_backbone(path, metadata, network)
    for name in _SCALARS:
        tensors.pop(name, None)
    _copy(path, _joined(tensors), network)
    return metadata


def load_network(
    path: Path,
    *,
    backbone: Path | None = None,
    variant: VariantConfig | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[LoRAT, VariantConfig]:
    """Load a network to track with: LoRA merged in float32, frozen, in eval mode.

    Args:
        path: a file of `save_weights` or a published one.
        backbone: the backbone's file, for files that do not hold it; otherwise
            ``$LORAT_BACKBONES`` and then timm's hub are asked.
        variant: needed where the file does not say its own. Where it does, another crop size of
            the same network may be asked for.
        dtype: number type of the matrices; the rest stays float32.

    Returns:
        The network, and the variant with the LoRA scale that the file was trained with.

    Raises:
        UserError: if the file is damaged or of another network, or the backbone is not the one
            that it was trained on.
    """
    tensors, metadata = read_tensors(path)
    scalars = {name: tensors.pop(name).item() for name in _SCALARS if name in tensors}
    variant = _with_scale(_variant_of(path, metadata, variant), scalars)
    tensors = _joined(tensors)
    base = {name: tensor for name, tensor in tensors.items() if not _is_new(name)}
    merged = bool(base) and not any(".lora." in name for name in tensors)
    if base:
        _check_positions(path, base, variant)
        weights = BackboneWeights(str(path), {name: t.float() for name, t in base.items()})
    else:
        if variant.lora is None or not variant.backbone.pretrained:
            raise UserError(f"{path}: holds no backbone, which variant {variant.name} trains whole")
        weights = load_backbone(variant.backbone, backbone)
    network = assemble(variant.model_copy(update={"lora": None}) if merged else variant, weights)
    if not base:
        network.fingerprint = weights.fingerprint()
        _check_backbone(path, metadata, network)
    _copy(path, tensors, network)
    merge_lora(network)
    network.requires_grad_(False)
    hold_matrices_in(network, dtype)
    return network.eval(), variant


def _copy(path: Path, tensors: Mapping[str, Tensor], network: LoRAT) -> None:
    """Copy tensors into the network; the frozen ones may be absent, all of them together."""
    trained, frozen = published_tensors(network)
    expected = trained if tensors.keys().isdisjoint(frozen) else trained | frozen
    check_tensors(path, tensors, expected)
    for name, tensor in tensors.items():
        expected[name].copy_(tensor)


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo the published training layout: drop ``.linear`` and join query, key and value."""
    joined = {name.replace(".linear.", "."): tensor for name, tensor in tensors.items()}
    for name in list(joined):
        match = _QUERY.fullmatch(name)
        names = [f"{match[1]}.{part}.{match[2]}" for part in ("q", "k", "v")] if match else []
        if match and all(n in joined for n in names):
            joined[f"{match[1]}.{match[2]}"] = torch.cat([joined.pop(n) for n in names])
    return joined


def _variant_of(
    path: Path, metadata: Mapping[str, str], given: VariantConfig | None
) -> VariantConfig:
    """Return the variant to build: the given one, with what the file knows better."""
    if "variant" not in metadata:
        if given is None:
            raise UserError(f"{path}: does not say which variant it is; name it with --variant")
        return given
    try:
        own = VariantConfig.model_validate_json(metadata["variant"])
    except ValidationError as error:
        raise UserError(
            f"{path}: its metadata hold a variant that this version cannot read; name it with "
            "--variant, or update lorat"
        ) from error
    if given is None:
        return own
    if given.backbone != own.backbone or (given.lora is None) != (own.lora is None):
        raise UserError(
            f"{path}: weights of variant {own.name} ({own.backbone.timm}), not of {given.name} "
            f"({given.backbone.timm}); leave --variant out or give other weights"
        )
    return given.model_copy(update={"lora": own.lora})


def _with_scale(variant: VariantConfig, scalars: Mapping[str, float]) -> VariantConfig:
    """Let the scalars of a published file override the variant's LoRA scale."""
    if variant.lora is None or not scalars:
        return variant
    lora = LoraConfig(
        rank=variant.lora.rank,
        alpha=scalars.get("lora_alpha", variant.lora.alpha),
        rslora=bool(scalars.get("use_rslora", variant.lora.rslora)),
        dropout=variant.lora.dropout,
    )
    return variant.model_copy(update={"lora": lora})


def _check_backbone(path: Path, metadata: Mapping[str, str], network: LoRAT) -> None:
    wanted = metadata.get("backbone_fingerprint", "")
    if wanted and network.fingerprint and wanted != network.fingerprint:
        raise UserError(
            f"{path}: trained on another backbone file of {metadata.get('backbone', 'its kind')} "
            f"(fingerprint {wanted}, not {network.fingerprint}); give that one with --backbone"
        )


def _check_positions(path: Path, base: Mapping[str, Tensor], variant: VariantConfig) -> None:
    """Refuse to resample positions that were fixed for another search size."""
    patches, positions = base.get("patch_embed.proj.weight"), base.get("pos_embed")
    if patches is None or positions is None:
        return  # the comparison of all names reports them
    grid = variant.search_size // patches.shape[-1]
    if positions.shape[1] != grid * grid:
        raise UserError(
            f"{path}: holds positions for {positions.shape[1]} search cells, but variant "
            f"{variant.name} has {grid * grid}; name the variant it was trained as"
        )
