from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lorat.configs.load import load_variant
from lorat.train.network.variants import assemble
from lorat.train.optim import (
    Schedule,
    build_optimizer,
    clip_gradients,
    learning_rate,
    parameter_groups,
    set_learning_rate,
)

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "g10_lr_and_groups_B224.json").read_text()
)


def test_rates_are_the_published_ones():
    steps = GOLDEN["iterations_per_epoch"]
    rates = [learning_rate(t, steps, Schedule()) for t in GOLDEN["iterations"]]
    assert rates == pytest.approx(GOLDEN["lr_after_step_update_t"], rel=1e-9)


def test_the_last_rate_of_the_published_recipe_is_above_the_lowest():
    assert learning_rate(170 * 1024 - 1, 1024, Schedule()) == pytest.approx(1.03e-6, rel=0.01)


def test_the_rate_never_leaves_its_bounds_even_after_the_end():
    schedule = Schedule(epochs=3, warmup_epochs=0.5)
    rates = [learning_rate(step, 10, schedule) for step in range(80)]
    assert rates[0] == 1e-7
    assert max(rates) == rates[5] == pytest.approx(1e-4)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(1e-6)


def test_no_warm_up_starts_at_the_peak():
    assert learning_rate(0, 10, Schedule(warmup_epochs=0)) == pytest.approx(1e-4)


def published_names(name: str) -> set[str]:
    layer, _, factor = name.rpartition(".lora_")
    if not layer:
        return {name}
    parts = [f"{layer}.{part}" for part in "qkv"] if layer.endswith("qkv") else [layer]
    return {f"{part}.lora.{factor.upper()}" for part in parts}


def test_weight_decay_falls_on_the_published_parameters():
    with torch.device("meta"):
        network = assemble(load_variant("B-224"), None)
    groups = parameter_groups(network.named_parameters(), 0.1)
    for group in groups:
        wanted = set()
        for published in GOLDEN["param_groups"]:
            if published["weight_decay"] == group["weight_decay"]:
                wanted |= set(published["params"])
        assert set().union(*map(published_names, group["names"])) == wanted
    assert [sum(p.numel() for p in g["params"]) for g in groups] == [12_979_200, 3_845 + 2_304]


def test_frozen_parameters_are_in_no_group():
    network = nn.Linear(3, 3)
    network.weight.requires_grad_(False)
    groups = parameter_groups(network.named_parameters(), 0.1)
    assert [group["names"] for group in groups] == [[], ["bias"]]


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
    before = clip_gradients(network, 1.0)
    assert before.item() == pytest.approx(3.0 * 12**0.5)
    assert clip_gradients(network, 1.0).item() == pytest.approx(1.0, abs=1e-4)
