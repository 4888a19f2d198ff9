from pathlib import Path

import pytest
import torch

from lorat.configs.schema import BackboneConfig
from lorat.train.network.blocks.vit import Transformer
from lorat.train.network.variants import assemble, hold_matrices_in
from lorat.train.network.weights.backbones import BackboneWeights
from lorat.train.network.weights.timm_models import timm_model
from tests.conftest import Golden
from tests.train.network import golden


@pytest.fixture(scope="session")
def published(golden: Golden) -> Golden:
    """All of the published system's arrays."""
    return golden


@pytest.fixture(scope="session")
def golden_state() -> Path:
    """A tiny published network."""
    return golden.STATE


@pytest.fixture
def make_variant():
    return golden.variant


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
def golden_network():
    """The tiny published network in training form, for a variant."""

    return golden.network_of


def transformer_of(config: BackboneConfig, drop_path: float = 0.0) -> Transformer:
    """A backbone with timm's initial values."""
    plan, values = timm_model(config)
    transformer = Transformer(plan, config, drop_path)
    BackboneWeights("timm", values).load_into(transformer)
    return transformer


def crops(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Seeded inputs of a network of 8 x 8 and 16 x 16 cells of 14 pixels."""
    torch.manual_seed(2)
    mask = torch.zeros(batch, 8, 8, dtype=torch.bool)
    mask[:, 2:5, 3:6] = True
    return torch.randn(batch, 3, 112, 112), torch.randn(batch, 3, 224, 224), mask


def assert_gradients_reach_what_is_trained(network, inputs, dtype):
    """A backward pass with frozen matrices in a number type, under autocast where that is not float32."""
    hold_matrices_in(network, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        score, boxes = network(*inputs)
    (score.square().mean() + boxes.square().mean()).backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.requires_grad:
            assert parameter.grad.abs().max() > 0, name


@pytest.fixture
def golden_inputs():
    return golden.inputs


@pytest.fixture(scope="session")
def golden_arrays():
    return golden.arrays()
