"""What a tracker returned for one sequence, and the files that keep it.

``results/<dataset>-<split>/<sequence>.txt`` has a line a frame, ``x,y,w,h``, the first the given box; beside it stand
``<sequence>.scores.txt``, ``<sequence>.times.txt`` (seconds a frame) and ``<sequence>.states.txt`` (``tracked``,
``unsure`` or ``lost``). All are flushed, and then renamed into place with the box file last: one that exists is whole.
Who knows the sequence compares the number of lines with it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.text import parse_table, read_text
from lorat.shards.base.errors import UserError, some
from lorat.shards.base.storage import children, write_together

State = Literal["tracked", "unsure", "lost"]
STATES: tuple[State, ...] = get_args(State)
SIDE_FILES = (".scores.txt", ".times.txt", ".states.txt")  # what the names of the files beside a box file end in
REMEDY = "correct it or track the sequence again"


@dataclass(frozen=True, eq=False, slots=True)
class SequenceResult:
    """The boxes a tracker returned for the N frames of one sequence."""

    name: str
    boxes: NDArray[np.float64]  # (N, 4) x, y, w, h, 0-based continuous pixels; row 0 is the given box
    scores: NDArray[np.float64]  # (N,) the tracker's confidence; NaN where it gave none
    times: NDArray[np.float64]  # (N,) seconds spent on each frame, frame 0 the initialisation; NaN where not measured
    states: NDArray[np.str_] | None = None  # (N,) `STATES`; None of trackers that judge none

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.boxes.shape != (n, 4) or self.scores.shape != (n,) or self.times.shape != (n,):
            shapes = f"boxes {self.boxes.shape}, scores {self.scores.shape} and times {self.times.shape}"
            raise ValueError(f"{self.name}: {shapes} do not belong together")
        if self.states is not None and self.states.shape != (n,):
            raise ValueError(f"{self.name}: states {self.states.shape} do not belong to boxes {self.boxes.shape}")


Run = Mapping[str, SequenceResult]  # one tracker's results by sequence name


def table_text(rows: NDArray[np.float64], decimals: int, separator: str = ",") -> str:
    """Return (N, C) numbers as text, a line a row."""
    lines = (separator.join(f"{value:.{decimals}f}" for value in row) for row in rows.tolist())
    return "".join(line + "\n" for line in lines)


def write_result(folder: Path, result: SequenceResult) -> Path:
    """Write a result's files over older ones; return the box file. A `UserError` if the name is no file's."""
    write_together(result_files(folder, result))
    return _box_file(folder, result.name)


def result_files(folder: Path, result: SequenceResult) -> dict[Path, bytes]:
    """Return what a result's files hold, in the order in which they are to appear; errors as of `write_result`."""
    path = _box_file(folder, result.name)
    texts = [table_text(result.scores[:, None], 6), table_text(result.times[:, None], 8)]
    if result.states is not None:
        texts.append("".join(f"{state}\n" for state in result.states))
    files = {folder / (result.name + end): text for end, text in zip(SIDE_FILES, texts, strict=False)}
    return {place: text.encode("ascii") for place, text in (files | {path: table_text(result.boxes, 4)}).items()}


def has_result(folder: Path, name: str) -> bool:
    """Return whether the folder holds a whole result of the sequence."""
    return _box_file(folder, name).is_file()


def list_results(folder: Path) -> list[str]:
    """Return the sorted names of the sequences that have a result in the folder."""
    return sorted(path.stem for path in folder.glob("*.txt") if not path.name.endswith(SIDE_FILES))


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones; none where it is missing."""
    inner = (entry for entry in children(folder) if isinstance(entry, Path) and not entry.name.startswith("."))
    return [entry for entry in inner if entry.is_dir()]


def run_folders(folder: Path) -> list[Path]:
    """Return the folders of a test set's runs, as we write them: itself, ``run_002``, …."""
    return [folder, *(f for f in folders_in(folder) if re.fullmatch(r"run_\d{3}", f.name))]


def read_result(folder: Path, name: str) -> SequenceResult:
    """Read a sequence's result. Commas, tabs and spaces separate; scores, times and states may be missing. A
    `UserError` if there are no boxes, if `parse_boxes` refuses them, or if what stands beside is of another length.
    """
    path = _box_file(folder, name)
    if not path.is_file():
        raise UserError(f"{path}: no result of sequence {name}; track it first")
    boxes = parse_boxes(read_text(path, REMEDY), path)
    columns: list[Any] = []
    for beside in (folder / (name + end) for end in SIDE_FILES):
        states = beside.name.endswith(SIDE_FILES[-1])
        values = None if states else np.full(len(boxes), np.nan)
        if beside.is_file():
            text = read_text(beside, REMEDY)
            values = _parse_states(text, beside) if states else parse_table(text, beside, (1,), remedy=REMEDY)[:, 0]
        if values is not None and len(values) != len(boxes):
            raise UserError(f"{beside}: {len(values)} lines beside {len(boxes)} boxes; delete and track again")
        columns.append(values)
    return SequenceResult(name, boxes, *columns)


def _parse_states(text: str, source: Path) -> NDArray[np.str_]:
    states = text.split()
    if wrong := [word for word in states if word not in STATES]:
        raise UserError(f"{source}: '{wrong[0]}' is none of {some(STATES)}; {REMEDY}")
    return np.array(states)


def parse_boxes(text: str, source: object) -> NDArray[np.float64]:
    """Read (N, 4) boxes; a `UserError` with `source` in it if a line is no box, not finite, or of negative size."""
    boxes = parse_table(text, source, (4,), remedy=REMEDY)
    good = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= 0.0).all(axis=1)
    if not good.all():
        raise UserError(f"{source}: line {np.argmin(good) + 1} is not finite or has a negative size; {REMEDY}")
    return boxes


def read_results(folder: Path, names: Iterable[str]) -> dict[str, SequenceResult]:
    """Read the results of several sequences, as `read_result` does."""
    return {name: read_result(folder, name) for name in names}


def _box_file(folder: Path, name: str) -> Path:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise UserError(f"{folder}: '{name}' cannot be a result file's name; rename the sequence")
    return folder / f"{name}.txt"
