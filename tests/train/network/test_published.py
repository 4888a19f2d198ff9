"""The tiny published network, reproduced: outputs, losses, gradients, merging."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.trained import load_network
from lorat.train.network.variants import build_network
from lorat.train.network.weights.published import published_tensors
from tests.train.network.golden import SMALL, losses_of, published_gradients


def backward(network, arrays, batch):
    losses = losses_of(network.train()(*batch), arrays)
    losses.total.backward()
    return losses


def assert_same(prediction, arrays, prefix="", atol=1e-4):
    for name in ("score_map", "boxes"):
        got, wanted = getattr(prediction, name).detach().numpy(), arrays[prefix + name]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)


def test_outputs_are_those_of_the_published_network(golden_network, make_variant, golden_arrays, golden_inputs):
    network = golden_network(make_variant()).eval()
    with torch.no_grad():
        assert_same(network(*golden_inputs(golden_arrays)), golden_arrays)


def test_rank_stabilised_scale_is_that_of_the_published_network(
    make_variant, golden_state, golden_arrays, golden_inputs, tmp_path
):
    tensors = load_file(golden_state) | {"use_rslora": torch.tensor(True)}
    save_file(tensors, tmp_path / "model.bin")
    network, variant = load_network(tmp_path / "model.bin", variant=make_variant())
    assert variant.lora.rslora
    with torch.no_grad():
        assert_same(network(*golden_inputs(golden_arrays)), golden_arrays, "rslora_")


def test_loss_and_gradient_norms_are_those_of_the_published_training(
    golden_network, make_variant, golden_arrays, golden_inputs
):
    network = golden_network(make_variant())
    losses = backward(network, golden_arrays, golden_inputs(golden_arrays))
    wanted = json.loads((SMALL / "g4_grad_norms_224.json").read_text())
    assert losses.total.item() == pytest.approx(wanted["loss"], rel=1e-5)
    assert losses.score.item() == pytest.approx(wanted["metrics"]["Loss/bce"], rel=1e-5)
    assert losses.box.item() == pytest.approx(wanted["metrics"]["Loss/iou"], rel=1e-5)
    norms = {name: grad.norm().item() for name, grad in published_gradients(network).items()}
    assert norms == pytest.approx(wanted["grad_norms"], rel=1e-4)


def test_every_gradient_is_that_of_the_published_training(
    golden_network, make_variant, golden_arrays, golden_inputs, published
):
    network = golden_network(make_variant())
    backward(network, golden_arrays, golden_inputs(golden_arrays))
    wanted = load_file(published / "g4_grads_224.safetensors")
    got = published_gradients(network)
    assert got.keys() == wanted.keys()
    for name, grad in wanted.items():
        scale = grad.abs().max()
        torch.testing.assert_close(got[name] / scale, grad / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [224, 378])
def test_backbone_file_and_trained_file_together_give_the_published_outputs(
    size, make_variant, golden_inputs, golden_state, published, tmp_path
):
    arrays = np.load(published / f"g4_model_io_{size}.npz")
    backbone = published / "g4_tiny_dinov2_backbone.safetensors"
    network = build_network(make_variant(size), backbone=backbone)
    trained, _ = published_tensors(network)
    state = load_file(golden_state)
    for name, tensor in trained.items():
        tensor.copy_(state[name])
    template, search, mask = golden_inputs(arrays)
    tokens = network.embed_template(template, mask)
    np.testing.assert_allclose(tokens.detach(), arrays["z_feat"], rtol=0, atol=1e-5)
    assert_same(network(template, search, mask), arrays)
    merge_adapters(network)
    with torch.no_grad():
        assert_same(network(template, search, mask), arrays, "merged_", atol=2e-5)


@pytest.mark.parametrize("form", ["lora", "merged"])
def test_whole_published_files_load_without_a_backbone(
    form, make_variant, golden_arrays, golden_inputs, golden_state, published
):
    path = golden_state if form == "lora" else published / "g4_tiny_lorat_224_merged_state.safetensors"
    network, _ = load_network(path, variant=make_variant())
    with torch.no_grad():
        assert_same(network(*golden_inputs(golden_arrays)), golden_arrays)


def test_gated_network_gives_the_published_outputs(make_variant, golden_inputs, published):
    path = published / "g4_tiny_swiglu_224_lora_state.safetensors"
    network, _ = load_network(path, variant=make_variant(gated=True))
    arrays = np.load(published / "g4_model_io_swiglu_224.npz")
    with torch.no_grad():
        assert_same(network(*golden_inputs(arrays)), arrays)
