"""A run is repeated from its record alone, and what would not repeat it is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from lorat.prep.build.plan import BuildOptions
from lorat.prep.build.run import build
from lorat.train.cli import main
from tests.train.conftest import command_line


@pytest.fixture
def first(tmp_path, tiny_variant, tiny_recipe, tiny_shards, monkeypatch) -> Path:
    """A finished run of one epoch, started from the weights of another."""
    monkeypatch.chdir(tmp_path)
    variant = tiny_variant.model_copy(update={"drop_path": 0.1})
    more = ["--set=train.epochs=1", "--no-eval"]
    files = command_line(tmp_path, variant, tiny_recipe, tiny_shards, *more)
    assert run(*files, "--run=zero", "--set=train.seed=3").exit_code == 0
    shutil.copy("zero/checkpoints/epoch_0001/model.safetensors", "start.safetensors")
    assert run(*files, "--run=a", "--weights=start.safetensors").exit_code == 0
    Path("variant.yaml").unlink()
    Path("recipe.yaml").unlink()
    return tmp_path / "a"


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def repeat(*arguments: str):
    return run("--config=a/config.yaml", "--device=cpu", "--no-eval", "--run=b", *arguments)


def refused(result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    for part in parts:
        assert part in result.stderr
    assert not Path("b").exists()


def test_a_run_is_repeated_from_its_record_alone(first):
    result = repeat()
    assert result.exit_code == 0, result.output
    a, b = (load_file(f"{run}/checkpoints/epoch_0001/model.safetensors") for run in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert Path("a/config.yaml").read_text() == Path("b/config.yaml").read_text()


def test_keys_are_changed_on_top_of_the_record(first):
    assert repeat("--set=train.epochs=2", "--set=variant.drop_path=0.0").exit_code == 0
    config = yaml.safe_load(Path("b/config.yaml").read_text())
    assert config["recipe"]["train"]["epochs"] == 2 and config["variant"]["drop_path"] == 0.0
    result = repeat("--set=train.epoch=2", "--run=c")
    assert result.exit_code == 2 and "unknown key 'recipe.train.epoch'" in result.stderr


def test_what_stands_in_the_record_is_not_given_beside_it(first):
    refused(repeat("--variant=toy"), "--variant", "config.yaml")
    refused(repeat("--weights=start.safetensors"), "--weights", "config.yaml")


def test_other_shards_weights_or_backbone_are_refused(first, tmp_path, tiny_clips):
    for split, pairs in (("train", 32), ("val", 20)):
        clips = [replace(clip, split=split) for clip in tiny_clips]
        build(clips, tmp_path / "other", BuildOptions(pairs=pairs, shard_pairs=16, workers=1))
    refused(repeat(f"--shards={tmp_path / 'other'}"), "other shards", "--shards")
    weights = Path("start.safetensors").read_bytes()
    shutil.copy("a/checkpoints/epoch_0001/model.safetensors", "start.safetensors")
    refused(repeat(), "start.safetensors", "SHA-256")
    Path("start.safetensors").write_bytes(weights)
    config = yaml.safe_load(Path("a/config.yaml").read_text())
    config["backbone_fingerprint"] = "xxh3:0"
    Path("a/config.yaml").write_text(yaml.safe_dump(config))
    refused(repeat(), "another backbone", "--force-backbone")


def test_a_record_that_is_missing_or_of_something_else_is_refused(first):
    refused(run("--config=absent.yaml", "--run=b"), "absent.yaml")
    Path("odd.yaml").write_text("variants: 3\n")
    refused(run("--config=odd.yaml", "--run=b"), "odd.yaml")


def test_the_record_of_a_run_that_begins_again_is_that_of_what_is_trained(first):
    """It ended before its first checkpoint, and was started again with another rate."""
    Path("b").mkdir()
    shutil.copy("a/config.yaml", "b/config.yaml")
    assert repeat("--resume=auto", "--set=train.lr=0.002").exit_code == 0
    assert yaml.safe_load(Path("b/config.yaml").read_text())["recipe"]["train"]["lr"] == 0.002
    result = repeat("--resume=auto", "--set=train.log_steps=7")
    assert result.exit_code == 2 and "train.lr = 0.002" in result.stderr
    assert repeat("--resume=auto", "--set=train.lr=0.002", "--set=train.log_steps=7").exit_code == 0
    kept = yaml.safe_load(Path("b/config.yaml").read_text())["recipe"]["train"]
    assert kept["log_steps"] == 1  # it went on from a checkpoint
