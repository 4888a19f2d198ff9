import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lorat.configs.load import parse
from lorat.configs.schema import LoraConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.layers import replace_layers
from lorat.train.network.blocks.lora import LoraLinear, add_adapters, merge_adapters, unmerge_adapters
from lorat.train.network.variants import assemble, hold_matrices_in
from lorat.train.network.weights.published import published_tensors

ALL = ("q", "k", "v", "proj", "mlp")
LAYERS = [((), ALL), (("q", "k", "v"), ALL), (("q", "k", "v"), ("q", "v")), (("q", "k", "v"), ("k",))]
"""Results of a layer and targets."""


def make(results=(), targets=ALL, dropout=0.0, bias=True):
    torch.manual_seed(0)
    config = LoraConfig(rank=4, alpha=6.0, dropout=dropout, targets=targets)
    layer = LoraLinear(nn.Linear(10, 12, bias=bias), config, results)
    with torch.no_grad():
        layer.lora_a.normal_()
        layer.lora_b.normal_()
    return layer


def textbook(layer, x):
    """x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ, result by result."""
    pieces = list(F.linear(x, layer.weight, layer.bias).chunk(layer.pairing.results, dim=-1))
    pairs = zip(layer.lora_a.chunk(len(layer.lora_b)), layer.lora_b, strict=True)
    for name, (a, b) in zip(layer.parts or ("q",), pairs, strict=True):
        number = "qkv".index(name)
        pieces[number] = pieces[number] + layer.pairing.scale * F.linear(F.linear(x, a), b)
    return torch.cat(pieces, dim=-1)


@pytest.mark.parametrize(("results", "targets"), LAYERS)
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_the_textbook_form(results, targets, bias):
    layer = make(results, targets, bias=bias)
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


@pytest.mark.parametrize(("results", "targets"), LAYERS)
def test_merged_layer_computes_the_same(results, targets):
    layer = make(results, targets)
    network = nn.Sequential(nn.Sequential(layer), nn.GELU())
    x = torch.randn(7, 10)
    before = network(x)
    merge_adapters(network)
    assert not any(isinstance(m, LoraLinear) for m in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    torch.testing.assert_close(network(x), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frozen", [torch.float32, torch.bfloat16, torch.float16])
def test_a_merge_is_the_float32_sum_and_is_undone_bit_for_bit(frozen):
    layer = make(("q", "k", "v"), ("q", "v"))
    network = nn.Sequential(layer, nn.GELU())
    hold_matrices_in(network, frozen)
    names = list(network.state_dict())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    exact = textbook(copy.deepcopy(layer).float(), torch.eye(10)) - layer.bias.float()
    replaced = merge_adapters(network)
    assert torch.equal(network[0].weight[4:8], before["0.weight"][4:8])  # the key's
    torch.testing.assert_close(network[0].weight, exact.t().to(frozen), rtol=0, atol=1e-2)
    if frozen == torch.float32:
        torch.testing.assert_close(network[0].weight, exact.t(), rtol=0, atol=1e-5)
    hold_matrices_in(network, torch.float32)
    network[0].weight.fill_(0.0)
    network[0].bias.fill_(0.0)
    unmerge_adapters(network, replaced)
    assert network[0] is layer
    assert list(network.state_dict()) == names
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_a_network_merged_and_unmerged_is_the_same_network(tiny):
    network = tiny[0].eval()
    draw = torch.Generator().manual_seed(2)
    crops = [torch.randn(1, 3, side, side, generator=draw) for side in (112, 224)]
    mask = torch.ones(1, 8, 8)
    with torch.no_grad():
        before = network(*crops, mask)
        replaced = merge_adapters(network)
        merged = network(*crops, mask)
        unmerge_adapters(network, replaced)
        after = network(*crops, mask)
    for one, other, back in zip(before, merged, after, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-5)
        assert torch.equal(back, one)


@pytest.mark.parametrize("training", [True, False])
def test_layers_come_back_to_training_or_not_as_the_merged_ones_were_last(training):
    network = nn.Sequential(make(dropout=0.5)).train(not training)
    replaced = merge_adapters(network)
    network.train(training)
    unmerge_adapters(network, replaced)
    assert network[0].training == training


@pytest.mark.parametrize(("results", "targets"), [((), ALL), (("q", "k", "v"), ALL), (("q", "k", "v"), ("q", "v"))])
def test_dropout_thins_the_pairs_in_training_only(results, targets):
    layer = make(results, targets, dropout=0.5)
    x = torch.randn(4000, 10)
    torch.testing.assert_close(layer.eval()(x), textbook(layer, x), rtol=1e-5, atol=1e-5)
    thinned = layer.train()(x)
    update = textbook(layer, x) - F.linear(x, layer.weight, layer.bias)
    mean_gap = (thinned - textbook(layer, x)).mean(0).abs().max()
    assert not torch.allclose(thinned, textbook(layer, x))
    assert mean_gap < 0.2 * update.std()


def pairs(network):
    return {n for n, p in network.named_parameters() if ".lora_" in n and n.startswith("blocks.0")}


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        (("q", "v"), ["attn.qkv"]),
        (("proj",), ["attn.proj"]),
        (("mlp",), ["mlp.fc1", "mlp.fc2"]),
        (("k", "mlp"), ["attn.qkv", "mlp.fc1", "mlp.fc2"]),
    ],
)
def test_only_targets_have_pairs(make_variant, targets, layers):
    network = assemble(make_variant(targets=targets), None)
    assert pairs(network) == {f"blocks.0.{layer}.lora_{x}" for layer in layers for x in "ab"}
    frozen = [p for n, p in network.blocks.named_parameters() if ".lora_" not in n]
    assert not any(p.requires_grad for p in frozen)


