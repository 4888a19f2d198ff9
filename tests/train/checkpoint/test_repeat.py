"""A run is repeated from its record alone, and what would not repeat it is refused."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from lorat.prep.build.plan import BuildOptions
from lorat.prep.build.run import build
from tests.train.conftest import assert_equal, command_line, train, weights_of


@pytest.fixture
def first(tmp_path, tiny_variant, tiny_recipe, tiny_shards, monkeypatch) -> Path:
    """A finished run of one epoch, started from the weights of another."""
    monkeypatch.chdir(tmp_path)
    variant = tiny_variant.model_copy(update={"drop_path": 0.1})
    files = command_line(tmp_path, variant, tiny_recipe, tiny_shards, "--set=train.epochs=1", "--no-eval")
    train(*files, "--run=zero", "--set=train.seed=3")
    shutil.copy("zero/checkpoints/epoch_0001/model.safetensors", "start.safetensors")
    train(*files, "--run=a", "--weights=start.safetensors")
    Path("variant.yaml").unlink()
    Path("recipe.yaml").unlink()
    return tmp_path / "a"


def repeat(*arguments: str, config: str = "a/config.yaml", run: str = "b", status: int = 0) -> Result:
    fixed = [f"--config={config}", "--device=cpu", "--no-eval", f"--run={run}"]
    return train(*fixed, *arguments, status=status)


def record(run: str) -> dict:
    return yaml.safe_load(Path(run, "config.yaml").read_text())


def refused(options: Sequence[str], *parts: str, config: str = "a/config.yaml") -> None:
    """A repetition with these options says all this, and leaves no folder."""
    result = repeat(*options, config=config, status=2)
    assert all(part in result.stderr for part in parts), result.output
    assert not Path("b").exists()


def test_a_run_is_repeated_from_its_record_alone(first):
    repeat()
    assert_equal(weights_of("a", 1), weights_of("b", 1))
    assert Path("a/config.yaml").read_text() == Path("b/config.yaml").read_text()


def test_keys_are_changed_on_top_of_the_record(first):
    repeat("--set=train.epochs=2", "--set=variant.drop_path=0.0")
    config = record("b")
    assert config["recipe"]["train"]["epochs"] == 2 and config["variant"]["drop_path"] == 0.0
    result = repeat("--set=train.epoch=2", run="c", status=2)
    assert "unknown key 'recipe.train.epoch'" in result.stderr


def test_what_stands_in_the_record_is_not_given_beside_it(first):
    refused(["--variant=toy"], "--variant", "config.yaml")
    refused(["--weights=start.safetensors"], "--weights", "config.yaml")


def test_other_shards_weights_or_backbone_are_refused(first, tmp_path, tiny_clips):
    for split, pairs in (("train", 32), ("val", 20)):
        clips = [replace(clip, split=split) for clip in tiny_clips]
        build(clips, tmp_path / "other", BuildOptions(pairs=pairs, shard_pairs=16, workers=1))
    refused([f"--shards={tmp_path / 'other'}"], "other shards", "--shards")
    weights = Path("start.safetensors").read_bytes()
    shutil.copy("a/checkpoints/epoch_0001/model.safetensors", "start.safetensors")
    refused([], "start.safetensors", "SHA-256")
    Path("start.safetensors").write_bytes(weights)
    whole = Path("a/config.yaml").read_bytes()
    Path("a/config.yaml").write_text(yaml.safe_dump({**record("a"), "weights_sha256": []}))
    refused([], "start.safetensors", "SHA-256 was None")
    Path("a/config.yaml").write_bytes(whole)
    Path("a/config.yaml").write_text(yaml.safe_dump({**record("a"), "backbone_fingerprint": "xxh3:0"}))
    refused([], "another backbone", "--force-backbone")


def test_a_record_that_is_missing_or_of_something_else_is_refused(first):
    Path("odd.yaml").write_text("variants: 3\n")
    for name in ("absent.yaml", "odd.yaml"):
        refused([], name, config=name)


def test_the_record_of_a_run_that_begins_again_is_that_of_what_is_trained(first):
    """It ended before its first checkpoint, and was started again with another rate."""
    Path("b").mkdir()
    shutil.copy("a/config.yaml", "b/config.yaml")
    repeat("--resume=auto", "--set=train.lr=0.002")
    assert record("b")["recipe"]["train"]["lr"] == 0.002
    result = repeat("--resume=auto", "--set=train.log_steps=7", status=2)
    assert "train.lr = 0.002" in result.stderr
    repeat("--resume=auto", "--set=train.lr=0.002", "--set=train.log_steps=7")
    assert record("b")["recipe"]["train"]["log_steps"] == 1  # it went on from a checkpoint
