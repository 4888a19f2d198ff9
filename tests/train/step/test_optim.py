import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lorat.configs.load import load_recipe, load_variant
from lorat.configs.schema import TrainConfig
from lorat.train.network.variants import assemble
from lorat.train.step import optimizer as optim
from lorat.train.step.optimizer import (
    box_weight,
    build_optimizer,
    learning_rate,
    parameter_groups,
    rate_share,
    set_learning_rate,
)

ONE_ROW = "head.cls_mlp.layers.2.weight"
GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "g10_lr_and_groups_B224.json").read_text())


def test_rates_are_the_published_ones():
    recipe = TrainConfig()
    assert recipe.pairs_per_epoch // recipe.batch_size == GOLDEN["iterations_per_epoch"] == 1024
    rates = [learning_rate(t, recipe) for t in GOLDEN["iterations"]]
    assert rates == pytest.approx(GOLDEN["lr_after_step_update_t"], rel=1e-9)
    # The cosine starts after the warm-up, so the run ends before it does.
    assert learning_rate(170 * 1024 - 1, recipe) == pytest.approx(1.03e-6, rel=0.01)


def test_the_rate_never_leaves_its_bounds_even_after_the_end():
    recipe = TrainConfig(epochs=3, warmup_epochs=0.5, pairs_per_epoch=80, batch_size=8)
    rates = [learning_rate(step, recipe) for step in range(80)]
    assert rates[0] == 1e-7
    assert max(rates) == rates[5] == pytest.approx(1e-4)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(1e-6)
    assert learning_rate(0, TrainConfig(warmup_epochs=0)) == pytest.approx(1e-4)


def empty(name: str, *overrides: str) -> nn.Module:
    with torch.device("meta"):
        return assemble(load_variant(name, overrides), None)


def names_in(network: nn.Module, groups: list[dict]) -> list[set[str]]:
    names = {id(p): name for name, p in network.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for group in groups]


def of_names(network: nn.Module, groups: list[dict], key: str) -> dict[str, float]:
    """What the groups say of each parameter."""
    named = zip(names_in(network, groups), groups, strict=True)
    return {name: group[key] for names, group in named for name in names}


def published_names(name: str) -> set[str]:
    layer, _, factor = name.rpartition(".lora_")
    if not layer:
        return {name}
    parts = [f"{layer}.{part}" for part in "qkv"] if layer.endswith("qkv") else [layer]
    return {f"{part}.lora.{factor.upper()}" for part in parts}


def test_weight_decay_falls_on_the_published_parameters():
    network = empty("B-224")
    groups = parameter_groups(network, 0.1)
    for group, names in zip(groups, names_in(network, groups), strict=True):
        alike = [g["params"] for g in GOLDEN["param_groups"] if g["weight_decay"] == group["weight_decay"]]
        assert set().union(*map(published_names, names)) == set().union(*alike)
    assert [sum(p.numel() for p in g["params"]) for g in groups] == [12_979_200, 3_845 + 2_304]


def test_frozen_parameters_are_in_no_group():
    network = nn.Linear(3, 3)
    network.weight.requires_grad_(False)
    assert names_in(network, parameter_groups(network, 0.1)) == [{"bias"}]


def test_rates_fall_with_the_distance_from_the_head():
    network = empty("B-224")
    groups = parameter_groups(network, 0.1, layer_decay=0.5)
    shares = of_names(network, groups, "rate_share")
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert shares.keys() == trained
    for name, share in shares.items():
        block = name.split(".")[1] if name.startswith("blocks.") else "12"
        assert share == 0.5 ** (12 - int(block)), name
    plain = parameter_groups(network, 0.1)
    decays = [of_names(network, each, "weight_decay") for each in (groups, plain)]
    assert decays[0] == decays[1]
    assert {group["rate_share"] for group in plain} == {1.0}
    order = [(-group["rate_share"], group["weight_decay"] == 0) for group in groups]
    assert order == sorted(order)  # which checkpoints count on


