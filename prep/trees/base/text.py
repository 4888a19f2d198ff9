"""Tables of numbers as text, and the annotation files that are made of them.

`parse_table` is the one reader of numbers: trees, results of any tracker and submissions use it. Accepted everywhere:
commas, tabs, runs of spaces, any line end, a comma at the end of a line, a single row. Anything else is a `UserError`
that names file, line number and content: a line that is skipped or misread would shift every box behind it.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.reading import note
from lorat.shards.base.errors import UserError, counted

RESTORE = "restore it from the data set's archive"
RESTORE_FILE = "restore the file from the data set's archive"
_MEND = f"correct the line or {RESTORE_FILE}"
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|nan|inf(?:inity)?)", re.IGNORECASE | re.ASCII)
_VALUE, _SHARE = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", r"(?:0|1|0?\.\d+|1\.0*|\d(?:\.\d+)?e-\d+)"
_KNOWN = tuple(  # lines that people take for boxes
    (re.compile(pattern, re.IGNORECASE | re.ASCII), what)
    for pattern, what in (
        (
            rf'\d+(?:\s+{_VALUE}){{4}}\s+\d+\s+[01]\s+[01]\s+[01](?:\s+".*)?',
            "a row of VATIC (id, two corners, frame, lost, occluded, generated), as NFS's official files have",
        ),
        (rf"{_VALUE}(?:[,\s]+{_VALUE}){{7}}", "a polygon, as VOT has"),
        (r"m-?\d+,-?\d+,\d+,\d+,.*", "a mask, as VOT has"),
        (rf"\d+(?:[,\s]+{_SHARE}){{4}}", "a class and a box in shares of the image's sides, as YOLO has"),
        (
            rf"\d+[,\s]+-?\d+(?:[,\s]+{_VALUE}){{5,8}}",
            "a row of MOT (frame, id, x, y, width, height, …), with all objects in one file",
        ),
        (rf"{_VALUE}(?:;\s*{_VALUE})+", "numbers with semicolons, not commas, between them"),
        (r"[\[{].*", "JSON"),
        (r"<.*", "XML, as Pascal VOC has"),
        (r"(?!nan|inf)[^\W\d]\w*(?:[,\s]+[^\W\d]\w*)+", "the names of columns, which have to go"),
    )
)
_EMPTY_FIELD = re.compile(r"(?m)(?:,|^)[ \t]*,")
_FIELDS = {1: "1 number", 4: "4 numbers (x, y, width, height)", 8: "8 numbers (a polygon's corners)"}


class BadLine(UserError):
    """A line that is no row of its table: its number, from 1, and what stands there."""

    def __init__(self, message: str, number: int, line: str) -> None:
        super().__init__(message)
        self.number, self.line = number, line


def parse_table(
    text: str, source: object, columns: Sequence[int] | None = None, *, remedy: str = _MEND
) -> NDArray[np.float64]:
    """Read numbers, a row a line, into (N, C) float64, N > 0; all rows have as many as the first. Every line must be a
    row: strip `text` before where blank lines at the end are fine; it has no byte order mark. A row may have as many
    numbers as `columns` says; None: any. ``nan`` and ``inf`` are kept. A caller with rules of its own (finite boxes,
    plain decimals, commas only) checks the array, or its text: row i is ``text.splitlines()[i]``. The first line that
    is not numbers, or not as many as there must be, is a `BadLine`, no number at all a `UserError`; both call the text
    `source` and end in `remedy`.
    """
    if not text.strip():
        raise UserError(f"{source}: holds no numbers; {remedy}")
    lines = text.splitlines()
    if not _EMPTY_FIELD.search(text):
        with suppress(ValueError):
            table = np.loadtxt(text.replace(",", " ").splitlines(), comments=None, ndmin=2)
            if len(table) == len(lines) and (columns is None or table.shape[1] in columns):
                return table
    # The same meaning, slowly: it knows the first bad line.
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        # Two separators, or one at the head, have an empty field between, which is no number.
        fields = re.split(r"\s*,\s*|\s+", line.strip().removesuffix(",").rstrip())
        columns = columns or (len(fields),)
        if len(fields) not in columns or not all(map(is_number, fields)):
            wanted = " or ".join(_FIELDS.get(count, f"{count} numbers") for count in columns)
            message = f"line {number}: expected {wanted}, found {shorten(line)}"
            if 4 in columns and (known := notation_of(line)):
                message, remedy = f"{message}, which looks like {known}", "write x, y, width, height in pixels"
            raise BadLine(f"{source}: {message}; {remedy}", number, line)
        rows.append([float(field) for field in fields])
        columns = (len(fields),)
    return np.array(rows)


def notation_of(line: str) -> str:
    """Return which known notation a line that is no box is in; nothing where it is none of them."""
    return next((what for pattern, what in _KNOWN if pattern.fullmatch(line.strip())), "")


def is_number(text: str) -> bool:
    """Return whether a field is a decimal number, nan or inf: Python takes more, such as 1_0."""
    return _NUMBER.fullmatch(text) is not None


def shorten(line: str) -> str:
    """Return a line in quotes, cut where it is too long for a message."""
    line = line.strip()
    return repr(line if len(line) <= 60 else f"{line[:57]}...")


def read_text(path: Path, remedy: str = RESTORE) -> str:
    """Return a file's text without its byte order mark; a `UserError` if it cannot be read."""
    note(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        if inner := next(path.parent.glob(f"*/{path.name}"), None):
            remedy = f"{inner} is there: move what {inner.parent} holds into {path.parent}"
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    # Bytes that are not UTF-8 become a replacement character, which no parser here accepts.
    return data.decode("utf-8-sig", errors="replace")


def read_boxes(path: Path, columns: Sequence[int] = (4,)) -> NDArray[np.float64]:
    """Read one box a line, (N, columns) float64 as written, but for blank lines at the end; errors of `parse_table`."""
    return parse_table(read_text(path).rstrip(), path, columns)


def read_flags(path: Path, count: int, highest: int = 1) -> NDArray[np.int64]:
    """Read `count` integers from 0 to `highest` (at most 9), on one line or many; a `UserError` if it holds others."""
    text = read_text(path)
    values, known = text.replace(",", " ").split(), set(map(str, range(highest + 1)))
    if not known.issuperset(values) or _EMPTY_FIELD.search(text):
        for number, line in enumerate(text.splitlines(), start=1):
            bad = [value for value in line.replace(",", " ").split() if value not in known]
            if bad or _EMPTY_FIELD.search(line):
                message = f"line {number}: expected values 0 to {highest}, found {shorten((bad or [line])[0])}"
                raise UserError(f"{path}: {message}; {_MEND}")
    if len(values) != count:
        what = f"{counted(len(values), 'value')} for {counted(count, 'box', 'es')}"
        raise UserError(f"{path}: {what}; restore the sequence's files from the data set's archive")
    return np.array(values, dtype="S1").view(np.uint8).astype(np.int64) - ord("0")


def read_names(path: Path) -> tuple[str, ...]:
    """Read one name a line, in order, without blanks and repetitions; errors as `read_text`."""
    lines = (line.strip() for line in read_text(path).splitlines())
    return tuple(dict.fromkeys(line for line in lines if line))
