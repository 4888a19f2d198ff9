"""Validation gives the same numbers for the same weights, and changes nothing of the training."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from lorat.configs.schema import DataConfig, TrainConfig
from lorat.train.checkpoint.checkpoints import find_checkpoint
from lorat.train.cli import main
from lorat.train.data.batches import Batch, make_loader
from lorat.train.distributed.world import World
from lorat.train.network.variants import build_network
from lorat.train.step.engine import Engine, build_engine, make_scaler
from lorat.train.step.objective import Objective
from lorat.train.step.optimizer import build_optimizer
from lorat.train.step.step import StepResult, update
from lorat.train.validation import validate, validation_due, validation_source

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture
def engine(tiny_variant):
    torch.manual_seed(0)
    objective = Objective(build_network(tiny_variant), tiny_variant, torch.float32)
    scaler = make_scaler(torch.float32, ALONE.device)
    optimizer = build_optimizer(objective.network)
    return build_engine(objective, optimizer, scaler, ALONE, sharded=False)


@pytest.fixture
def data() -> DataConfig:
    return DataConfig(datasets={"toy-train": 1}, validation="toy-val", validation_pairs=20)


def test_losses_are_those_of_one_batch_of_all_pairs(engine, data, source, tiny_shards):
    values = []
    for batch_size, accumulate in ((8, 1), (24, 1), (4, 2)):
        resized = replace(source, batch_size=batch_size)
        pairs = validation_source(data, resized, tiny_shards, ALONE)
        assert pairs.pairs_per_epoch == {8: 24, 24: 24, 4: 20}[batch_size]
        values.append(validate(engine, replace(pairs, pairs_per_epoch=24), data, accumulate))
    (batch,) = make_loader(replace(pairs, batch_size=24, pairs_per_epoch=24))
    engine.objective.eval()
    with torch.no_grad():
        images = batch.template, batch.search, batch.template_mask
        one = batch.positive.sum().float()
        whole = engine.objective(*images, batch.positive, batch.box, one)
    for found in values:
        assert found["val_loss"] == pytest.approx(whole.total.item(), abs=2e-5)
        assert found["val_score"] == pytest.approx(whole.score.item(), abs=2e-5)
        assert found["val_box"] == pytest.approx(whole.box.item(), abs=2e-5)


def test_a_validation_leaves_training_mode_and_no_gradients(engine, data, source, tiny_shards):
    pairs = validation_source(data, source, tiny_shards, ALONE)
    validate(engine, pairs, data, 1)
    assert all(module.training for module in engine.objective.modules())
    assert all(p.grad is None for p in engine.objective.parameters())


def test_pairs_are_jittered_and_not_otherwise_augmented(data, source, tiny_shards):
    pairs = validation_source(data, replace(source, negatives=0.5), tiny_shards, ALONE)
    assert pairs.augment.translation_jitter == source.augment.translation_jitter
    assert pairs.augment.flip == pairs.augment.colour_jitter == pairs.augment.rotation == 0.0
    assert pairs.augment.motion_blur == pairs.augment.background == pairs.negatives == 0.0


def test_it_is_due_at_the_ends_of_epochs_and_of_the_run():
    recipe = TrainConfig(epochs=5, validate_epochs=2)
    due = [step for step in range(1, 51) if validation_due(recipe, step, 10)]
    assert due == [20, 40, 50]


def run(tmp_path: Path, variant, recipe, shards: Path, name: str, *more: str):
    for kind, config in (("variant", variant), ("recipe", recipe)):
        text = yaml.safe_dump(config.model_dump(mode="json"))
        (tmp_path / f"{kind}.yaml").write_text(text)
    folder = tmp_path / name
    arguments = [
        f"--variant={tmp_path / 'variant.yaml'}",
        f"--recipe={tmp_path / 'recipe.yaml'}",
        f"--shards={shards}",
        "--device=cpu",
        f"--run={folder}",
        *more,
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    weights = load_file(find_checkpoint(folder) / "model.safetensors")
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return weights, records, result


def test_a_run_with_validation_ends_in_the_same_weights(
    tmp_path, tiny_variant, tiny_recipe, tiny_shards
):
    files = tmp_path, tiny_variant, tiny_recipe, tiny_shards
    plain, records, _ = run(*files, "plain")
    assert not any("val_loss" in record for record in records)
    options = ["--set=data.validation=toy-val", "--set=data.validation_pairs=16"]
    more = ["--set=train.validate_epochs=2", "--set=data.workers=1"]
    checked, records, _ = run(*files, "checked", *options, *more)
    assert all(torch.equal(plain[name], checked[name]) for name in plain)
    told = {record["step"]: record["val_loss"] for record in records if "val_loss" in record}
    assert list(told) == [6, 9]
    assert told[6] != told[9]


def test_shards_that_are_missing_are_told_once_and_the_run_goes_on(
    tmp_path, tiny_variant, tiny_recipe, tiny_shards
):
    files = tmp_path, tiny_variant, tiny_recipe, tiny_shards
    *_, result = run(*files, "run", "--set=data.validation=got10k-val")
    assert result.stderr.count("lorat-prep build --datasets got10k-val") == 1


OPTIONS = ["--set=data.validation=toy-val", "--set=data.validation_pairs=40"]


@pytest.fixture
def asked_to_end(tmp_path, tiny_variant, tiny_recipe, tiny_shards, monkeypatch):
    """Trains whole, then asked to end by SIGTERM somewhere, then on; it ends as the whole did."""
    files = tmp_path, tiny_variant, tiny_recipe, tiny_shards
    seldom = ["--set=train.checkpoint_epochs=3", *OPTIONS]
    whole, told, _ = run(*files, "whole", *seldom)

    def check(checkpoint: str, hooks: dict[str, Callable[..., Any]]) -> None:
        with monkeypatch.context() as patch, pytest.raises(AssertionError):
            for name, hook in hooks.items():
                patch.setattr(f"lorat.train.{name}", hook)
            run(*files, "cut", *seldom)  # ends with 143
        assert find_checkpoint(tmp_path / "cut").name == checkpoint
        weights, records, _ = run(*files, "cut", *seldom, "--resume=auto")
        assert all(torch.equal(weights[name], whole[name]) for name in whole)
        losses = [
            {r["step"]: r["val_loss"] for r in log if "val_loss" in r} for log in (records, told)
        ]
        assert losses[0] == losses[1] and list(losses[0]) == [3, 6, 9]

    return check


def test_a_signal_ends_a_validation_which_is_done_when_the_run_goes_on(asked_to_end):
    """torchrun and Slurm do not wait for long."""
    taken = []

    def batches(*arguments: Any, **options: Any) -> Iterator[Batch]:
        for number, batch in enumerate(make_loader(*arguments, **options)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            taken.append(number)
            yield batch

    asked_to_end("step_00000003", {"validation.make_loader": batches})
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

    asked_to_end("step_00000006", {"loop.update": one, "validation.validate": noted})
    assert len(validated) == 1  # after the first epoch
