"""Recipes stand one over the other, under published names too, and say what takes the place of what."""

from pathlib import Path

import pytest
import yaml

from lorat.configs import load
from lorat.configs.load import load_plan, load_recipe, load_variant
from lorat.shards.base.errors import UserError

MIXINS = yaml.safe_load((Path(load.__file__).parent / "mixins.yaml").read_text())


def test_the_later_recipe_wins_key_by_key_and_a_mapping_that_is_a_value_is_whole(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("data: {workers: 7}\ntrain: {epochs: 3}\n")
    recipe = load_recipe(["short", "got10k", str(mine)])
    assert recipe.data.datasets == {"got10k-train": 1} and recipe.data.workers == 7
    assert (recipe.train.epochs, recipe.train.warmup_epochs) == (3, load_recipe("short").train.warmup_epochs)
    assert recipe.name == "short+got10k+mine"
    assert load_recipe(["short", "got10k", str(mine)], ["train.epochs=9"]).train.epochs == 9


def test_what_takes_the_place_of_what_is_said_and_nothing_else(caplog):
    with caplog.at_level("INFO", "lorat"):
        load_recipe(["standard", "full", "bs_64"])
        assert not caplog.messages
        load_recipe(["short", "got10k"])
    assert caplog.messages == ["recipe got10k takes the place of data.datasets of short, train.epochs of short"]


def test_recipes_without_data_stand_on_the_variants_own():
    variant, recipe = load_plan("toy", ["resumable", "bs_64"], [])
    assert variant == load_variant("toy") and recipe.name == "toy+resumable+bs_64"
    assert recipe.train == load_recipe("toy").train.model_copy(update={"resume": True, "batch_size": 64})
    assert load_plan("toy", [], [])[1] == load_recipe("toy")


def test_a_recipe_changes_the_variant_and_set_changes_both(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("variant: {lora: {rank: 5}, drop_path: 0.3}\n")
    variant, _ = load_plan("B-224", ["full"], [])
    assert variant.lora is None and variant.drop_path == 0.1 and variant.name == "B-224"
    variant, recipe = load_plan("B-224", ["full", str(mine)], ["variant.drop_path=0.2", "train.lr=3e-4"])
    assert variant.lora is not None and variant.lora.rank == 5 and variant.drop_path == 0.2
    assert recipe.train.lr == 3e-4 and recipe.train.layer_decay == load_recipe("full").train.layer_decay < 1.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {batchsize: 64}", r"mine\.yaml: unknown key 'train\.batchsize'; did you mean 'batch_size'"),
        ("train: {epochs: many}", r"mine\.yaml: key 'train\.epochs'"),
        ("data: 3", r"mine\.yaml: key 'data'"),
        ("variant: {lor: null}", r"mine\.yaml: unknown key 'lor'; did you mean 'lora'"),
    ],
)
def test_a_mistake_names_the_file_of_the_stack_that_holds_it(tmp_path, text, says):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        load_plan("toy", ["short", str(path), "full"], [])


@pytest.mark.parametrize("name", MIXINS)
def test_a_published_mixin_is_a_recipe_or_an_error_that_says_what_to_take(name):
    if isinstance(MIXINS[name], dict):
        assert load_plan("L-224", ["got10k", name], [])[1].name == f"got10k+{name}"
    else:
        with pytest.raises(UserError, match=rf"recipe {name}: .*(take|leave)"):
            load_recipe(["standard", name])


def test_a_mistyped_mixin_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'resumable'"):
        load_recipe(["standard", "resumeable"])


def test_what_a_tracker_that_remembers_loses_without_its_own_recipe_is_told(caplog):
    _, recipe = load_plan("spmtrack-L-378", ["got10k"], [])
    (told,) = caplog.messages
    for words in (
        "recipe spmtrack-L",
        "train.batch_size, train.box_warmup_epochs",
        "--recipe spmtrack-L --recipe got10k",
    ):
        assert words in told
    assert recipe.train.batch_size == 128
    caplog.clear()
    _, recipe = load_plan("spmtrack-L-378", ["spmtrack-L", "got10k"], [])
    assert (recipe.train.batch_size, recipe.train.box_warmup_epochs, recipe.train.epochs) == (64, 2, 100)
    load_plan("toy", ["got10k"], [])
    assert not any("own recipe" in message for message in caplog.messages)
