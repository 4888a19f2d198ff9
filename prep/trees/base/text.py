"""Annotation text files: boxes, flags and name lists.

Accepted everywhere: commas, tabs, runs of spaces, CRLF, a byte order mark, trailing blank lines, a
single row. Anything else is a `UserError` that names file, line number and content: a line that is
skipped or misread would shift every box behind it by one frame.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.watch import note
from lorat.shards.base.errors import UserError

__all__ = ["read_boxes", "read_flags", "read_names", "read_text"]

_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|nan|inf)", re.IGNORECASE)
_EMPTY_FIELD = re.compile(r"(?m)(?:,|^)[ \t]*,")
_FIELDS = {4: "4 numbers (x, y, width, height)", 8: "8 numbers (a polygon's corners)"}


def read_text(path: Path) -> str:
    """Return a text file's content.

    Raises:
        UserError: if the file cannot be read.
    """
    note(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); restore it from the data set's archive"
        ) from None
    # Bytes that are not UTF-8 become a replacement character, which no parser here accepts.
    return data.decode("utf-8-sig", errors="replace")


def read_boxes(path: Path, columns: tuple[int, ...] = (4,)) -> NDArray[np.float64]:
    """Read one box a line.

    Args:
        path: the annotation file.
        columns: how many numbers a line may have; all lines of a file have the same.

    Returns:
        (N, columns) float64 as written; ``nan`` and ``inf`` are kept.

    Raises:
        UserError: if the file is missing or empty, or a line does not parse.
    """
    text = read_text(path).rstrip()
    if not text:
        raise UserError(f"{path}: holds no boxes; restore it from the data set's archive")
    lines = text.splitlines()
    boxes = None if _EMPTY_FIELD.search(text) else _load_table(text)
    if boxes is not None and len(boxes) == len(lines) and boxes.shape[1] in columns:
        return boxes
    return _parse_lines(path, lines, columns)


def _load_table(text: str) -> NDArray[np.float64] | None:
    """Parse all lines at once; None where they are no table of numbers."""
    try:
        lines = text.replace(",", " ").splitlines()
        return np.loadtxt(lines, np.float64, comments=None, ndmin=2)
    except ValueError:
        return None


def _parse_lines(path: Path, lines: list[str], columns: tuple[int, ...]) -> NDArray[np.float64]:
    """Parse line by line and name the first bad one: the meaning that `_load_table` shortcuts."""
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        allowed = (len(rows[0]),) if rows else columns
        fields = re.split(r"\s*,\s*|\s+", line.strip().removesuffix(",").rstrip())
        if len(fields) not in allowed or not all(_NUMBER.fullmatch(field) for field in fields):
            expected = " or ".join(_FIELDS.get(count, f"{count} numbers") for count in allowed)
            raise UserError(
                f"{path}: line {number}: expected {expected}, found {_shorten(line)}; correct "
                "the line or restore the file from the data set's archive"
            )
        rows.append([float(field) for field in fields])
    return np.array(rows, dtype=np.float64)


def read_flags(path: Path, count: int, highest: int = 1) -> NDArray[np.int64]:
    """Read one small integer a frame, all on one line or one a line.

    Args:
        path: the file.
        count: how many values there must be: the sequence's boxes.
        highest: values are 0 … `highest` (at most 9).

    Returns:
        (count,) int64.

    Raises:
        UserError: if the file is missing, a value does not parse, or their number differs.
    """
    text = read_text(path)
    values = text.replace(",", " ").split()
    known = {str(value) for value in range(highest + 1)}
    if not known.issuperset(values) or _EMPTY_FIELD.search(text):
        raise _bad_flag(path, text, known, highest)
    if len(values) != count:
        raise UserError(
            f"{path}: {len(values)} values for {count} boxes; restore the sequence's annotation "
            "files from the data set's archive"
        )
    return np.array(values, dtype="S1").view(np.uint8).astype(np.int64) - ord("0")


def _bad_flag(path: Path, text: str, known: set[str], highest: int) -> UserError:
    for number, line in enumerate(text.splitlines(), start=1):
        bad = [value for value in line.replace(",", " ").split() if value not in known]
        if bad or _EMPTY_FIELD.search(line):
            return UserError(
                f"{path}: line {number}: expected values 0 to {highest}, found "
                f"{_shorten(bad[0] if bad else line)}; correct the line or restore the file from "
                "the data set's archive"
            )
    return UserError(f"{path}: does not parse; restore the file from the data set's archive")


def read_names(path: Path) -> tuple[str, ...]:
    """Read one name a line, without blank lines and repetitions, in the file's order.

    Raises:
        UserError: if the file cannot be read.
    """
    lines = (line.strip() for line in read_text(path).splitlines())
    return tuple(dict.fromkeys(line for line in lines if line))


def _shorten(content: str) -> str:
    content = content.strip()
    return repr(content if len(content) <= 60 else f"{content[:57]}...")
