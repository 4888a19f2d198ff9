"""The table of recipes in docs/training.md has them all, and says how long they are."""

import re
from pathlib import Path

import pytest

from lorat.configs.load import load_recipe, names

LINES = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8").splitlines()
FIRST = next(number for number, line in enumerate(LINES) if line.startswith("| recipe | data |"))


def lengths() -> dict[str, str]:
    """What the last column says, by the recipes that the first one names."""
    found = {}
    for line in LINES[FIRST + 2 :]:
        if not line.startswith("| "):
            break
        cells = line.strip("| ").split(" | ")
        found.update(dict.fromkeys(cells[0].split(", "), cells[-1]))
    return found


LENGTHS = lengths()


def test_every_recipe_stands_in_it():
    assert sorted(LENGTHS) == sorted(names("recipes"))


@pytest.mark.parametrize("name", sorted({*LENGTHS} - {"full"}))  # which changes no length
def test_its_epochs_and_their_pairs_are_the_recipes(name):
    said = re.match(r"(\d+) epochs of (\d[\d,]*\d)", LENGTHS[name])
    assert said is not None
    train = load_recipe(name).train
    assert said.groups() == (str(train.epochs), f"{train.pairs_per_epoch:,}")
