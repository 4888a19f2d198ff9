"""What a tracker returned for one sequence, and the files that keep it.

A result is ``results/<dataset>-<split>/<sequence>.txt``: a line a frame, ``x,y,w,h`` with four
decimals, 0-based continuous pixels, the first line the given box. Beside it stand
``<sequence>.scores.txt`` and ``<sequence>.times.txt`` (seconds a frame). The box file is written
last and every file is renamed into place, so a box file that exists is whole, and a run that was
stopped goes on with the sequences that have none.

Reading refuses what cannot be scored: a line that is no box, a value that is not finite, a negative
width or height. The number of lines is compared with the sequence by whoever knows the sequence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file

__all__ = [
    "SequenceResult",
    "has_result",
    "list_results",
    "never_moves",
    "read_result",
    "read_results",
    "write_result",
]

_SCORES, _TIMES = ".scores.txt", ".times.txt"


@dataclass(frozen=True, eq=False, slots=True)
class SequenceResult:
    """The boxes a tracker returned for the N frames of one sequence."""

    name: str
    boxes: NDArray[np.float64]
    """(N, 4) x, y, w, h, 0-based continuous pixels; row 0 is the given box."""
    scores: NDArray[np.float64]
    """(N,) the tracker's confidence; NaN where it gave none."""
    times: NDArray[np.float64]
    """(N,) seconds spent on each frame, frame 0 the initialisation; NaN where not measured."""

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.boxes.shape != (n, 4) or self.scores.shape != (n,) or self.times.shape != (n,):
            raise ValueError(
                f"{self.name}: boxes {self.boxes.shape}, scores {self.scores.shape} and times "
                f"{self.times.shape} do not belong together"
            )


def never_moves(first_box: ArrayLike, frames: int) -> NDArray[np.float64]:
    """Return the boxes of the tracker that never moves its first box, the baseline of reports.

    Args:
        first_box: (4,) x, y, w, h.
        frames: N.

    Returns:
        (N, 4) float64, x, y, w, h.
    """
    return np.tile(np.asarray(first_box, np.float64), (frames, 1))


def write_result(folder: Path, result: SequenceResult) -> Path:
    """Write a result's three files into a folder (made when missing) and return the box file.

    An older result of the same sequence is replaced.

    Args:
        folder: ``results/<dataset>-<split>``.
        result: its boxes are finite.

    Raises:
        UserError: if the sequence's name cannot be a file name.
    """
    path = _box_file(folder, result.name)
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / (result.name + _SCORES), (f"{v:.6f}" for v in result.scores))
    _write_lines(folder / (result.name + _TIMES), (f"{v:.8f}" for v in result.times))
    _write_lines(path, (",".join(f"{v:.4f}" for v in box) for box in result.boxes))
    return path


def has_result(folder: Path, name: str) -> bool:
    """Return whether the folder holds a whole result of the sequence."""
    return _box_file(folder, name).is_file()


def list_results(folder: Path) -> list[str]:
    """Return the sorted names of the sequences that have a result in the folder."""
    files = (path.name for path in folder.glob("*.txt"))
    return sorted(f[: -len(".txt")] for f in files if not f.endswith((_SCORES, _TIMES)))


def read_result(folder: Path, name: str) -> SequenceResult:
    """Read a sequence's result. Commas, tabs and spaces separate; scores and times may be missing.

    Raises:
        UserError: if the box file is missing or not readable as boxes, or if the scores or times
            beside it are of another length.
    """
    path = _box_file(folder, name)
    if not path.is_file():
        raise UserError(f"{path}: no result of sequence {name}; track it first")
    boxes = _read_numbers(path, 4)
    if not len(boxes):
        raise UserError(f"{path}: the file is empty; delete it and track the sequence again")
    bad = np.flatnonzero(~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0.0).any(axis=1))
    if len(bad):
        raise UserError(
            f"{path}: line {bad[0] + 1} is not finite or has a negative size; "
            "delete the file and track the sequence again"
        )
    scores = _read_column(folder / (name + _SCORES), len(boxes))
    return SequenceResult(name, boxes, scores, _read_column(folder / (name + _TIMES), len(boxes)))


def read_results(folder: Path, names: Iterable[str]) -> dict[str, SequenceResult]:
    """Read the results of several sequences.

    Raises:
        UserError: as `read_result`, for the first sequence at fault.
    """
    return {name: read_result(folder, name) for name in names}


def _box_file(folder: Path, name: str) -> Path:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise UserError(f"{folder}: '{name}' cannot be a result file's name; rename the sequence")
    return folder / f"{name}.txt"


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic_file(path) as file:
        file.write("".join(line + "\n" for line in lines).encode("ascii"))


def _read_column(path: Path, rows: int) -> NDArray[np.float64]:
    if not path.is_file():
        return np.full(rows, np.nan)
    values = _read_numbers(path, 1)[:, 0]
    if len(values) != rows:
        raise UserError(
            f"{path}: {len(values)} lines beside {rows} boxes; delete the result and track again"
        )
    return values


def _read_numbers(path: Path, columns: int) -> NDArray[np.float64]:
    try:
        text = path.read_text(encoding="ascii")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file of numbers; replace it") from error
    lines = text.splitlines()
    rows = _load_table(text.replace(",", " ").splitlines())
    if rows is not None and rows.shape == (len(lines), columns):
        return rows
    return _parse_lines(path, lines, columns)


def _load_table(lines: list[str]) -> NDArray[np.float64] | None:
    """Parse all lines at once; None where they are no table of numbers."""
    if not lines or not lines[0].strip():
        return None  # numpy warns of a text without any number
    try:
        return np.loadtxt(lines, np.float64, comments=None, ndmin=2)
    except ValueError:
        return None


def _parse_lines(path: Path, lines: list[str], columns: int) -> NDArray[np.float64]:
    """Parse line by line and name the first bad one: the meaning that `_load_table` shortcuts."""
    rows = np.empty((len(lines), columns))
    for number, line in enumerate(lines, start=1):
        fields = line.replace(",", " ").split()
        try:
            rows[number - 1] = [float(field) for field in fields]
            good = len(fields) == columns
        except ValueError:
            good = False
        if not good:
            raise UserError(
                f"{path}: line {number} is '{line[:60]}' and should be {columns} number"
                f"{'s' if columns > 1 else ''}; correct it or track the sequence again"
            )
    return rows
