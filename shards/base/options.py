"""Settings that a command line fills: declared once, as fields of a dataclass.

A field says what its option is called, what it takes and what it does; no library of command lines
is needed for that. `lorat.prep.commandline.options_of` makes the options.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from typing import Any, Literal

__all__ = ["Option", "option"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """What a command line shows of a field; its type and default are the field's own."""

    help: str
    names: tuple[str, ...] = ()
    """``--spelling``; the field's name where there is none."""
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    kind: Literal["file", "folder"] | None = None
    """What a path must be where it exists."""
    exists: bool = False
    """Whether a path must exist."""
    shown: str | None = None
    """The default in words, where a value says too little."""
    section: str = "Options"
    """The heading in the help."""


def option(default: Any = MISSING, *, help: str, **settings: Any) -> Any:
    """Declare a dataclass field that is an option of every command that takes the dataclass.

    Args:
        default: its default; without one the option must be given.
        help: one sentence for the help.
        settings: fields of `Option`.
    """
    return field(default=default, metadata={"option": Option(help=help, **settings)})
