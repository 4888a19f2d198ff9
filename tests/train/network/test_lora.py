from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lorat.configs.schema import LoraConfig
from lorat.train.network.lora import LoraLinear, lora_scale, merge_lora

PARTS = [(), ("q", "k", "v")]


def make(parts=(), dropout=0.0, bias=True):
    torch.manual_seed(0)
    config = LoraConfig(rank=4, alpha=6.0, dropout=dropout)
    layer = LoraLinear(nn.Linear(10, 12, bias=bias), config, parts)
    with torch.no_grad():
        layer.lora_a.normal_()
        layer.lora_b.normal_()
    return layer


def textbook(layer, x):
    """x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ, part by part."""
    pairs = zip(layer.lora_a.chunk(len(layer.lora_b)), layer.lora_b, strict=True)
    update = torch.cat([F.linear(F.linear(x, a), b) for a, b in pairs], dim=-1)
    return F.linear(x, layer.weight, layer.bias) + layer.scale * update


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_the_textbook_form(parts, bias):
    layer = make(parts, bias=bias)
    x = torch.randn(2, 5, 10, requires_grad=True)
    wanted = (x, layer.lora_a, layer.lora_b)
    expected = textbook(layer, x)
    push = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, wanted, push)
    got = layer(x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(torch.autograd.grad(got, wanted, push), expected_grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frozen", [torch.float32, torch.bfloat16])
def test_bfloat16_autocast_is_close_and_gradients_stay_float32(frozen):
    layer = make(("q", "k", "v"))
    x = torch.randn(64, 10)
    exact = textbook(layer, x)
    exact_grad = torch.autograd.grad(exact.square().sum(), layer.lora_a)[0]
    layer.weight.data, layer.bias.data = layer.weight.data.to(frozen), layer.bias.data.to(frozen)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x)
    assert rough.dtype == torch.bfloat16
    rough.float().square().sum().backward()
    assert layer.lora_a.grad.dtype == layer.lora_b.grad.dtype == torch.float32
    assert (rough.float() - exact).norm() / exact.norm() < 0.01
    assert (layer.lora_a.grad - exact_grad).norm() / exact_grad.norm() < 0.02


def test_frozen_weights_get_no_gradient_and_only_the_input_is_kept():
    layer = make()
    kept = []
    x = torch.randn(3, 10)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x).sum()
    owned = {t.data_ptr() for t in (x, layer.weight, layer.lora_a, layer.lora_b)}
    assert {t.data_ptr() for t in kept} == owned
    assert layer.weight.requires_grad is False
    assert layer.bias.requires_grad is False


@pytest.mark.parametrize("parts", PARTS)
def test_merged_layer_computes_the_same(parts):
    layer = make(parts)
    network = nn.Sequential(nn.Sequential(layer), nn.GELU())
    x = torch.randn(7, 10)
    before = network(x)
    merge_lora(network)
    assert not any(isinstance(m, LoraLinear) for m in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    torch.testing.assert_close(network(x), before, rtol=0, atol=1e-5)


def test_dropout_thins_the_pairs_in_training_only():
    layer = make(("q", "k", "v"), dropout=0.5)
    x = torch.randn(4000, 10)
    torch.testing.assert_close(layer.eval()(x), textbook(layer, x), rtol=1e-5, atol=1e-5)
    thinned = layer.train()(x)
    update = textbook(layer, x) - F.linear(x, layer.weight, layer.bias)
    mean_gap = (thinned - textbook(layer, x)).mean(0).abs().max()
    assert not torch.allclose(thinned, textbook(layer, x))
    assert mean_gap < 0.2 * update.std()


def test_both_factors_start_truncated_normal():
    layer = LoraLinear(nn.Linear(256, 768), LoraConfig(rank=16), ("q", "k", "v"))
    assert layer.lora_a.shape == (48, 256)
    assert layer.lora_b.shape == (3, 256, 16)
    for factor in (layer.lora_a, layer.lora_b):
        assert factor.std().item() == pytest.approx(0.02, rel=0.05)


def test_scale_divides_alpha_by_the_rank_or_its_root():
    assert lora_scale(LoraConfig(rank=16, alpha=8)) == 0.5
    assert lora_scale(LoraConfig(rank=16, alpha=8, rslora=True)) == 2.0
