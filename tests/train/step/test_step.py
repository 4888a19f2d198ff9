"""A step is that of the whole batch, in any number type, and leaves out gradients that overflow."""

import copy

import pytest
import torch

from lorat.configs.schema import LoraConfig, TrainConfig
from lorat.train.network.variants import build_network
from lorat.train.step.loss import Objective
from lorat.train.step.optimizer import build_optimizer, set_learning_rate
from lorat.train.step.step import Engine, shared_divisors, update
from tests.train.batches import Recorder, made_up_batch
from tests.train.conftest import ALONE, assert_equal, first_epoch_of, log_of, train, weights_of

PLAIN = TrainConfig(batch_size=8, clip_norm=1e9)


@pytest.fixture
def objective(tiny_variant) -> Objective:
    torch.manual_seed(0)
    variant = tiny_variant.model_copy(update={"lora": LoraConfig(rank=4)})
    return Objective(build_network(variant).train(), variant, torch.float32)


def gradients(objective: Objective, recipe: TrainConfig) -> tuple[dict[str, torch.Tensor], float]:
    recorder = Recorder(objective.network)
    result = update(Engine(objective, recorder, ALONE), recipe, made_up_batch(), 0)
    return recorder.seen[0], result.losses.total.item()


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_gradients_of_micro_batches_are_those_of_the_whole_batch(objective, parts):
    whole, loss = gradients(objective, PLAIN)
    cut, same = gradients(objective, PLAIN.model_copy(update={"accumulate": parts}))
    assert same == pytest.approx(loss, rel=1e-6)
    for name, wanted in whole.items():
        # Half of the pairs have no positive cell, so parts that were divided by their own count of positives would be
        # far off.
        torch.testing.assert_close(cut[name], wanted, rtol=2e-5, atol=1e-6)


def test_a_batch_without_any_object_counts_as_one_positive_cell():
    positive = torch.zeros(3, 2, 4, 4, dtype=torch.bool)
    assert shared_divisors(positive, ALONE).tolist() == [1.0, 1.0]
    positive[0, 1, 1:3, 2] = True
    assert shared_divisors(positive, ALONE).tolist() == [1.0, 2.0]  # each search crop by its own


def test_float16_trains_as_float32_does_and_scales_its_loss(objective):
    recipe = PLAIN.model_copy(update={"clip_norm": 1.0})
    moved = {}
    for dtype in (torch.float32, torch.float16):
        copied = copy.deepcopy(objective)
        copied.dtype = dtype
        optimizer = build_optimizer(copied.network)
        engine = Engine(copied, optimizer, ALONE)
        set_learning_rate(optimizer, 1e-3)
        losses = [update(engine, recipe, made_up_batch(), s).losses.total.item() for s in range(5)]
        assert losses == sorted(losses, reverse=True)
        moved[dtype] = losses
    assert moved[torch.float16] == pytest.approx(moved[torch.float32], rel=0.02)
    assert 2.0**10 <= engine.scaler.get_scale() <= 2.0**16  # its first guess may be too large


def test_a_step_whose_gradients_overflow_is_left_out_and_counted(objective):
    objective.dtype = torch.float16
    optimizer = build_optimizer(objective.network)
    engine = Engine(objective, optimizer, ALONE)
    engine.scaler.load_state_dict({**engine.scaler.state_dict(), "scale": 2.0**40})
    set_learning_rate(optimizer, 1e-3)
    before = copy.deepcopy(objective.network.state_dict())
    result = update(engine, PLAIN, made_up_batch(), 0)
    assert (result.skipped, result.norm) == (1.0, 0.0)
    assert result.losses.total.isfinite()
    after = objective.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert engine.scaler.get_scale() == 2.0**39
    counts = [state["step"].item() for state in optimizer.state.values()]
    assert not any(counts)  # the corrections of AdamW's means do not count it either
    skipped = [update(engine, PLAIN, made_up_batch(), s).skipped.item() for s in range(1, 40)]
    assert skipped[-1] == 0.0
    assert skipped == sorted(skipped, reverse=True)  # it goes on at a scale that fits
    assert any(not torch.equal(before[n], t) for n, t in objective.network.state_dict().items())


def test_a_network_trained_whole_gets_gradients_everywhere(tiny_variant):
    torch.manual_seed(0)
    objective = Objective(build_network(tiny_variant).train(), tiny_variant, torch.float32)
    found, _ = gradients(objective, PLAIN)
    names = {name for name, _ in objective.network.named_parameters()}
    assert found.keys() == names >= {"pos_embed", "patch_embed.proj.weight", "norm.weight"}
    assert all(gradient.abs().sum() > 0 for gradient in found.values())


def test_a_float16_run_goes_on_with_its_scale(files, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(*files, "--set=train.dtype=float16", f"--run={whole}")
    first_epoch_of(whole, cut)
    train(*files, "--set=train.dtype=float16", f"--run={cut}", "--resume=auto")
    assert_equal(weights_of(cut), weights_of(whole))
    last = "checkpoints/epoch_0003/state.pt"
    a, b = (torch.load(folder / last)["scaler"] for folder in (whole, cut))
    assert a == b
    skipped = sum(record.get("skipped", 0) for record in log_of(cut))
    assert a["scale"] == 2.0 ** (16 - skipped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_scaler_is_silent_in_other_number_types(objective, dtype):
    objective.dtype = dtype
    scaler = Engine(objective, Recorder(objective.network), ALONE).scaler
    assert not scaler.is_enabled() and scaler.state_dict() == {}
