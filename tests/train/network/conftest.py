import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from lorat.configs.schema import BackboneConfig, LoraConfig, VariantConfig
from lorat.train.network.trained import load_weights
from lorat.train.network.variants import assemble

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
def golden_network(golden_state):
    """The tiny published network in training form, for a variant."""

    def build(variant: VariantConfig):
        network = assemble(variant, None)
        load_weights(golden_state, network)
        return network

    return build


@pytest.fixture
def said(caplog, monkeypatch):
    """What lorat logs."""
    monkeypatch.setattr(logging.getLogger("lorat"), "propagate", True)
    return caplog


def crops(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Seeded inputs of a network of 8 x 8 and 16 x 16 cells of 14 pixels."""
    torch.manual_seed(2)
    mask = torch.zeros(batch, 8, 8, dtype=torch.bool)
    mask[:, 2:5, 3:6] = True
    return torch.randn(batch, 3, 112, 112), torch.randn(batch, 3, 224, 224), mask


@pytest.fixture
def golden_inputs():
    def inputs(arrays) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        template, search = (
            (torch.from_numpy(np.asarray(arrays[k])).float() / 255 - MEAN) / STD for k in ("z_u8", "x_u8")
        )
        return template, search, torch.from_numpy(np.asarray(arrays["z_feat_mask"]))

    return inputs


@pytest.fixture(scope="session")
def golden_arrays():
    return dict(np.load(SMALL / "g4_model_io_224.npz"))
