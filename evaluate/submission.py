"""Zips for the evaluation servers of GOT-10k and TrackingNet.

Promise: a zip that these functions return has exactly the expected sequences, a row for every
frame, four finite numbers a row with positive width and height, in the layout the servers'
toolkits write; it was read back and parsed. The same results give the same bytes. What cannot be
submitted is refused before a file exists.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.results import SequenceResult
from lorat.shards.errors import UserError
from lorat.shards.geometry import rasterise, xywh_to_xyxy, xyxy_to_xywh
from lorat.shards.storage import atomic_file

__all__ = ["GOT10K_TEST_NAMES", "Packed", "pack_got10k", "pack_trackingnet"]

GOT10K_TEST_NAMES = tuple(f"GOT-10k_Test_{number:06d}" for number in range(1, 181))
"""The official test set of GOT-10k."""

_MOST_RUNS = 3  # what the toolkit's protocol asks for at most
_FARTHEST = 1e5  # pixels; a coordinate beyond is a tracker's or a parser's fault
_SHOWN = 5  # sequences an error or a note lists by name


@dataclass(frozen=True, slots=True)
class Packed:
    """A finished submission zip."""

    path: Path
    """The zip; its name ends in ``-unofficial`` where the sequences are not the official set."""
    sequences: int
    notes: tuple[str, ...]
    """What the user should know, a line each: unofficial set, missing times, odd boxes."""


def pack_got10k(
    runs: Sequence[Mapping[str, SequenceResult]],
    expected: Mapping[str, int],
    out_zip: Path,
    *,
    first_boxes: Mapping[str, NDArray] | None = None,
    overwrite: bool = False,
) -> Packed:
    """Write the submission of GOT-10k's test set.

    Entries: ``<sequence>/<sequence>_001.txt`` (and ``_002``, ``_003`` with repeated runs), comma,
    four decimals, and ``<sequence>/<sequence>_time.txt``, seconds a frame, a column a run. Boxes
    are rasterised to the whole pixels they touch, as in the published submissions.

    Args:
        runs: one to three runs, each the results by sequence name.
        expected: frames of every sequence of the tree, by name.
        out_zip: where to write; its folder is made.
        first_boxes: (4,) x, y, w, h given in the first frame, by name, to compare with.
        overwrite: replace a zip that exists with other content.

    Returns:
        The zip and notes.

    Raises:
        UserError: naming sequence and reason, if the results cannot be submitted, or if a zip with
            other content exists and `overwrite` is off.
    """
    if not 1 <= len(runs) <= _MOST_RUNS:
        raise UserError(f"{out_zip}: GOT-10k takes 1 to {_MOST_RUNS} runs, not {len(runs)}")
    notes: list[str] = []
    entries: dict[str, _Table] = {}
    for number, results in enumerate(runs, start=1):
        for name, boxes in _checked(results, expected, out_zip, first_boxes, notes).items():
            entries[f"{name}/{name}_{number:03d}.txt"] = _Table(boxes, decimals=4)
    for name in expected:
        times = np.stack([results[name].times for results in runs], axis=1)
        if (np.round(times, 8) > 0.0).all():
            entries[f"{name}/{name}_time.txt"] = _Table(times, decimals=8)
        else:
            notes.append(f"{name}: no time for every frame, so its time file is left out")
    if len(runs) > 1 and all(_same_boxes(runs, name) for name in expected):
        notes.append(f"all {len(runs)} runs are identical: one is enough")
    target = _Target(out_zip, "GOT-10k test", GOT10K_TEST_NAMES, overwrite)
    return _finish(entries, expected, target, notes)


def pack_trackingnet(
    results: Mapping[str, SequenceResult],
    expected: Mapping[str, int],
    out_zip: Path,
    *,
    official: Collection[str],
    first_boxes: Mapping[str, NDArray] | None = None,
    overwrite: bool = False,
) -> Packed:
    """Write the submission of TrackingNet's test set.

    Entries: ``<sequence>.txt`` at the root and nothing else, comma, two decimals. Boxes are
    rasterised to the whole pixels they touch, as in the published submissions.

    Args:
        results: by sequence name.
        expected: frames of every sequence of the tree, by name.
        out_zip: where to write; its folder is made.
        official: names of the 511 official test sequences.
        first_boxes: (4,) x, y, w, h given in the first frame, by name, to compare with.
        overwrite: replace a zip that exists with other content.

    Returns:
        The zip and notes.

    Raises:
        UserError: as `pack_got10k`.
    """
    notes: list[str] = []
    boxes = _checked(results, expected, out_zip, first_boxes, notes)
    entries = {f"{name}.txt": _Table(rows, decimals=2) for name, rows in boxes.items()}
    target = _Target(out_zip, "TrackingNet test", official, overwrite)
    return _finish(entries, expected, target, notes)


@dataclass(frozen=True, eq=False, slots=True)
class _Table:
    """Numbers of one text file: comma, '.' decimal, LF line ends, no header, no exponents."""

    rows: NDArray[np.float64]
    decimals: int

    def text(self) -> str:
        return "".join(
            ",".join(f"{value:.{self.decimals}f}" for value in row) + "\n" for row in self.rows
        )

    def reads_back(self, data: bytes) -> bool:
        """Return whether the bytes are plain lines of numbers that mean this table."""
        lines = data.decode("ascii", errors="replace").split("\n")
        fields = [line.split(",") for line in lines[:-1]]
        if lines[-1] or {len(row) for row in fields} != {self.rows.shape[1]}:
            return False
        if any(field.strip("-.0123456789") for row in fields for field in row):
            return False
        try:
            values = np.array(fields, dtype=np.float64)
        except ValueError:
            return False
        half = 0.5000001 * 10.0**-self.decimals
        return values.shape == self.rows.shape and bool((np.abs(values - self.rows) <= half).all())


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a submission goes and which sequences its server expects."""

    path: Path
    server: str
    official: Collection[str]
    overwrite: bool


