"""A variant's network, from its configuration."""

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from lorat.configs.schema import VariantConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.layers import Dense
from lorat.train.network.blocks.lora import LoraLinear, add_lora
from lorat.train.network.blocks.lorat import LoRAT
from lorat.train.network.blocks.vit import Transformer
from lorat.train.network.weights.backbones import BackboneWeights, load_backbone


def build_network(
    variant: VariantConfig, *, backbone: Path | None = None, dtype_frozen: torch.dtype = torch.float32
) -> LoRAT:
    """Build the network to train: pretrained where the variant says so (weights file, else ``$LORAT_BACKBONES``, else
    timm's hub), with LoRA where it has it. New weights are drawn from torch's global generator. With LoRA only the
    pairs, the token types, the head and the norm before the blocks (CLIP has one) require gradients; without,
    everything does. Frozen matrices are held in `dtype_frozen`; bfloat16 saves the cast of each step under autocast. A
    ``UserError`` tells of a backbone that cannot be had or built, or that sizes do not fit.
    """
    weights = load_backbone(variant.backbone, backbone) if variant.backbone.pretrained else None
    network = assemble(variant, weights)
    if weights is not None:
        network.fingerprint = weights.fingerprint()
    hold_matrices_in(network, dtype_frozen)
    return network


def assemble(variant: VariantConfig, weights: BackboneWeights | None) -> LoRAT:
    """Build the network around the given backbone tensors, or around timm's initial values."""
    with nullcontext() if weights is None else torch.device("meta"):
        transformer = Transformer(variant.backbone, variant.drop_path)
    if weights is not None:
        weights.load_into(transformer)
    template, search = (_grid(variant, name, transformer.patch_size) for name in ("template_size", "search_size"))
    if template > search:
        sizes = f"template_size {variant.template_size} must not exceed search_size {variant.search_size}"
        raise UserError(f"variant {variant.name}: {sizes}, whose positions it shares")
    network = LoRAT(transformer, template, search, variant.token_type_std)
    if variant.lora is not None:
        network.requires_grad_(False)
        for part in (network.token_type_embed, network.norm_pre, network.head):
            part.requires_grad_(True)
        add_lora(network.blocks, variant.lora)
    return network


def empty_network(variant: VariantConfig, dtype: torch.dtype = torch.float32) -> LoRAT:
    """Return the network in training form on the meta device, frozen matrices in `dtype`."""
    with torch.device("meta"):
        network = assemble(variant, None)
    hold_matrices_in(network, dtype)
    return network


def hold_matrices_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast frozen matrices (and their biases) in place; norms, scales and tables stay float32."""
    for module in network.modules():
        if isinstance(module, Dense | LoraLinear | nn.Conv2d):
            for parameter in (module.weight, module.bias):
                if parameter is not None and not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)


def not_finite(dtype: torch.dtype) -> str:
    """Say what may be wrong where a network has or gives numbers of a type that are not finite."""
    narrow = "" if dtype == torch.float32 else " or the number type is too narrow"
    remedy = "try --dtype float32" if narrow else "name whole ones"
    return f"not finite in {str(dtype).removeprefix('torch.')}: the weights are damaged{narrow}; {remedy}"


def _grid(variant: VariantConfig, name: str, patch: int) -> int:
    size = getattr(variant, name)
    if size % patch:
        below = size // patch * patch
        nearest = f"{below} or {below + patch}" if below else f"{patch}"
        what = f"{name} {size} is no multiple of the patch size {patch} of {variant.backbone.timm}"
        raise UserError(f"variant {variant.name}: {what}; take {nearest}")
    return size // patch
