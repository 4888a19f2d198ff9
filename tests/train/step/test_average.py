"""The moving average of the weights follows them, trains nothing, is saved, gone on from and tracked with."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lorat.configs.schema import LoraConfig, TrainConfig
from lorat.train.network.trained import load_network
from lorat.train.network.variants import build_network
from lorat.train.step.average import average, averages, decay_at, network_of_averages
from lorat.train.step.loss import Objective
from lorat.train.step.optimizer import build_optimizer, set_learning_rate
from lorat.train.step.step import Engine, update
from tests.train.batches import made_up_batch
from tests.train.conftest import ALONE, assert_equal, command_line, first_epoch_of, log_of, train, weights_of
from tests.train.states import assert_same_state

EMA = "--set=train.ema=0.7"


@pytest.fixture
def engine(tiny_variant) -> Engine:
    torch.manual_seed(0)
    variant = tiny_variant.model_copy(update={"lora": LoraConfig(rank=4)})
    objective = Objective(build_network(variant).train(), variant, torch.float32)
    return Engine(objective, build_optimizer(objective.network), ALONE)


def test_it_is_what_the_formula_says_of_what_is_trained_and_nothing_else(engine):
    network, wanted = engine.objective.network, {}
    recipe = TrainConfig(batch_size=8, ema=0.15)
    set_learning_rate(engine.optimizer, 1e-2)
    for step in range(6):
        update(engine, recipe, made_up_batch(step), step)
        keep = min(0.15, (1 + step) / (10 + step))
        for name, weight in network.named_parameters():
            if weight.requires_grad:
                now = weight.detach().double()
                wanted[name] = keep * wanted[name] + (1 - keep) * now if step else now
    whole, state = engine.whole()
    means = averages(network, engine.optimizer, state["optimizer"])
    assert means.keys() == wanted.keys()
    for name, mean in means.items():
        torch.testing.assert_close(mean.double(), wanted[name], rtol=1e-5, atol=1e-7)
    other = dict(network_of_averages(whole, means).named_parameters())
    for name, weight in network.named_parameters():
        assert other[name].data_ptr() == means.get(name, weight).data_ptr()  # nothing is copied


def test_in_the_first_steps_it_forgets_sooner():
    assert [round(decay_at(step, 0.9998), 3) for step in (0, 10, 90)] == [0.1, 0.55, 0.91]
    assert decay_at(10**6, 0.9998) == 0.9998


def test_a_step_that_is_left_out_does_not_move_it(engine):
    update(engine, TrainConfig(batch_size=8, ema=0.9), made_up_batch(), 0)
    (weight, state), *_ = engine.optimizer.state.items()
    before = state["average"].clone()
    with torch.no_grad():
        weight.add_(1.0)
    average(engine.optimizer, 0.9, 1, torch.ones(()))
    assert torch.equal(state["average"], before)
    average(engine.optimizer, 0.9, 1, torch.zeros(()))
    torch.testing.assert_close(state["average"], torch.lerp(before, weight, 1 - decay_at(1, 0.9)).detach())


def test_it_stands_in_for_the_weights_and_these_are_back_bit_for_bit(engine):
    for step in range(2):
        update(engine, TrainConfig(batch_size=8, ema=0.9), made_up_batch(step), step)
    before = copy.deepcopy(engine.objective.network.state_dict())
    with pytest.raises(KeyError), engine.averaging():
        assert all(torch.equal(weight, state["average"]) for weight, state in engine.optimizer.state.items())
        raise KeyError
    assert_equal(engine.objective.network.state_dict(), before)


@pytest.fixture(scope="module")
def runs(runner, tmp_path_factory, tiny_variant, tiny_recipe, tiny_shards) -> tuple[list[str], Path]:
    """The command line of a run, and a folder with the run with and without an average."""
    folder = tmp_path_factory.mktemp("average")
    validates = ["--set=data.validation=toy-val", "--set=data.validation_pairs=8"]
    files = command_line(folder, tiny_variant, tiny_recipe, tiny_shards, "--no-eval", *validates)
    runner.run([*files, f"--run={folder / 'plain'}"])
    runner.run([*files, EMA, f"--run={folder / 'run'}"])
    return files, folder


def test_it_is_the_model_that_is_saved_and_what_is_trained_stays_what_it_was(runs):
    _, folder = runs
    for epoch in (1, 2, 3):
        checkpoint = folder / f"run/checkpoints/epoch_{epoch:04d}"
        live = load_file(checkpoint / "live.safetensors")
        assert_equal(live, weights_of(folder / "plain", epoch))
        model = load_file(checkpoint / "model.safetensors")
        assert model.keys() == live.keys() and not any(torch.equal(model[name], live[name]) for name in model)
        states = torch.load(checkpoint / "state.pt", weights_only=True)["optimizer"]["state"].values()
        kept = sorted(float(state["average"].double().sum()) for state in states)
        assert kept == pytest.approx(sorted(float(value.double().sum()) for value in model.values()))
        for name, said in (("model", "true"), ("live", None)):
            with safe_open(checkpoint / f"{name}.safetensors", "pt") as file:
                assert file.metadata().get("averaged") == said
    losses = [[e["val_loss"] for e in log_of(folder / name) if "val_loss" in e] for name in ("plain", "run")]
    assert len(losses[1]) == 3 and all(a != b for a, b in zip(*losses, strict=True))  # of the average


def test_a_run_goes_on_to_the_same_bits(runner, runs, tmp_path):
    files, folder = runs
    runner.run([*files, EMA, f"--run={first_epoch_of(folder / 'run', tmp_path / 'again')}", "--resume=auto"])
    last = "checkpoints/epoch_0003"
    assert_same_state(tmp_path / "again" / last, folder / "run" / last)
    assert_equal(*(load_file(run / last / "live.safetensors") for run in (tmp_path / "again", folder / "run")))


def test_it_cannot_begin_or_end_within_a_run(runs):
    files, folder = runs
    assert "train.ema = 0.7" in train(*files, f"--run={folder / 'run'}", "--resume=auto", status=2).stderr
    assert "train.ema" in train(*files, EMA, f"--run={folder / 'plain'}", "--resume=auto", status=2).stderr


def test_whoever_loads_it_is_told(runs, caplog):
    _, folder = runs
    checkpoint = folder / "run/checkpoints/epoch_0003"
    with caplog.at_level("INFO", "lorat"):
        load_network(checkpoint / "live.safetensors")
        assert not caplog.messages
        load_network(checkpoint / "model.safetensors")
    assert "moving average of the weights (train.ema)" in caplog.text
