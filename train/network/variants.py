"""A variant's network, from its configuration."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from lorat.configs.schema import BackboneConfig, VariantConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.layers import Adapter, Dense
from lorat.train.network.blocks.lora import add_adapters
from lorat.train.network.blocks.lorat import LoRAT, OneStream
from lorat.train.network.blocks.loratv2 import LoRATv2, freeze_first_phase, separate_streams
from lorat.train.network.blocks.plan import Plan
from lorat.train.network.blocks.spmtrack import SPMTrack
from lorat.train.network.blocks.vit import Transformer
from lorat.train.network.weights.backbones import BackboneWeights, load_backbone
from lorat.train.network.weights.naming import block_of

# What the last norm scales by at first, with nothing loaded. SPMTrack's head sees tokens times their product with the
# state token, which is not scaled: from 1, such numbers are large and toy networks learn late, of three seeds two not
# within 37,000 crops.
_SPMTRACK_NORM = 0.2
_AFTER_BLOCKS = ("norm.", "head.")


def build_network(
    variant: VariantConfig, *, backbone: Path | None = None, dtype_frozen: torch.dtype = torch.float32
) -> OneStream:
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


def assemble(variant: VariantConfig, weights: BackboneWeights | None) -> OneStream:
    """Build the network around the given backbone tensors, or around timm's initial values."""
    plan, initial = plan_and_values(variant.backbone, values=weights is None)
    held = weights or BackboneWeights(f"timm's {variant.backbone.timm}", initial)
    network = around(filled(plan, variant, held), variant)
    if weights is None and variant.method == "spmtrack" and isinstance(network.norm, nn.LayerNorm):
        nn.init.constant_(network.norm.weight, _SPMTRACK_NORM)
    return network


def plan_and_values(config: BackboneConfig, *, values: bool) -> tuple[Plan, dict[str, Tensor]]:
    """Ask timm, whose import takes seconds, for a backbone's plan and, where they are wanted, its initial `values`."""
    from lorat.train.network.weights.timm_models import timm_model

    with nullcontext() if values else torch.device("meta"):
        return timm_model(config)


def filled(plan: Plan, variant: VariantConfig, weights: BackboneWeights) -> Transformer:
    """Build a variant's backbone and give it its tensors."""
    transformer = Transformer(plan, variant.backbone, variant.drop_path)
    weights.load_into(transformer)
    return transformer


def around(transformer: Transformer, variant: VariantConfig) -> OneStream:
    """Build the network around a backbone that has its tensors."""
    network = _network(variant, transformer)
    if variant.lora is not None:
        network.requires_grad_(False)
        for part in network.new_parts:
            part.requires_grad_(True)
        add_adapters(network.blocks, variant.lora, variant.streams)
        if variant.second_phase:
            freeze_first_phase(network)
    elif variant.streams > 1:
        separate_streams(network.blocks, variant.streams)
    return network


@torch.no_grad()
def freeze_blocks(network: OneStream, count: int) -> None:
    """Let the first `count` blocks and what comes before them, token types too, stay as they are, so that no gradient
    passes them. Their pairs, if any, lose their effect: B becomes zero. A ``UserError`` says that no block is left.
    """
    if count >= (every := len(network.blocks)):
        raise UserError(f"train.frozen_blocks={count}: the network has {every} blocks; leave some to train")
    for name, parameter in network.named_parameters() if count else ():
        block = block_of(name)
        if (block is not None and block < count) or (block is None and not name.startswith(_AFTER_BLOCKS)):
            parameter.requires_grad_(False)
            if ".lora_b" in name:
                parameter.zero_()


def _network(variant: VariantConfig, transformer: Transformer) -> OneStream:
    """Take over a backbone's parts, untrained in their own places."""
    template, search = (_grid(variant, name, transformer.plan.patch) for name in ("template_size", "search_size"))
    reference = None if variant.reference_size is None else _grid(variant, "reference_size", transformer.plan.patch)
    for name, grid in (("template_size", template), ("reference_size", reference or 0)):
        if grid > search:
            sizes = f"{name} {getattr(variant, name)} must not exceed search_size {variant.search_size}"
            raise UserError(f"variant {variant.name}: {sizes}, whose positions it shares")
    parts = transformer, template, search, variant.token_type_std
    if variant.method == "lorat":
        return LoRAT(*parts)
    if variant.method == "spmtrack":
        return SPMTrack(*parts, variant.templates)
    if transformer.plan.rotary is not None:
        what = f"variant {variant.name}: method loratv2 has no rotary positions, which {variant.backbone.timm} has"
        raise UserError(f"{what}; use a DINOv2 model")
    return LoRATv2(*parts, reference)


def empty_network(variant: VariantConfig, dtype: torch.dtype = torch.float32, plan: Plan | None = None) -> OneStream:
    """Return the network in training form on the meta device, frozen matrices in `dtype`; without a plan timm is asked
    for it.
    """
    plan = plan or plan_and_values(variant.backbone, values=False)[0]
    with torch.device("meta"):
        network = around(Transformer(plan, variant.backbone, variant.drop_path), variant)
    hold_matrices_in(network, dtype)
    return network


def hold_matrices_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast frozen matrices (and their biases) in place; norms, scales and tables stay float32."""
    for parameter in _matrices(network):
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def hold_tables_in_float32(network: nn.Module) -> None:
    """Cast all but matrices (and their biases) in place."""
    matrices = {id(parameter) for parameter in _matrices(network)}
    for parameter in network.parameters():
        if id(parameter) not in matrices:
            parameter.data = parameter.data.float()


def _matrices(network: nn.Module) -> Iterator[Tensor]:
    for module in network.modules():
        if isinstance(module, Dense | Adapter | nn.Conv2d):
            yield from (parameter for parameter in (module.weight, module.bias) if parameter is not None)


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