def _checked(
    results: Mapping[str, SequenceResult],
    expected: Mapping[str, int],
    out_zip: Path,
    first_boxes: Mapping[str, NDArray] | None,
    notes: list[str],
) -> dict[str, NDArray[np.float64]]:
    """Return (N, 4) whole-pixel x, y, w, h of every expected sequence; add to the notes.

    Raises:
        UserError: naming the sequence and the reason.
    """
    if not expected:
        raise UserError(f"{out_zip}: the tree has no sequence to submit; check the tree")
    for kind, names in (
        ("no result of", expected.keys() - results.keys()),
        ("results of unexpected sequences", results.keys() - expected.keys()),
    ):
        if names:
            raise UserError(f"{out_zip}: {kind} {_listed(names)}; track exactly the tree's list")
    checked = {}
    for name in sorted(expected):
        reason = _refusal(results[name].boxes, name, expected[name])
        if reason:
            raise UserError(f"{out_zip}: {name}: {reason}; track the sequence again")
        if first_boxes is not None and name in first_boxes:
            note = _compare_first(results[name].boxes[0], first_boxes[name], f"{out_zip}: {name}")
            notes.extend([f"{name}: {note}"] if note else [])
        checked[name] = _whole_pixels(results[name].boxes)
        notes.extend(f"{name}: {oddity}" for oddity in _oddities(results[name].boxes))
    return checked


def _refusal(boxes: NDArray[np.float64], name: str, frames: int) -> str | None:
    """Return why a sequence's boxes cannot be submitted, or None."""
    if not name.isascii() or "/" in name or "\\" in name:
        return "the name cannot be a zip entry"
    if len(boxes) != frames:
        return f"{len(boxes)} boxes for {frames} frames"
    faults = (
        ("is not finite", ~np.isfinite(boxes).all(axis=1)),
        ("has a negative size", (boxes[:, 2:] < 0.0).any(axis=1)),
        (f"is {_FARTHEST:.0f} pixels away or more", (np.abs(boxes) >= _FARTHEST).any(axis=1)),
    )
    for what, rows in faults:
        if rows.any():
            return f"the box of frame {int(np.flatnonzero(rows)[0]) + 1} {what}"
    return None


