"""Zips for the evaluation servers of GOT-10k and TrackingNet.

Promise: a zip that these functions return has exactly the expected sequences, a row for every
frame, four finite numbers a row with positive width and height, in the layout the servers'
toolkits write. It passed the judge of any zip (`zipcheck`) before there was a file, and was read
back and parsed after. The same results give the same bytes. What cannot be submitted is refused.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.results.files import SequenceResult
from lorat.evaluate.submit.findings import KINDS, Server, finding_lines
from lorat.evaluate.submit.judge import FARTHEST, SERVER_NAMES, Expected, judge_zip
from lorat.evaluate.submit.layout import MOST_RUNS
from lorat.evaluate.submit.text import parse_table
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file
from lorat.shards.pixels.geometry import rasterise, xywh_to_xyxy, xyxy_to_xywh

__all__ = ["GOT10K_TEST_NAMES", "Packed", "pack_got10k", "pack_trackingnet"]

GOT10K_TEST_NAMES = tuple(f"GOT-10k_Test_{number:06d}" for number in range(1, 181))
"""The official test set of GOT-10k."""

_SHOWN = 5  # sequences an error or a note lists by name
_REMEDIES = {"one pixel off": "shift the results by one pixel"}


@dataclass(frozen=True, slots=True)
class Packed:
    """A finished submission zip."""

    path: Path
    """The zip; its name ends in ``-unofficial`` where the sequences are not the official set."""
    sequences: int
    notes: tuple[str, ...]
    """What the user should know, a line a kind: unofficial set, missing times, odd boxes."""


def pack_got10k(
    runs: Sequence[Mapping[str, SequenceResult]],
    expected: Mapping[str, int],
    out_zip: Path,
    *,
    first_boxes: Mapping[str, NDArray] | None = None,
    frame_sizes: Mapping[str, tuple[int, int]] | None = None,
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
        frame_sizes: (width, height), by name; without it only boxes left of the image and above
            it are noticed.
        overwrite: replace a zip that exists with other content.

    Returns:
        The zip and notes.

    Raises:
        UserError: naming sequence and reason, if the results cannot be submitted, or if a zip with
            other content exists and `overwrite` is off.
    """
    if not 1 <= len(runs) <= MOST_RUNS:
        raise UserError(f"{out_zip}: GOT-10k takes 1 to {MOST_RUNS} runs, not {len(runs)}")
    notes: list[str] = []
    entries: dict[str, _Table] = {}
    for number, results in enumerate(runs, start=1):
        where = f"{out_zip}: run {number}" if len(runs) > 1 else f"{out_zip}"
        for name, boxes in _checked(results, expected, where, notes).items():
            entries[f"{name}/{name}_{number:03d}.txt"] = _Table(boxes, decimals=4)
    for name in expected:
        times = np.stack([results[name].times for results in runs], axis=1)
        if (np.round(times, 8) > 0.0).all():
            entries[f"{name}/{name}_time.txt"] = _Table(times, decimals=8)
    wanted = _wanted(expected, first_boxes, frame_sizes)
    target = _Target(out_zip, "got10k", GOT10K_TEST_NAMES, overwrite)
    return _finish(entries, wanted, target, notes)


