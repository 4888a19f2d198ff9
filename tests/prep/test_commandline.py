"""What the three commands have in common: options of dataclasses, help, errors of one line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner

from lorat.evaluate.cli import main as evaluate
from lorat.prep.cli import main as prep
from lorat.prep.commandline import Command, Group, options_of
from lorat.shards.base.errors import Stopped, UserError
from lorat.shards.base.options import option
from lorat.shards.base.storage import Location, is_remote
from lorat.train.cli import main as train


@dataclass(frozen=True, kw_only=True)
class Wanted:
    place: Location = option(Path("data"), help="A folder or URL.", section="Where")
    names: tuple[str, ...] = option((), names=("--name",), help="Again and again.")
    size: int | None = option(None, least=1, help="A number.")
    kind: Literal["round", "square"] = option("round", help="A choice.")
    quick: bool = option(False, help="A flag.")
    computed: int = 3

    def __post_init__(self) -> None:
        if self.size == 13:
            raise UserError("--size 13: brings bad luck; take another")
        if self.size == 130:
            raise Stopped("stopped at 130")


@click.group(cls=Group)
def main() -> None:
    pass


@main.command("show")
@options_of(Wanted, "wanted")
def show(wanted: Wanted) -> None:
    """Show what was given, in a sentence that is longer than the forty-five letters click shows.

    More that only the command's own help tells.
    """
    click.echo(f"{is_remote(wanted.place)} {wanted}")


def run(*arguments: str):
    return CliRunner().invoke(main, arguments)


def test_a_dataclass_is_filled_from_its_options():
    given = run("show", "--place=memory://a/b", "--name=x", "--name=y", "--size=2", "--quick")
    assert given.exit_code == 0, given.output
    assert "True" in given.output and "names=('x', 'y'), size=2, kind='round'" in given.output
    assert f"False {Wanted()}" in run("show").output


def test_of_an_option_of_one_value_the_last_counts():
    assert "size=3" in run("show", "--size=2", "--size=3", "--quick", "--quick").output


@pytest.mark.parametrize(
    ("argument", "status", "line"),
    [
        ("--size=13", 2, "Error: --size 13: brings bad luck; take another\n"),
        ("--size=130", 130, "Error: stopped at 130\n"),
        ("--place=nowhere://a/b", 2, None),
        ("--size=0", 2, None),
        ("--kind=flat", 2, None),
        ("--computed=4", 2, None),
    ],
)
def test_what_is_refused_is_said_without_a_traceback(argument, status, line):
    refused = run("show", argument)
    assert refused.exit_code == status and isinstance(refused.exception, SystemExit)
    assert line is None or refused.output == line


def test_help_has_sections_defaults_and_whole_summaries():
    text = run("show", "-h").output
    assert "Where:\n  --place" in text and "[default: data]" in text and "[x>=1]" in text
    assert "--computed" not in text
    summary = " ".join(run("-h").output.split())
    assert "longer than the forty-five letters click shows." in summary
    assert "only the command" not in summary


@pytest.mark.parametrize("command", [prep, train, evaluate])
def test_every_command_and_subcommand_answers_h(command):
    below = command.list_commands(click.Context(command)) if isinstance(command, Group) else ()
    for name in ("", *below):
        shown = CliRunner().invoke(command, [name, "-h"] if name else ["-h"])
        assert shown.exit_code == 0 and "-h, --help" in shown.output, name
        assert isinstance(command, Command)
