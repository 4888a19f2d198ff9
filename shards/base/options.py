"""Settings that a command line fills, declared once as fields of a dataclass; sizes as written.

No library of command lines is needed for that; `lorat.prep.commandline.options_of` makes the options.
"""

import re
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal

from lorat.shards.base.errors import UserError

_UNITS = ("", "K", "M", "G", "T")
_BYTES = re.compile(r"(\d*\.?\d+(?:e\d+)?) ?(?:([KMGT])(i)?)?B?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """What a command line shows of a field; its type and default are the field's own."""

    help: str
    names: tuple[str, ...] = ()  # ``--spelling``; the field's name where there is none
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    kind: Literal["file", "folder"] | None = None  # what a path must be where it exists
    exists: bool = False  # whether a path must exist
    shown: str | None = None  # the default in words, where a value says too little
    section: str | None = None  # the heading in the help, where it is not the dataclass's


def option(default: Any = MISSING, *, help: str, **settings: Any) -> Any:
    """Declare a dataclass field that is an option of every command that takes the dataclass. Without a default the
    option must be given; `settings` are fields of `Option`.
    """
    return field(default=default, metadata={"option": Option(help=help, **settings)})


def parse_bytes(text: str) -> int:
    """Read ``200GB``, ``1.5 TB``, ``4e9``, or powers of 1024 (GiB); what is no positive size is a `UserError`."""
    found = _BYTES.fullmatch(text.strip())
    if found:
        number, unit, binary = found.groups()
        size = int(float(number) * (1024 if binary else 1000) ** _UNITS.index((unit or "").upper()))
        if size > 0:
            return size
    raise UserError(f"size '{text}': write for example 200GB, 1.5TB or 500GiB")
