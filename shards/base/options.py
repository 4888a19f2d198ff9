"""Settings that a command line or a caller fills, declared once as fields of a dataclass; sizes as written.

No library of command lines is needed for that; `lorat.prep.commandline.options_of` makes the options.
"""

import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from lorat.shards.base.errors import UserError, unknown

Settings = TypeVar("Settings")

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


def settings_of(cls: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Fill a dataclass with values as callers have them: paths may be texts, what is named may be what prints as its
    name (a ``torch.device`` or ``torch.dtype``), one may stand for several. A `UserError` for any other, and for a
    name that no field has.
    """
    hints = typing.get_type_hints(cls)
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise unknown("setting", name, known)
    return cls(**{name: _fitting(name, value, hints[name]) for name, value in values.items()})


def _fitting(name: str, value: Any, hint: Any) -> Any:
    """Return a value in the type of its field."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        if value is None:
            return None
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        several = value if isinstance(value, list | tuple) else (value,)
        return tuple(_fitting(name, each, typing.get_args(hint)[0]) for each in several)
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise unknown(name, str(value), typing.get_args(hint))
        return value
    if hint is Path and isinstance(value, str | os.PathLike):
        return Path(value)
    if hint is str and type(value).__module__ in ("torch", "pathlib"):
        return str(value).removeprefix("torch.")
    if isinstance(value, str) and hasattr(hint, "parse"):
        return hint.parse(value)
    if not isinstance(value, hint):
        raise UserError(f"{name}={value!r}: give a value of type {hint.__name__}")
    return value


def parse_bytes(text: str) -> int:
    """Read ``200GB``, ``1.5 TB``, ``4e9``, or powers of 1024 (GiB); what is no positive size is a `UserError`."""
    found = _BYTES.fullmatch(text.strip())
    if found:
        number, unit, binary = found.groups()
        size = int(float(number) * (1024 if binary else 1000) ** _UNITS.index((unit or "").upper()))
        if size > 0:
            return size
    raise UserError(f"size '{text}': write for example 200GB, 1.5TB or 500GiB")
