"""Configurations are read whole or refused with the key, the file and the nearest key."""

import pytest
from pydantic import ValidationError

from lorat.configs.load import load_data_roots, load_recipe, load_variant, names
from lorat.shards.base.errors import UserError


@pytest.mark.parametrize("name", names("variants"))
def test_every_shipped_variant_is_valid_and_named_like_its_file_and_its_recipe_exists(name):
    variant = load_variant(name)
    assert variant.name == name
    load_recipe(variant.recipe)


@pytest.mark.parametrize("name", names("recipes"))
def test_every_shipped_recipe_is_valid_and_named_like_its_file(name):
    recipe = load_recipe(name)
    assert recipe.name in (name, f"standard+{name}")  # one without data stands on that
    assert recipe.train.pairs_per_epoch % recipe.train.batch_size == 0


def test_a_mistyped_name_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'B-224'"):
        load_variant("B224")


def test_a_mistyped_key_names_the_file_and_the_nearest_key(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data: {datasets: {coco-train: 1}}\ntrain: {batchsize: 64}\n")
    with pytest.raises(UserError, match=r"mine\.yaml.*'train\.batchsize'.*'batch_size'"):
        load_recipe(str(path))


def test_a_wrong_type_names_the_key():
    with pytest.raises(UserError, match=r"train\.batch_size.*integer"):
        load_recipe("standard", ["train.batch_size=many"])


@pytest.mark.parametrize("text", ["train.lr", "=3", "train.lr.x=3", "train.lr=[1"])
def test_an_override_that_cannot_be_read_is_refused(text):
    with pytest.raises(UserError, match=r"--set|train"):
        load_recipe("standard", [text])


def test_overrides_change_only_their_key():
    changed = load_recipe("standard", ["train.batch_size=64", "train.lr=2e-4"])
    plain = load_recipe("standard")
    assert (changed.train.batch_size, changed.train.lr) == (64, 2e-4)
    assert changed.data == plain.data and changed.train.epochs == plain.train.epochs


def test_configurations_cannot_be_changed_after_loading():
    with pytest.raises(ValidationError):
        load_recipe("standard").train.lr = 1.0


def test_a_file_that_is_no_yaml_or_missing_is_named(tmp_path):
    path = tmp_path / "broken.yaml"
    for text in ("a: [1", "- 1\n- 2\n"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"broken\.yaml"):
            load_recipe(str(path))
    with pytest.raises(UserError, match=r"gone\.yaml"):
        load_variant(str(tmp_path / "gone.yaml"))


def test_paths_yaml_gives_the_roots_that_are_filled_in(tmp_path):
    assert load_data_roots(tmp_path) == {}
    (tmp_path / "paths.yaml").write_text("lasot: /data/LaSOT\ncoco:\n")
    assert {k: str(v) for k, v in load_data_roots(tmp_path).items()} == {"lasot": "/data/LaSOT"}
    (tmp_path / "paths.yaml").write_text("lasot: [1]\n")
    with pytest.raises(UserError, match="lasot"):
        load_data_roots(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "train.clip_norm=0",  # which would train nothing
        "train.lr=-1e-4",
        "train.lr=.nan",
        "train.lr=.inf",
        "train.warmup_epochs=-1",
        "train.weight_decay=-0.1",
        "augment.scale_jitter=-1",
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(text):
    with pytest.raises(UserError, match=text.partition("=")[0]):
        load_recipe("standard", [text])


def test_a_rule_for_several_keys_is_told_without_a_key():
    with pytest.raises(UserError) as error:
        load_recipe("standard", ["train.batch_size=100"])
    assert error.value.message.startswith(
        "configs/recipes/standard.yaml with --set: train.pairs_per_epoch (131072) must be"
    )


def test_a_change_of_a_variant_is_quoted_as_it_was_written():
    with pytest.raises(UserError, match=r"--set variant\.name\.x=1: "):
        load_variant("B-224", ["name.x=1"])


@pytest.mark.parametrize("text", ["search_factor=0", "std=[0, 1, 1]"])
def test_crops_and_statistics_that_would_be_empty_are_refused(text):
    with pytest.raises(UserError, match="greater than 0"):
        load_variant("B-224", [text])
