from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lorat.configs.schema import BackboneConfig, LoraConfig, VariantConfig
from lorat.train.network.trained import BackboneWeights, load_weights
from lorat.train.network.variants import assemble
from lorat.train.network.weights.containers import read_tensors, write_tensors

SMALL = Path(__file__).parents[2] / "golden"
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture(scope="session")
def published() -> Path:
    """All of the published system's arrays, outside the checkout."""
    folder = Path(__file__).parents[4] / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    return folder


@pytest.fixture(scope="session")
def golden_state() -> Path:
    """A tiny published network: frozen, LoRA and head tensors, and the LoRA scalars."""
    return SMALL / "g4_tiny_lorat_224_lora_state.safetensors"


@pytest.fixture
def make_variant():
    def make(size: int = 224, gated: bool = False, **lora: float) -> VariantConfig:
        args = {"embed_dim": 64, "depth": 3, "num_heads": 4} | ({"mlp_ratio": 5.5} if gated else {})
        kind = "giant" if gated else "small"
        return VariantConfig(
            name=f"tiny-{size}",
            backbone=BackboneConfig(timm=f"vit_{kind}_patch14_dinov2.lvd142m", args=args),
            lora=LoraConfig(**({"rank": 8, "alpha": 16.0} | lora)),
            template_size={224: 112, 378: 196}[size],
            search_size=size,
        )

    return make


@pytest.fixture
def tiny(make_variant):
    """A seeded LoRA network on an invented backbone, and its variant."""
    torch.manual_seed(1)
    variant = make_variant()
    network = assemble(variant, None)
    with torch.no_grad():
        for block in network.blocks:  # timm's initial scales would hide the blocks
            block.ls1.gamma.fill_(0.5)
            block.ls2.gamma.fill_(0.5)
    return network, variant


@pytest.fixture
def golden_network(golden_state, tmp_path):
    """The tiny published network in training form, for a variant."""

    def build(variant: VariantConfig):
        tensors, _ = read_tensors(golden_state)
        weights = BackboneWeights(str(golden_state), _frozen(tensors))
        network = assemble(variant, weights)
        load_weights(_trained_file(tensors, tmp_path), network)
        return network

    return build


def _trained_file(tensors, folder):
    path = folder / "published.bin"
    write_tensors(path, {n: t for n, t in tensors.items() if is_trained(n)}, {})
    return path


def is_trained(name: str) -> bool:
    return name.startswith(("head.", "token_type")) or ".lora." in name or "lora" in name


def _frozen(tensors):
    frozen = {}
    for name, tensor in tensors.items():
        if ".qkv.q.linear." in name:
            names = [name.replace(".q.linear", f".{part}.linear") for part in "qkv"]
            frozen[name.replace(".q.linear", "")] = torch.cat([tensors[n] for n in names])
        elif not is_trained(name) and ".qkv." not in name:
            frozen[name.replace(".linear", "")] = tensor
    return frozen


def inputs(arrays) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    template, search = (
        (torch.from_numpy(np.asarray(arrays[k])).float() / 255 - MEAN) / STD
        for k in ("z_u8", "x_u8")
    )
    return template, search, torch.from_numpy(np.asarray(arrays["z_feat_mask"]))


@pytest.fixture
def golden_inputs():
    return inputs


@pytest.fixture(scope="session")
def golden_arrays():
    return dict(np.load(SMALL / "g4_model_io_224.npz"))
