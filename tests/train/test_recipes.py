"""Recipes fit together, keys can be changed, and what does not divide is refused with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from lorat.configs.load import load_recipe, names
from lorat.shards.base.errors import UserError
from lorat.train.cli import main
from lorat.train.distributed.world import World
from lorat.train.setup import _check_division


@pytest.fixture
def files(tmp_path, tiny_variant, tiny_recipe, tiny_shards):
    for name, config in (("variant", tiny_variant), ("recipe", tiny_recipe)):
        text = yaml.safe_dump(config.model_dump(mode="json"))
        (tmp_path / f"{name}.yaml").write_text(text)
    files = [f"--{name}={tmp_path / name}.yaml" for name in ("variant", "recipe")]
    return [*files, f"--shards={tiny_shards}", "--device=cpu", "--no-eval"]


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("name", names("recipes"))
def test_every_recipe_evaluates_and_saves_within_its_epochs(name):
    train = load_recipe(name).train
    assert train.evaluate_epochs <= train.epochs and train.checkpoint_epochs <= train.epochs
    assert train.warmup_epochs < train.epochs


@pytest.mark.parametrize(("short", "long"), [("short", "standard"), ("got10k-short", "got10k")])
def test_short_recipes_are_the_long_ones_in_proportion(short, long):
    brief, whole = load_recipe(short), load_recipe(long)
    assert brief.data == whole.data and brief.augment == whole.augment
    ratio = brief.train.epochs / whole.train.epochs
    assert brief.train.warmup_epochs == pytest.approx(whole.train.warmup_epochs * ratio, rel=0.1)
    changed = {"epochs", "warmup_epochs", "checkpoint_epochs", "evaluate_epochs"}
    assert brief.train.model_dump(exclude=changed) == whole.train.model_dump(exclude=changed)


def test_set_changes_keys_of_recipe_and_variant(files, tmp_path):
    short = ["--set=train.epochs=1", "--set=variant.drop_path=0.1", f"--run={tmp_path / 'run'}"]
    result = run(*files, *short)
    assert result.exit_code == 0, result.output
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["recipe"]["train"]["epochs"] == 1
    assert config["variant"]["drop_path"] == 0.1


def test_a_mistyped_key_of_the_variant_is_refused_with_the_nearest(files):
    result = run(*files, "--set=variant.drop_pth=0.1")
    assert result.exit_code == 2
    assert "unknown key 'drop_pth'; did you mean 'drop_path'" in result.stderr


def test_a_batch_that_cannot_be_divided_is_refused_with_sizes_that_can(files, tmp_path):
    four = World(0, 4, None)
    recipe = load_recipe("standard", ["train.batch_size=2", "train.pairs_per_epoch=48"])
    with pytest.raises(UserError, match=r"train.batch_size \(2\).* 4 processes.*batch_size=4"):
        _check_division(recipe, four)
    recipe = load_recipe("standard", ["train.batch_size=6", "train.pairs_per_epoch=24"])
    with pytest.raises(UserError, match=r"train\.batch_size=4 or train\.batch_size=8"):
        _check_division(recipe, four)
    result = run(*files, "--set=train.batch_size=7", f"--run={tmp_path / 'run'}")
    assert result.exit_code == 2 and "pairs_per_epoch" in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_record_holds_the_whole_configuration(files, tmp_path):
    assert run(*files, "--set=train.epochs=1", f"--run={tmp_path / 'run'}").exit_code == 0
    config = yaml.safe_load(Path(tmp_path / "run/config.yaml").read_text())
    assert config["recipe"]["train"]["dtype"] == "float32"
    assert set(config["data"]) == {"toy-train", "toy-val"}
    assert config["made"]["processes"] == 1 and config["backbone_fingerprint"] == ""