def test_without_lora_everything_is_trained_and_what_comes_before_the_blocks_moves_least():
    network = empty("S-224", "lora=null")
    groups = parameter_groups(network, 0.1, layer_decay=0.75)
    assert sum(len(g["params"]) for g in groups) == len(list(network.parameters()))
    for name in ("patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed"):
        assert rate_share(name, 12, 0.75) == pytest.approx(0.75**13)
    for name in ("token_type_embed", "norm.weight", "head.cls_mlp.layers.0.weight"):
        assert rate_share(name, 12, 0.75) == 1.0
    assert rate_share("blocks.0.attn.qkv.weight", 12, 0.75) == pytest.approx(0.75**12)
    assert rate_share("blocks.11.norm1.bias", 12, 0.75) == 0.75
    assert rate_share("prefix_tokens", 12, 0.75) == rate_share("pos_embed", 12, 0.75)
    decays = of_names(network, groups, "weight_decay")
    for name in ("pos_embed", "patch_embed.proj.weight", "blocks.3.ls1.gamma"):
        assert decays[name] == 0.0
    assert decays["blocks.3.attn.qkv.weight"] == 0.1


def test_a_group_gets_its_share_of_the_rate_after_loading_too():
    network = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])})
    optimizer = build_optimizer(network, 0.1, layer_decay=0.5)
    assert optimizer.defaults["fused"]
    loaded = build_optimizer(network, 0.1, layer_decay=0.5)
    loaded.load_state_dict(optimizer.state_dict())
    set_learning_rate(loaded, 0.08)
    rates = [group["lr"] for group in loaded.param_groups]
    assert rates == pytest.approx([0.04, 0.04, 0.02, 0.02])


def test_optimiser_moves_by_the_rate_that_was_set():
    network = nn.Linear(2, 2, bias=False)
    optimizer = build_optimizer(network, weight_decay=0.0)
    before = network.weight.detach().clone()
    network.weight.grad = torch.ones(2, 2)
    set_learning_rate(optimizer, 0.01)
    optimizer.step()
    torch.testing.assert_close(before - network.weight, torch.full((2, 2), 0.01))


def test_clipping_bounds_the_common_norm_and_tells_the_norm_before():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    before = optim.clip_gradients(network, 1.0)
    assert before.item() == pytest.approx(3.0 * 12**0.5)
    assert optim.clip_gradients(network, 1.0).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("spmtrack-B-378", {"token_type_embed", "track_query", "query_embed"}),
        ("loratv2-p1-B-224", {"token_type_embed"}),
        ("loratv2-p2-B-378", {"search_type_embed"}),
    ],
)
def test_of_the_trackers_that_remember_factors_and_routers_decay_and_tokens_and_biases_do_not(name, bare):
    network = empty(name)
    decays = of_names(network, parameter_groups(network, 0.1), "weight_decay")
    rows = {name for name in decays if name.startswith("head.") and name.endswith("bias")} | {ONE_ROW}
    assert {name for name, decay in decays.items() if decay == 0.0} == bare | rows


@pytest.mark.parametrize(
    ("name", "batch", "lowest", "warm"),
    [("spmtrack", 128, 1e-6, 1), ("spmtrack-L", 64, 1e-6, 10), ("spmtrack-g", 32, 1e-6, 1), ("loratv2", 128, 5e-6, 1)],
)
def test_recipes_of_the_trackers_that_remember_are_the_published_ones(name, batch, lowest, warm):
    plan = load_recipe(name).train
    assert (plan.epochs, plan.pairs_per_epoch, plan.batch_size, plan.lr_min) == (170, 131072, batch, lowest)
    assert (plan.lr, plan.lr_warmup, plan.warmup_epochs, plan.weight_decay, plan.clip_norm) == (1e-4, 1e-7, 2, 0.1, 1.0)
    steps = plan.pairs_per_epoch // plan.batch_size
    assert [box_weight(step, plan) for step in (0, 2 * steps - 1, 2 * steps)] == [warm, warm, 1]
