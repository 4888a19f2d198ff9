"""The page for users of the published code: its commands parse, its keys and recipes exist, every mixin is there."""

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from lorat.configs.load import load_plan
from lorat.evaluate.cli import main as evaluate
from lorat.prep.cli import main as prep
from lorat.shards.base.errors import UserError
from lorat.train.cli import main as train

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/coming-from-lorat.md").read_text()
MIXINS = yaml.safe_load((ROOT / "configs/mixins.yaml").read_text())
CODE = re.findall(r"`([^`]+)`", PAGE)
PROGRAMS = {"lorat-train": train, "lorat-eval": evaluate, "lorat-prep": prep}
MODULES = {"lorat.train.cli": train, "lorat.evaluate.cli": evaluate}
OURS = [text for text in CODE if text.split()[0] in (*PROGRAMS, "torchrun")]


def command_of(text: str) -> tuple[click.Command, list[str]]:
    """The command of a line, and its own arguments."""
    program, *words = shlex.split(text)
    if program == "torchrun":
        at = words.index("-m")
        return MODULES[words[at + 1]], words[at + 2 :]
    command = PROGRAMS[program]
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, text
        return found, words[1:]
    return command, words


@pytest.mark.parametrize("text", OURS)
def test_its_commands_are_understood(text):
    command, words = command_of(text)
    with click.Context(command, **command.context_settings) as context:
        values, left, _ = command.make_parser(context).parse_args(words)
        assert not left
        for parameter in command.get_params(context):
            if parameter.name in values and not isinstance(parameter.type, click.Path):
                parameter.type_cast_value(context, values[parameter.name])
    if command is train:
        load_plan(values.get("variant") or "B-224", _there(values.get("recipe") or ()), values.get("overrides") or ())


def _there(recipes: list[str]) -> list[str]:
    return [name for name in recipes if name != "mine.yaml"]


def test_there_are_many_of_them():
    assert len(OURS) > 15


@pytest.mark.parametrize("text", [t for t in CODE if re.fullmatch(r"(train|data)\.[a-z_]+(=.*)?", t)])
def test_its_keys_exist(text):
    """Those without a value are given one that no key takes, whose error tells an unknown key from a known one."""
    if "=" in text:
        load_plan("B-224", [], [text])
    else:
        with pytest.raises(UserError) as error:
            load_plan("B-224", [], [f"{text}={{no: value}}"])
        assert "unknown key" not in error.value.message or f"{text}.no" in error.value.message


def test_every_mixin_is_told_of():
    told = PAGE.partition("## Mixins")[2].partition("## ")[0]
    named = set(re.findall(r"^\| ([^|]+) \|", told, re.MULTILINE))
    rows = {name for row in named for name in re.findall(r"`([^`]+)`", row)}
    assert rows == {*MIXINS, "got10k"}


def test_it_is_linked():
    for page in ("README.md", "docs/training.md"):
        assert "coming-from-lorat.md" in (ROOT / page).read_text()