def _oddities(boxes: NDArray[np.float64]) -> list[str]:
    """Return what is odd about boxes that can be submitted all the same."""
    empty = int((boxes[:, 2:] == 0.0).any(axis=1).sum())
    outside = int((boxes[:, :2] + boxes[:, 2:] <= 0.0).any(axis=1).sum())
    notes = [f"{empty} boxes have no size and are written a pixel wide or high"] if empty else []
    return [*notes, f"{outside} boxes lie left of or above the image"] if outside else notes


def _compare_first(box: NDArray[np.float64], given: NDArray, where: str) -> str | None:
    """Compare a result's first box with the given one; return what is odd, or None.

    Raises:
        UserError: if the box is off by exactly a pixel in both axes, as mixed-up bases make it.
    """
    difference = box - np.asarray(given, np.float64)
    shifted = np.isclose(np.abs(difference), [1.0, 1.0, 0.0, 0.0], atol=1e-3).all()
    if shifted and difference[0] * difference[1] > 0.0:
        raise UserError(
            f"{where}: the first box is one pixel off the given one in x and y, as 1-based boxes "
            "are; shift the results by one pixel"
        )
    return "the first box is not the given one" if (np.abs(difference) > 1.0).any() else None


def _whole_pixels(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the whole-pixel rectangles that x, y, w, h boxes touch, at least a pixel wide."""
    whole = xyxy_to_xywh(rasterise(xywh_to_xyxy(boxes)))
    # A side of up to a ten-thousandth of a pixel can rasterise to nothing; servers want a size.
    whole[:, 2:] = np.maximum(whole[:, 2:], 1.0)
    return whole


def _same_boxes(runs: Sequence[Mapping[str, SequenceResult]], name: str) -> bool:
    return all(np.array_equal(run[name].boxes, runs[0][name].boxes) for run in runs[1:])


def _finish(
    entries: Mapping[str, _Table], expected: Mapping[str, int], target: _Target, notes: list[str]
) -> Packed:
    """Write the zip beside its name, read it back, and only then give it its name."""
    path = target.path
    if set(expected) != set(target.official):
        notes = [
            f"{len(expected)} sequences are not the official {len(target.official)} of "
            f"{target.server}: the zip is named -unofficial, and the server would not score it",
            *notes,
        ]
        if not path.stem.endswith("-unofficial"):
            path = path.with_name(f"{path.stem}-unofficial{path.suffix}")
    packed = Packed(path, len(expected), tuple(notes))
    data = _zip_bytes({name: table.text() for name, table in entries.items()})
    if path.exists():
        if path.read_bytes() == data:
            return packed
        if not target.overwrite:
            raise UserError(f"{path}: exists with other content; use --overwrite or another name")
    with atomic_file(path) as file:
        file.write(data)
        file.flush()
        _read_back(Path(file.name), path, entries)
    return packed


def _zip_bytes(texts: Mapping[str, str]) -> bytes:
    """Return a zip of text files that depends on names and contents only."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(texts):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix; the default differs between platforms
            info.external_attr = 0o100644 << 16
            archive.writestr(info, texts[name])
    return buffer.getvalue()


def _read_back(file: Path, path: Path, entries: Mapping[str, _Table]) -> None:
    """Compare a written zip with what it should hold; `path` is the name it will get.

    Raises:
        UserError: if the disk returned something else.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            wrong = sorted(set(archive.namelist()) ^ set(entries)) or [
                name for name, table in entries.items() if not table.reads_back(archive.read(name))
            ]
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: does not read back ({error}); check the disk") from error
    if wrong:
        raise UserError(f"{path}: {_listed(wrong)} do not read back as written; check the disk")


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
