"""Validation gives the same numbers for the same weights, and changes nothing of the training."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lorat.configs.schema import DataConfig, TrainConfig
from lorat.train.checkpoint.checkpoints import find_checkpoint
from lorat.train.data.batches import Batch, make_loader, poll_batches
from lorat.train.network.variants import build_network
from lorat.train.setup import validation_source
from lorat.train.step.loss import Objective
from lorat.train.step.optimizer import build_optimizer
from lorat.train.step.step import Engine, StepResult, update, validate
from tests.train.conftest import ALONE, assert_equal, log_of, train, weights_of


def whatever_comes(batches: Iterator[Batch | str]) -> Batch:
    return next(batch for batch in batches if isinstance(batch, Batch))


@pytest.fixture
def engine(tiny_variant):
    torch.manual_seed(0)
    objective = Objective(build_network(tiny_variant), tiny_variant, torch.float32)
    return Engine(objective, build_optimizer(objective.network), ALONE)


@pytest.fixture
def data() -> DataConfig:
    return DataConfig(datasets={"toy-train": 1}, validation="toy-val", validation_pairs=20)


def test_losses_are_those_of_one_batch_of_all_pairs(engine, data, source, tiny_shards):
    values = []
    for batch_size, accumulate in ((8, 1), (24, 1), (4, 2)):
        resized = replace(source, batch_size=batch_size)
        pairs = validation_source(data, resized, tiny_shards, ALONE)
        assert pairs.pairs_per_epoch == {8: 24, 24: 24, 4: 20}[batch_size]
        values.append(validate(engine, replace(pairs, pairs_per_epoch=24), data, accumulate, whatever_comes))
    (batch,) = make_loader(replace(pairs, batch_size=24, pairs_per_epoch=24))
    engine.objective.eval()
    with torch.no_grad():
        whole = engine.objective(*batch.inputs, batch.positive.sum((0, 2, 3)).float(), torch.ones(()))
    wanted = dict(zip(("val_loss", "val_score", "val_box"), map(float, whole), strict=True))
    for found in values:
        assert found == pytest.approx(wanted, abs=2e-5)


def test_a_validation_leaves_training_mode_and_no_gradients(engine, data, source, tiny_shards):
    pairs = validation_source(data, source, tiny_shards, ALONE)
    validate(engine, pairs, data, 1, whatever_comes)
    assert all(module.training for module in engine.objective.modules())
    assert all(p.grad is None for p in engine.objective.parameters())


def test_pairs_are_jittered_and_not_otherwise_augmented(data, source, tiny_shards):
    pairs = validation_source(data, replace(source, negatives=0.5), tiny_shards, ALONE)
    assert pairs.augment.translation_jitter == source.augment.translation_jitter
    assert pairs.augment.flip == pairs.augment.colour_jitter == pairs.augment.rotation == 0.0
    assert pairs.augment.motion_blur == pairs.augment.background == pairs.negatives == 0.0


def test_it_is_due_at_the_ends_of_epochs_and_of_the_run(source):
    longer = replace(source, epochs=5, pairs_per_epoch=80)
    assert [done for done in range(51) if longer.ends(done, 2)] == [20, 40, 50]


def losses_of(run: Path) -> dict[int, float]:
    return {r["step"]: r["val_loss"] for r in log_of(run) if "val_loss" in r}


def test_a_run_with_validation_ends_in_the_same_weights(files, tmp_path):
    train(*files, f"--run={tmp_path / 'plain'}")
    options = ["--set=data.validation=toy-val", "--set=data.validation_pairs=16"]
    more = ["--set=train.validate_epochs=2", "--set=data.workers=1"]
    train(*files, *options, *more, f"--run={tmp_path / 'checked'}")
    assert_equal(weights_of(tmp_path / "checked"), weights_of(tmp_path / "plain"))
    assert not losses_of(tmp_path / "plain")
    told = losses_of(tmp_path / "checked")
    assert list(told) == [6, 9]
    assert told[6] != told[9]


def test_shards_that_are_missing_are_told_once_and_the_run_goes_on(files, tmp_path):
    result = train(*files, "--set=data.validation=got10k-val", f"--run={tmp_path / 'run'}")
    assert result.stderr.count("lorat-prep build --datasets got10k-val") == 1


@pytest.fixture
def asked_to_end(files, tmp_path, monkeypatch):
    """Trains whole, then asked to end by SIGTERM somewhere, then on; it ends as the whole did."""
    options = ["--set=data.validation=toy-val", "--set=data.validation_pairs=40"]
    seldom = [*files, "--set=train.checkpoint_epochs=3", *options]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(*seldom, f"--run={whole}")

    def check(checkpoint: str, hooks: dict[str, Callable[..., Any]]) -> None:
        with monkeypatch.context() as patch:
            for name, hook in hooks.items():
                patch.setattr(f"lorat.train.{name}", hook)
            train(*seldom, f"--run={cut}", status=143)
        assert find_checkpoint(cut).name == checkpoint
        train(*seldom, f"--run={cut}", "--resume=auto")
        assert_equal(weights_of(cut), weights_of(whole))
        assert losses_of(cut) == losses_of(whole) and list(losses_of(cut)) == [3, 6, 9]

    return check


def test_a_signal_ends_a_validation_which_is_done_when_the_run_goes_on(asked_to_end):
    """torchrun and Slurm do not wait for long."""
    taken = []

    def batches(*arguments: Any, **options: Any) -> Iterator[Batch | str]:
        for number, batch in enumerate(poll_batches(*arguments, **options)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            taken.append(number)
            yield batch

    asked_to_end("step_00000003", {"step.step.poll_batches": batches})
    assert taken == [0, 1, 2]


def test_a_signal_before_a_validation_is_obeyed_before_it(asked_to_end):
    validated = []

    def one(engine: Engine, recipe: TrainConfig, batch: Batch, step: int) -> StepResult:
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(engine, recipe, batch, step)

    def noted(*arguments: Any) -> dict[str, float]:
        validated.append(arguments)
        return validate(*arguments)

    asked_to_end("step_00000006", {"loop.update": one, "loop.validate": noted})
    assert len(validated) == 1  # after the first epoch
