"""Our results in the layouts of other toolkits, as the published LoRAT writes them.

Tab-separated with three decimals for pytracking and OTB, comma and four decimals for GOT-10k; x and
y from 1 where the data set's annotations count from 1 (LaSOT, VastTrack). Boxes are not rounded to
whole pixels, which submissions do. Repeated runs get folders ``<label>_001``, …, or in GOT-10k's
layout files of their own.

Promise: a file is whole or not there; what is there with other content is refused before anything
is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.results.files import SequenceResult
from lorat.evaluate.results.find import PREFIXES
from lorat.prep.trees.base.dataset import Dataset
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file, explain_disk

__all__ = ["EXPORTS", "ResultSet", "layout_files", "write_files"]

Runs = Sequence[Mapping[str, SequenceResult]]

_UNPREFIXED = ("otb",)  # its prefix is known from some archives only; pytracking writes none


@dataclass(frozen=True, eq=False, slots=True)
class ResultSet:
    """Our results of one test set."""

    dataset: Dataset
    split: str
    runs: tuple[Mapping[str, SequenceResult], ...]
    """By sequence name, the same sequences in every run."""

    @property
    def name(self) -> str:
        """``<dataset>-<split>``."""
        return f"{self.dataset.name}-{self.split}"


def layout_files(sets: Sequence[ResultSet], layout: str, label: str) -> dict[str, str]:
    """Return the files of results in a layout: path below the export's folder → text.

    Args:
        sets: the test sets.
        layout: one of `EXPORTS`.
        label: what the tracker is called; a folder's name.

    Raises:
        UserError: if two test sets have a sequence of the same name, which no layout keeps apart.
    """
    files: dict[str, str] = {}
    owners: dict[str, str] = {}
    for item in sets:
        for path, text in EXPORTS[layout](item, label).items():
            other = owners.setdefault(path, item.name)
            if other != item.name:
                raise UserError(
                    f"{path}: {other} and {item.name} both have a sequence of this name, and the "
                    f"layout {layout} has one folder for both; export them apart with --datasets "
                    "and another --label or --out"
                )
            files[path] = text
    return files


def write_files(folder: Path, files: Mapping[str, str], *, overwrite: bool) -> int:
    """Write text files below a folder and return how many were not there as they are.

    Raises:
        UserError: before anything is written, if a file is there with other content and
            `overwrite` is off; if one cannot be written.
    """
    changed = {path: text.encode("ascii") for path, text in files.items()}
    there = []
    for path in list(changed):
        with explain_disk(folder / path):
            old = (folder / path).read_bytes() if (folder / path).exists() else None
        if old == changed[path]:
            del changed[path]
        elif old is not None:
            there.append(path)
    if there and not overwrite:
        more = f", as do {len(there) - 1:,} more of its files" if len(there) > 1 else ""
        raise UserError(
            f"{folder / there[0]}: exists with other content{more}; use --overwrite, another "
            "--label or another --out"
        )
    for path, data in changed.items():
        with atomic_file(folder / path) as file:
            file.write(data)
    return len(changed)


def _pytracking(item: ResultSet, label: str) -> dict[str, str]:
    prefix = "" if item.dataset.name in _UNPREFIXED else PREFIXES.get(item.dataset.name, "")
    return {
        f"{label}{run}/{prefix}{result.name}.txt": _table(_boxes(item, result), 3, "\t")
        for run, result in _numbered(item.runs)
    }


def _otb(item: ResultSet, label: str) -> dict[str, str]:
    return {
        f"{label}{run}_tracking_result/{result.name}.txt": _table(_boxes(item, result), 3, "\t")
        for run, result in _numbered(item.runs)
    }


def _got10k(item: ResultSet, label: str) -> dict[str, str]:
    files = {}
    for name in item.runs[0]:
        folder = f"{label}/{name}"
        for number, results in enumerate(item.runs, start=1):
            boxes = _boxes(item, results[name])
            files[f"{folder}/{name}_{number:03d}.txt"] = _table(boxes, 4, ",")
        times = np.stack([results[name].times for results in item.runs], axis=1)
        if np.isfinite(times).all():
            files[f"{folder}/{name}_time.txt"] = _table(times, 8, ",")
    return files


EXPORTS: dict[str, Callable[[ResultSet, str], dict[str, str]]] = {
    "pytracking": _pytracking,
    "otb": _otb,
    "got10k": _got10k,
}
"""Layout → the files of one test set."""


def _numbered(runs: Runs) -> list[tuple[str, SequenceResult]]:
    """Return every result with the end of its folder's name; a single run has none."""
    ends = [f"_{number:03d}" if len(runs) > 1 else "" for number in range(1, len(runs) + 1)]
    return [(end, result) for end, run in zip(ends, runs, strict=True) for result in run.values()]


def _boxes(item: ResultSet, result: SequenceResult) -> NDArray[np.float64]:
    return result.boxes + (np.array([1.0, 1.0, 0.0, 0.0]) if item.dataset.one_based else 0.0)


def _table(rows: NDArray[np.float64], decimals: int, separator: str) -> str:
    lines = (separator.join(f"{value:.{decimals}f}" for value in row) for row in rows.tolist())
    return "".join(line + "\n" for line in lines)
