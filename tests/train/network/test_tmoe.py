"""The mixture of experts: its published forms, and what its formula gives, experts one by one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from lorat.configs.schema import LoraConfig
from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.blocks.tmoe import TmoeLinear
from tests.train.network.plain_tmoe import textbook

FORMS = {"default": {}, "rsexpert": {"rslora": True}, "shared_expert": {"shared_expert": True}}
FORMS |= {"route_compression": {"route_compression": True}}


def make(results=(), inputs=10, out=12, **form) -> TmoeLinear:
    torch.manual_seed(0)
    layer = TmoeLinear(nn.Linear(inputs, out), LoraConfig(**({"rank": 4, "alpha": 6.0, "experts": 3} | form)), results)
    with torch.no_grad():
        for factor in (layer.lora_a, layer.lora_b, layer.lora_router):
            factor.normal_()
    return layer


@pytest.mark.parametrize("name", FORMS)
def test_a_layer_gives_what_the_published_one_does(name, published):
    arrays = dict(np.load(published / "g11_spmtrack_tmoe_layer.npz"))
    linear = nn.Linear(64, 80)
    layer = TmoeLinear(linear, LoraConfig(rank=8, alpha=16.0, experts=4, **FORMS[name]))
    given = {"weight": arrays["weight"], "bias": arrays["bias"], "tmoe.expert_route.weight": arrays["router"]}
    given |= {f"tmoe.routed_experts.{e}": expert for e, expert in enumerate(arrays["experts"])}
    given |= {f"tmoe.compress_expert.{e}": first for e, first in enumerate(arrays["compress_each"])}
    given |= {"tmoe.compress_expert": arrays["compress"], "tmoe.shared_expert": arrays["shared"]}
    tensors = layer.factors() | {"weight": layer.weight.detach(), "bias": layer.bias.detach()}
    for key, tensor in tensors.items():
        tensor.copy_(torch.from_numpy(given[key]))
    if name != "default":
        theirs = {key.removeprefix("linear.") for key in arrays[f"keys_{name}"].tolist()}
        assert tensors.keys() == theirs
    y = layer(torch.from_numpy(arrays["x"])).detach()
    np.testing.assert_allclose(y, arrays[f"y_{name}"], rtol=0, atol=1e-5 * np.abs(arrays[f"y_{name}"]).max())


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("results", [(), ("q", "k", "v")])
def test_output_and_gradients_are_those_of_the_formula(results, form):
    layer = make(results, **form)
    x = torch.randn(2, 5, 10, requires_grad=True)
    wanted = (x, layer.lora_a, layer.lora_b, layer.lora_router)
    expected, got = textbook(layer, x), layer(x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
    push = torch.randn_like(expected)
    pairs = zip(torch.autograd.grad(got, wanted, push), torch.autograd.grad(expected, wanted, push), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_targets_alone_have_experts_and_dropout_thins_what_these_see():
    layer = make(("q", "k", "v"), targets=("q", "v"), dropout=0.5)
    assert layer.parts == ("q", "v")
    x = torch.randn(4000, 10)
    exact = textbook(layer, x)
    torch.testing.assert_close(layer.eval()(x), exact, rtol=1e-5, atol=1e-4)
    thinned = layer.train()(x)
    assert torch.equal(thinned[:, 4:8], F.linear(x, layer.weight, layer.bias)[:, 4:8])
    assert not torch.allclose(thinned, exact)
    assert (thinned - exact).mean(0).abs().max() < 0.2 * (exact - F.linear(x, layer.weight, layer.bias)).std()


def test_autocast_is_close_and_gradients_are_float32():
    layer = make(("q", "k", "v"))
    x = torch.randn(64, 10)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x)
    assert rough.dtype == torch.bfloat16
    rough.float().square().sum().backward()
    exact = textbook(layer, x)
    assert (rough.float() - exact).norm() / exact.norm() < 0.02
    for factor in (layer.lora_a, layer.lora_b, layer.lora_router):
        theirs = torch.autograd.grad(exact.square().sum(), factor, retain_graph=True)[0]
        assert factor.grad.dtype == torch.float32
        assert (factor.grad - theirs).norm() / theirs.norm() < 0.03


@pytest.mark.parametrize("init", ["bert", "lora", "gaussian"])
def test_factors_begin_as_they_are_to(init):
    layer = TmoeLinear(nn.Linear(256, 512), LoraConfig(rank=32, experts=4, init=init))
    a, b, router = layer.lora_a, layer.lora_b, layer.lora_router
    assert a.std().item() == pytest.approx({"bert": 0.02, "lora": 0.0625 / 3**0.5, "gaussian": 1 / 32}[init], rel=0.1)
    assert b.std().item() == pytest.approx(0.02 if init == "bert" else 0.0, rel=0.1)
    assert router.abs().max() <= 0.0625
    assert router.std().item() == pytest.approx(0.0625 / 3**0.5, rel=0.1)


def test_a_mixture_is_not_merged():
    network = nn.Sequential(make())
    kept = network[0]
    assert merge_adapters(network) == {}
    assert network[0] is kept


@pytest.mark.parametrize(
    "wrong", [{"shared_expert": True}, {"experts": 2, "shared_expert": True, "route_compression": True}]
)
def test_forms_that_exclude_each_other_are_refused(wrong):
    with pytest.raises(ValidationError, match=r"shared_expert.*set"):
        LoraConfig(**wrong)
