"""Recipes fit together, keys can be changed, and what does not divide is refused with a remedy."""

import pytest
import yaml

from lorat.configs.load import load_recipe, names
from lorat.shards.base.errors import UserError
from lorat.train.distributed.world import World
from lorat.train.setup import Request, prepare
from tests.train.conftest import train


@pytest.fixture
def files(files) -> list[str]:
    return [*files, "--no-eval"]


@pytest.mark.parametrize("name", names("recipes"))
def test_every_recipe_evaluates_and_saves_within_its_epochs(name):
    plan = load_recipe(name).train
    assert plan.evaluate_epochs <= plan.epochs and plan.checkpoint_epochs <= plan.epochs
    assert plan.warmup_epochs < plan.epochs


@pytest.mark.parametrize(("short", "long"), [("short", "standard"), ("got10k-short", "got10k")])
def test_short_recipes_are_the_long_ones_in_proportion(short, long):
    brief, whole = load_recipe(short), load_recipe(long)
    assert brief.data == whole.data and brief.augment == whole.augment
    ratio = brief.train.epochs / whole.train.epochs
    assert brief.train.warmup_epochs == pytest.approx(whole.train.warmup_epochs * ratio, rel=0.1)
    changed = {"epochs", "warmup_epochs", "checkpoint_epochs", "evaluate_epochs"}
    assert brief.train.model_dump(exclude=changed) == whole.train.model_dump(exclude=changed)


def test_the_record_holds_the_whole_configuration_as_set_changed_it(files, tmp_path):
    train(*files, "--set=train.epochs=1", "--set=variant.drop_path=0.1", f"--run={tmp_path / 'a'}")
    config = yaml.safe_load((tmp_path / "a/config.yaml").read_text())
    assert config["recipe"]["train"].items() >= {"epochs": 1, "dtype": "float32"}.items()
    assert config["variant"]["drop_path"] == 0.1 and set(config["data"]) == {"toy-train", "toy-val"}
    assert config["made"]["processes"] == 1 and config["backbone_fingerprint"] == ""


def test_a_mistyped_key_of_the_variant_is_refused_with_the_nearest(files):
    result = train(*files, "--set=variant.drop_pth=0.1", status=2)
    assert "unknown key 'drop_pth'; did you mean 'drop_path'" in result.stderr


@pytest.mark.parametrize(
    ("batch", "pairs", "says"),
    [
        (2, 48, r"train.batch_size \(2\).* 4 processes.*batch_size=4"),
        (6, 24, r"train\.batch_size=4 or train\.batch_size=8"),
    ],
)
def test_a_batch_that_cannot_be_divided_is_refused_with_sizes_that_can(tiny_variant, tmp_path, batch, pairs, says):
    keys = [f"train.batch_size={batch}", f"train.pairs_per_epoch={pairs}"]
    recipe = load_recipe("standard", keys)
    request = Request(variant=tiny_variant, recipe=recipe, shards=tmp_path, run=tmp_path / "run")
    with pytest.raises(UserError, match=says):
        prepare(request, (), World(0, 4, None))


def test_an_epoch_that_is_not_whole_steps_is_refused(files, tmp_path):
    result = train(*files, "--set=train.batch_size=7", f"--run={tmp_path / 'run'}", status=2)
    assert "pairs_per_epoch" in result.stderr and not (tmp_path / "run").exists()