def test_query_and_value_alone_leave_the_key_as_it_was(make_variant):
    network = assemble(make_variant(targets=("v", "q")), None)
    layer = network.blocks[0].attn.qkv
    assert layer.parts == ("q", "v")
    assert layer.lora_a.shape == (16, 64)
    assert layer.lora_b.shape == (2, 64, 8)
    x = torch.randn(5, 64)
    base = F.linear(x, layer.weight, layer.bias)
    same = [torch.allclose(a, b) for a, b in zip(layer(x).chunk(3, 1), base.chunk(3, 1), strict=True)]
    assert same == [False, True, False]
    trained, frozen = published_tensors(network)
    names = {name for name in trained if name.startswith("blocks.0.")}
    assert names == {f"blocks.0.attn.qkv.{part}.lora.{x}" for part in "qv" for x in "AB"}
    assert "blocks.0.attn.qkv.weight" in frozen


def test_separate_projections_have_a_pair_where_they_are_targets():
    names = ["q_proj", "k_proj", "v_proj", "proj"]
    block = nn.ModuleDict(
        {
            "attn": nn.ModuleDict({name: nn.Linear(8, 8, name != "k_proj") for name in names}),
            "mlp": nn.ModuleDict({name: nn.Linear(8, 8) for name in ("fc1_g", "fc1_x", "fc2")}),
        }
    )
    add_adapters(block, LoraConfig(rank=2, targets=("k", "v", "mlp")))
    found = {path for path, layer in block.named_modules() if isinstance(layer, LoraLinear)}
    assert found == {"attn.k_proj", "attn.v_proj", "mlp.fc1_g", "mlp.fc1_x", "mlp.fc2"}
    layer, x = block["attn"]["k_proj"], torch.randn(3, 8)
    torch.testing.assert_close(layer(x), textbook(layer, x), rtol=1e-5, atol=1e-6)


def test_targets_are_checked_and_kept_in_one_order():
    assert LoraConfig().targets == ALL
    assert LoraConfig(targets=["mlp", "v", "q", "v"]).targets == ("q", "v", "mlp")
    for wrong, message in ((["q", "w"], "targets.1.*'q', 'k', 'v', 'proj' or 'mlp'"), ([], "targets")):
        with pytest.raises(UserError, match=message):
            parse(LoraConfig, {"targets": wrong}, "mine.yaml")


def test_another_adapter_may_take_the_layers_places():
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 3), nn.GELU()))
    kept, seen = network[0], []

    def replace(path, layer):
        seen.append(path)
        return layer if path == "0" else nn.Sequential(layer, nn.Linear(3, 4))

    replace_layers(network, nn.Linear, replace)
    assert seen == ["0", "1.0"]
    assert network[0] is kept
    assert network(torch.ones(1, 2)).shape == (1, 4)


def test_layers_without_data_say_their_shapes():
    with torch.device("meta"):
        layer = LoraLinear(nn.Linear(8, 12), LoraConfig(rank=2), ("q", "k", "v"))
        x = torch.randn(3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.sum().backward()
    assert y.shape == (3, 12)
    assert x.grad.shape == x.shape
    assert layer.lora_b.grad.shape == layer.lora_b.shape


def test_both_factors_start_truncated_normal():
    layer = LoraLinear(nn.Linear(256, 768), LoraConfig(rank=16), ("q", "k", "v"))
    assert layer.lora_a.shape == (48, 256)
    assert layer.lora_b.shape == (3, 256, 16)
    for factor in (layer.lora_a, layer.lora_b):
        assert factor.std().item() == pytest.approx(0.02, rel=0.05)


def test_scale_divides_alpha_by_the_rank_or_its_root():
    assert LoraConfig(rank=16, alpha=8).scale == 0.5
    assert LoraConfig(rank=16, alpha=8, rslora=True).scale == 2.0
