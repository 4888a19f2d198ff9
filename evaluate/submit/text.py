"""Text files of numbers as evaluation servers read them: plain decimals, commas, a line a frame.

Promise: no text raises. What is wrong is said by kind (`zipfindings.KINDS`) and line; numbers are
returned wherever the meaning is plain in spite of it, so that they can be judged too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Table", "parse_table", "quoted"]

_BOM = b"\xef\xbb\xbf"
_PLAIN_BYTES = b"0123456789.,-\n"
_PLAIN = re.compile(r"-?(\d+\.?\d*|\.\d+)")
_SEPARATORS = re.compile(r"[\s;|,]+")
_SHOWN = 40  # characters of a line that a message quotes


@dataclass(frozen=True, eq=False, slots=True)
class Table:
    """The numbers of a text file."""

    rows: NDArray[np.float64] | None
    """(N, C), NaN and infinities as written; None where the text is no table of numbers."""
    faults: tuple[tuple[str, str], ...]
    """(kind, detail) of everything that is wrong with the text."""


def parse_table(data: bytes) -> Table:
    """Read lines of numbers, one table a file.

    Args:
        data: the file's bytes.

    Returns:
        The numbers and what is wrong with the text that they were read from.
    """
    faults = []
    if data.startswith(_BOM):
        faults.append(("byte order mark", "the first three bytes are EF BB BF"))
        data = data[len(_BOM) :]
    if b"\r" in data:
        count = data.count(b"\r")
        faults.append(("line ends", f"{count:,} carriage returns"))
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not data.isascii() or b"\0" in data:
        return Table(None, (*faults, ("not numbers", "the bytes are no plain text")))
    lines = data.decode("ascii").removesuffix("\n").split("\n")
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        return Table(None, (*faults, ("empty", "no line")))
    if len(filled) != len(lines):
        faults.append(("blank lines", f"{len(lines) - len(filled):,} lines"))
    if not data.translate(None, _PLAIN_BYTES):
        plain = [(number, line.split(",")) for number, line in filled]
    else:
        plain, found = _mended(filled)
        faults.extend(found)
    if not plain:
        return Table(None, tuple(faults))
    rows, fault = _numbers(plain)
    return Table(rows, (*faults, *([fault] if fault else [])))


def _mended(lines: list[tuple[int, str]]) -> tuple[list[tuple[int, list[str]]], list]:
    """Return the fields of lines that are not all plain; none where the numbers are not plain.

    The faults are one a kind, each with its first line and how many more there are.
    """
    fields, seen = [], dict[str, list[str]]()
    for number, line in lines:
        parts = line.split(",")
        kind = _line_fault(parts, first=number == 1)
        if kind:
            seen.setdefault(kind, []).append(f"line {number}: '{quoted(line)}'")
        fields.append((number, [part.strip() for part in parts]))
    faults = [
        (kind, where[0] + (f" and {len(where) - 1:,} more" if len(where) > 1 else ""))
        for kind, where in seen.items()
    ]
    return ([] if seen.keys() - {"number form"} else fields), faults


def _line_fault(parts: list[str], first: bool) -> str | None:
    """Return the kind of fault of a line, split at its commas."""
    if all(map(_is_number, parts)):
        odd = (part for part in parts if not _PLAIN.fullmatch(part))
        # nan and inf are judged as numbers: their text is the only one they have.
        return "number form" if any(np.isfinite(float(part)) for part in odd) else None
    pieces = [piece for piece in _SEPARATORS.split(",".join(parts)) if piece]
    if len(pieces) > 1 and all(map(_is_number, pieces)):
        return "delimiter"
    return "header" if first and not any(map(_is_number, pieces)) else "not numbers"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _numbers(
    lines: list[tuple[int, list[str]]],
) -> tuple[NDArray[np.float64] | None, tuple[str, str] | None]:
    """Return (N, C) numbers of lines of fields, or what makes them no table."""
    width = len(lines[0][1])
    for number, fields in lines:
        if len(fields) != width:
            return None, ("columns", f"line {number} has {len(fields)}, line 1 has {width}")
    try:
        return np.array([fields for _, fields in lines], dtype=np.float64), None
    except ValueError:
        bad = next((n, f) for n, f in lines if not all(map(_is_number, f)))
        return None, ("not numbers", f"line {bad[0]}: '{quoted(','.join(bad[1]))}'")


def quoted(text: str, longest: int = _SHOWN) -> str:
    """Return text that a terminal can show: no control characters, not too long."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:longest])
    return shown if len(text) <= longest else f"{shown}…"