def pack_trackingnet(
    results: Mapping[str, SequenceResult],
    expected: Mapping[str, int],
    out_zip: Path,
    *,
    official: Collection[str],
    first_boxes: Mapping[str, NDArray] | None = None,
    frame_sizes: Mapping[str, tuple[int, int]] | None = None,
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
        frame_sizes: (width, height), by name; without it only boxes left of the image and above
            it are noticed.
        overwrite: replace a zip that exists with other content.

    Returns:
        The zip and notes.

    Raises:
        UserError: as `pack_got10k`.
    """
    notes: list[str] = []
    boxes = _checked(results, expected, f"{out_zip}", notes)
    entries = {f"{name}.txt": _Table(rows, decimals=2) for name, rows in boxes.items()}
    wanted = _wanted(expected, first_boxes, frame_sizes)
    target = _Target(out_zip, "trackingnet", official, overwrite)
    return _finish(entries, wanted, target, notes)


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
        table = parse_table(data)
        if table.faults or table.rows is None or table.rows.shape != self.rows.shape:
            return False
        return bool((np.abs(table.rows - self.rows) <= 0.5000001 * 10.0**-self.decimals).all())


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a submission goes and which sequences its server expects."""

    path: Path
    server: Server
    official: Collection[str]
    overwrite: bool


def _wanted(
    expected: Mapping[str, int],
    first_boxes: Mapping[str, NDArray] | None,
    frame_sizes: Mapping[str, tuple[int, int]] | None,
) -> Expected:
    return Expected(
        names=tuple(sorted(expected)),
        frames=expected,
        first_boxes=first_boxes or {},
        frame_sizes=frame_sizes or {},
    )


def _checked(
    results: Mapping[str, SequenceResult], expected: Mapping[str, int], where: str, notes: list[str]
) -> dict[str, NDArray[np.float64]]:
    """Return (N, 4) whole-pixel x, y, w, h of every expected sequence; add to the notes.

    Raises:
        UserError: naming the sequence and the reason.
    """
    if not expected:
        raise UserError(f"{where}: the tree has no sequence to submit; check the tree")
    for kind, names in (
        ("no result of", expected.keys() - results.keys()),
        ("results of unexpected sequences", results.keys() - expected.keys()),
    ):
        if names:
            raise UserError(f"{where}: {kind} {_listed(names)}; track exactly the tree's list")
    checked, empty = {}, []
    for name in sorted(expected):
        boxes = results[name].boxes
        reason = _refusal(boxes, name, expected[name])
        if reason:
            raise UserError(f"{where}: {name}: {reason}; track the sequence again")
        checked[name] = _whole_pixels(boxes)
        if count := int((boxes[:, 2:] == 0.0).any(axis=1).sum()):
            empty.append(f"{name} ({count:,})")
    if empty:
        listed = _listed(empty)
        notes.append(f"boxes that have no size are written a pixel wide or high: {listed}")
    return checked


def _refusal(boxes: NDArray[np.float64], name: str, frames: int) -> str | None:
    """Return why a sequence's boxes cannot be submitted, or None."""
    if not name.isascii() or not name.isprintable() or "/" in name or "\\" in name:
        return "the name cannot be a zip entry"
    if len(boxes) != frames:
        return f"{len(boxes)} boxes for {frames} frames"
    faults = (
        ("is not finite", ~np.isfinite(boxes).all(axis=1)),
        ("has a negative size", (boxes[:, 2:] < 0.0).any(axis=1)),
        (f"is {FARTHEST:.0f} pixels away or more", (np.abs(boxes) >= FARTHEST).any(axis=1)),
    )
    for what, rows in faults:
        if rows.any():
            return f"the box of frame {int(np.flatnonzero(rows)[0]) + 1} {what}"
    return None


def _whole_pixels(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the whole-pixel rectangles that x, y, w, h boxes touch, at least a pixel wide."""
    whole = xyxy_to_xywh(rasterise(xywh_to_xyxy(boxes)))
    # A side of up to a ten-thousandth of a pixel can rasterise to nothing; servers want a size.
    whole[:, 2:] = np.maximum(whole[:, 2:], 1.0)
    return whole


def _finish(
    entries: Mapping[str, _Table], wanted: Expected, target: _Target, notes: list[str]
) -> Packed:
    """Judge the zip, write it beside its name, read it back, and only then give it its name."""
    path = target.path
    if set(wanted.names) != set(target.official):
        notes = [
            f"{len(wanted.names)} sequences are not the official {len(target.official)} of "
            f"{SERVER_NAMES[target.server]}: the zip is named -unofficial, and the server would "
            "not score it",
            *notes,
        ]
        if not path.stem.endswith("-unofficial"):
            path = path.with_name(f"{path.stem}-unofficial{path.suffix}")
    data = _zip_bytes({name: table.text() for name, table in entries.items()})
    warnings = _judged(data, path, target.server, wanted)
    packed = Packed(path, len(wanted.names), (*notes, *warnings))
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the zip another name")
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


def _judged(data: bytes, path: Path, server: Server, wanted: Expected) -> list[str]:
    """Return the judge's warnings, a line a kind.

    Raises:
        UserError: for the gravest error that the judge finds.
    """
    judgement = judge_zip(io.BytesIO(data), str(path), server, wanted)
    for kind, line in finding_lines(judgement.errors):
        effect = KINDS[kind].effect(server)
        remedy = _REMEDIES.get(kind, "correct the results or the tree")
        raise UserError(f"{path}: {line}: the server would {effect}; {remedy}")
    return [line for _, line in finding_lines(judgement.warnings)]


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
