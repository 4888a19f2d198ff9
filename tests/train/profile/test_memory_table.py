"""The table of docs/profile.md is what its command prints."""

import runpy
from pathlib import Path

import pytest

from lorat.configs.load import names

ROOT = Path(__file__).parents[3]
TOOL = runpy.run_path(str(ROOT / "tools/memory_table.py"))
LINES = (ROOT / "docs/profile.md").read_text(encoding="utf-8").splitlines()


def test_every_variant_stands_in_it():
    assert sorted(TOOL["VARIANTS"]) == sorted(names("variants"))
    first = LINES.index(TOOL["HEADER"]) + 2
    there = [line.split(" | ")[0].removeprefix("| ") for line in LINES[first : first + len(TOOL["VARIANTS"])]]
    assert there == list(TOOL["VARIANTS"])


@pytest.mark.parametrize("name", ["S-224", "toy"])
def test_its_numbers_are_counted_again(name):
    assert TOOL["row"](name) in LINES
