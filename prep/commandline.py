"""What the three commands share: one line for an error, help in sections, options of dataclasses.

Nothing but command files imports this; everything below them knows no library of command lines.
"""

import functools
import importlib
import os
import traceback
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal

import click

from lorat.shards.base.console import INTERRUPTED
from lorat.shards.base.errors import Stopped, UserError
from lorat.shards.base.options import Option
from lorat.shards.base.process import end_process, one_of_many
from lorat.shards.base.signals import exit_status, sigterm_stops
from lorat.shards.base.storage import Location, locate

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class LocationType(click.ParamType):
    """A folder: a path, or a URL such as ``s3://bucket/folder``."""

    name = "path or url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        """Read the text of a command line."""
        return locate(value) if isinstance(value, str) else typing.cast("Location", value)


class _Option(click.Option):
    def __init__(self, *args: Any, section: str, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section = section


class Command(click.Command):
    """A command whose errors are one line and whose help, -h too, has sections."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        settings["context_settings"] = _SETTINGS | (settings.get("context_settings") or {})
        super().__init__(*args, **settings)

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run; a `UserError` is one line and status 2, a `Stopped`, as any Ctrl-C is, 130, and 143 after SIGTERM."""
        with sigterm_stops() as heard:
            try:
                return super().main(*args, **settings)
            except (UserError, Stopped) as error:
                status: object = error.exit_code
                if status != INTERRUPTED or os.environ.get("RANK", "0") == "0":  # ranks are stopped together
                    click.echo(f"Error: {error.message}", err=True)
            except SystemExit as error:  # as click ends
                status = error.code
            except Exception:
                if not one_of_many():
                    raise
                traceback.print_exc()
                status = 1
        if heard.number and status in (1, INTERRUPTED):  # 1 is click's own, where nothing was called yet
            status = exit_status(heard.number)
        end_process(status)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command; click by itself would end with 1 after Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped("stopped") from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings, in the order of declaration."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):  # usage shows arguments
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class Group(Command, click.Group):
    """Commands under one name; their summaries are shown whole.
    `modules`: command → the module that defines it as ``<command>_command``, imported when it is asked for.
    """

    command_class = Command

    def __init__(self, *args: Any, modules: Mapping[str, str] = types.MappingProxyType({}), **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*self.commands, *self._modules})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported where it has not been yet."""
        if cmd_name in self._modules and cmd_name not in self.commands:
            module = importlib.import_module(self._modules[cmd_name])
            self.add_command(getattr(module, f"{cmd_name.replace('-', '_')}_command"))
        return super().get_command(ctx, cmd_name)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then a line a command."""
        Command.format_options(self, ctx, formatter)
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(n, c.get_short_help_str(limit=200)) for n, c in commands if c])


def options_of(
    cls: type, parameter: str, section: str = "Options"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add an option for every field of a dataclass that `lorat.shards.base.options` declares.
    The command gets one `cls`, filled, as the argument `parameter`. Flags are fields of bool, with None where neither
    of ``--yes/--no`` is given; choices of Literal; a tuple takes its option several times. `section` is their heading.
    """
    hints = typing.get_type_hints(cls)
    declared = [field for field in fields(cls) if "option" in field.metadata]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def filled(*args: Any, **values: Any) -> Any:
            own = {field.name: values.pop(field.name) for field in declared}
            return command(*args, **{parameter: cls(**own)}, **values)

        for field in reversed(declared):
            filled = _click_option(field, hints[field.name], section)(filled)
        return filled

    return decorate


def _click_option(field: Field[Any], hint: Any, section: str) -> Callable[..., Any]:
    about: Option = field.metadata["option"]
    settings: dict[str, Any] = {"help": about.help, "metavar": about.metavar, "section": about.section or section}
    if field.default is MISSING:
        settings["required"] = True
    else:
        settings["default"] = field.default
        settings["show_default"] = about.shown or (field.default not in (None, ()) and field.default is not False)
    if typing.get_origin(hint) is tuple:
        hint = typing.get_args(hint)[0]
        settings["multiple"] = True
    settings |= {"is_flag": True} if hint in (bool, bool | None) else {"type": _click_type(hint, about)}
    names = about.names or (f"--{field.name.replace('_', '-')}",)
    return click.option(*names, field.name, cls=_Option, **settings)


def _click_type(hint: Any, about: Option) -> Any:
    if hint == Location or hint == Location | None:
        return LocationType()
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Literal:
        return click.Choice(typing.get_args(hint))
    if hint is Path:
        may_be = {"file_okay": about.kind != "folder", "dir_okay": about.kind != "file"}
        return click.Path(path_type=Path, exists=about.exists, **may_be)
    if hint in (int, float) and (about.least, about.most) != (None, None):
        of: Any = click.IntRange if hint is int else click.FloatRange
        return of(about.least, about.most)
    return getattr(hint, "parse", hint)
