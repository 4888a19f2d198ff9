"""Judging a submission zip, ours or another tool's, as GOT-10k's and TrackingNet's servers take it.

Promise: what is judged fit has exactly the expected sequences, four finite numbers a row with
positive width and height, commas and plain decimals, in a layout that the server reads, and, where
the tree is there, a row for each frame and the given box in the first. Nothing is unpacked to disk.
The packer (`submission`) asks the same judge before its zip exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lorat.evaluate.submit.archive import Archive, EntryFault, open_archive
from lorat.evaluate.submit.findings import KINDS, Finding, Server, by_kind
from lorat.evaluate.submit.layout import LAYOUTS, Files, Layout, guess_server
from lorat.evaluate.submit.text import parse_table
from lorat.prep.trees.base.official import official_names
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import rasterise, xywh_to_xyxy, xyxy_to_xywh

__all__ = ["FARTHEST", "SERVER_NAMES", "Expected", "Judgement", "judge_zip", "official_sequences"]

SERVER_NAMES: dict[Server, str] = {"got10k": "GOT-10k test", "trackingnet": "TrackingNet test"}
"""How people call what a server scores."""

FARTHEST = 1e5
"""Pixels; a coordinate so far out or farther is a tracker's or a parser's fault."""

_LIKE = 0.011  # pixels: two decimals, rounded or cut off


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Expected:
    """What a zip is compared with. Sequences that a mapping lacks are not compared in that."""

    names: tuple[str, ...]
    """The sequences that must be there, and no others."""
    frames: Mapping[str, int] = field(default_factory=dict)
    """Sequence → frames on disk."""
    first_boxes: Mapping[str, NDArray] = field(default_factory=dict)
    """Sequence → (4,) x, y, w, h given in the first frame."""
    frame_sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Sequence → (width, height)."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What there is to say about a zip."""

    server: Server
    files: int
    sequences: int
    """Of the expected ones, those that the zip has a file for."""
    expected: int
    unchecked: int
    """Sequences in the zip whose number of rows could be compared with nothing."""
    form: str
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make it unfit."""
        return tuple(finding for finding in self.findings if KINDS[finding.kind].error)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that the user should know."""
        return tuple(finding for finding in self.findings if not KINDS[finding.kind].error)

    def verdict(self) -> str:
        """Return what to expect of the server, by the gravest error."""
        kinds = by_kind(self.errors)
        gravest = next(iter(kinds), None)
        if gravest is None:
            proviso = ", if each has a row a frame" if self.unchecked else ""
            return f"fit to submit: the server would score it{proviso}"
        sound = self.sequences > 0 and kinds.keys() <= {"missing", "unexpected"}
        part = "; what is there is sound" if sound else ""
        return f"not fit to submit: the server would {KINDS[gravest].effect(self.server)}{part}"


def official_sequences(server: Server) -> tuple[str, ...]:
    """Return the sequences that a server scores."""
    names = official_names(server, "test")
    if names is None:
        raise ValueError(f"no list of {server}'s test set")
    return names


def judge_zip(
    file: BinaryIO, where: str, server: Server | None = None, expected: Expected | None = None
) -> Judgement:
    """Judge a zip.

    Args:
        file: the zip's bytes, seekable.
        where: how messages call it.
        server: whose rules hold; None looks at the names inside.
        expected: what to compare with; None: the official names and nothing else.

    Returns:
        All findings.

    Raises:
        UserError: if it is no zip, unpacks to too much, or shows no server's layout.
    """
    with open_archive(file, where) as archive:
        server = server or guess_server(archive.names, official_sequences("trackingnet"))
        if server is None:
            raise UserError(
                f"{where}: neither GOT-10k's nor TrackingNet's layout; say with --server which of "
                "the two it is for"
            )
        expected = expected or Expected(names=official_sequences(server))
        layout = LAYOUTS[server](archive.names, set(expected.names))
        findings = [Finding("path", name, reason) for name, reason in archive.faults]
        findings += layout.findings
        findings += _judge_contents(archive, layout, expected, times=server == "got10k")
    there = layout.sequences.keys()
    return Judgement(
        server,
        len(archive.names),
        len(there & set(expected.names)),
        len(expected.names),
        len(there - expected.frames.keys()),
        layout.form,
        tuple(findings),
    )


def _judge_contents(
    archive: Archive, layout: Layout, expected: Expected, times: bool
) -> Iterator[Finding]:
    same = []
    for name, files in layout.sequences.items():
        data: dict[int, bytes] = {}
        lengths: dict[int, int] = {}
        for run, entry in files.runs.items():
            try:
                data[run] = archive.read(entry)
            except EntryFault as fault:
                yield Finding("unreadable", entry, str(fault))
                continue
            boxes, faults = _boxes(data[run])
            yield from (Finding(kind, entry, what) for kind, what in faults)
            if boxes is not None:
                lengths[run] = len(boxes)
                found = _judge_boxes(name, boxes, expected)
                yield from (Finding(kind, entry, what) for kind, what in found)
        same.append(len(data) > 1 and len(set(data.values())) == 1)
        yield from _judge_lengths(name, files, lengths, expected.frames.get(name))
        if times:
            rows = max(lengths.values(), default=None)
            yield from _judge_time(archive, name, files, expected.frames.get(name, rows))
    if all(same):
        yield from (Finding("identical", name) for name in layout.sequences)


def _boxes(data: bytes) -> tuple[NDArray[np.float64] | None, list[tuple[str, str]]]:
    """Return (N, 4) boxes, or None where the text has none, and the text's faults."""
    table = parse_table(data)
    if table.rows is None or table.rows.shape[1] == 4:
        return table.rows, list(table.faults)
    return None, [*table.faults, ("columns", f"{table.rows.shape[1]} columns instead of 4")]


def _judge_boxes(
    name: str, boxes: NDArray[np.float64], expected: Expected
) -> Iterator[tuple[str, str]]:
    """Yield (kind, detail) of (N, 4) boxes x, y, w, h."""
    finite, sized = np.isfinite(boxes).all(axis=1), (boxes[:, 2:] > 0.0).all(axis=1)
    near = (np.abs(boxes) < FARTHEST).all(axis=1)
    yield from _rows("not finite", ~finite)
    yield from _rows("no size", finite & ~sized)
    yield from _rows("far away", finite & ~near)
    beyond = np.asarray(expected.frame_sizes.get(name, (np.inf, np.inf)))
    inside = ((boxes[:, :2] + boxes[:, 2:] > 0.0) & (boxes[:, :2] < beyond)).all(axis=1)
    yield from _rows("outside", finite & sized & near & ~inside)
    given = np.asarray(expected.first_boxes.get(name, np.nan), np.float64)
    both = np.isfinite(given).all() and np.isfinite(boxes[0]).all()
    if both and (kind := _judge_first(boxes[0], given)):
        first, wanted = (",".join(f"{value:g}" for value in box) for box in (boxes[0], given))
        yield kind, f"{first}; given is {wanted}"


def _rows(kind: str, rows: ArrayLike) -> Iterator[tuple[str, str]]:
    """Yield the kind and which rows it concerns, if any."""
    numbers = np.flatnonzero(rows) + 1
    if len(numbers):
        first = f"row {numbers[0]}"
        yield kind, first if len(numbers) == 1 else f"{len(numbers):,} rows, {first} the first"


def _judge_first(box: NDArray[np.float64], given: NDArray[np.float64]) -> str | None:
    """Compare a first box with the given one, however that was made whole numbers."""
    whole = xyxy_to_xywh(rasterise(xywh_to_xyxy(given)))
    if any((np.abs(box - b) <= _LIKE).all() for b in (given, whole, np.rint(given))):
        return None
    off = box - given, box - whole
    shifts = [np.array([pixel, pixel, 0.0, 0.0]) for pixel in (-1.0, 1.0)]
    if any((np.abs(difference - s) <= _LIKE).all() for difference in off for s in shifts):
        return "one pixel off"
    # Made whole by other rules, a box differs from the given one by up to a pixel a side.
    return "first box" if all((np.abs(d) > [1.0, 1.0, 2.0, 2.0]).any() for d in off) else None


def _judge_lengths(
    name: str, files: Files, lengths: Mapping[int, int], frames: int | None
) -> Iterator[Finding]:
    if frames is not None:
        for run, rows in lengths.items():
            if rows != frames:
                yield Finding("rows", files.runs[run], f"{rows:,} rows for {frames:,} frames")
    elif len(set(lengths.values())) > 1:
        listed = ", ".join(f"{run:03d} has {rows:,}" for run, rows in sorted(lengths.items()))
        yield Finding("rows", name, f"rows differ between runs: {listed}")


def _judge_time(archive: Archive, name: str, files: Files, frames: int | None) -> Iterator[Finding]:
    """Judge GOT-10k's time file: seconds a frame, one column or a column a run."""
    if files.time is None:
        yield Finding("times missing", name)
        return
    try:
        table = parse_table(archive.read(files.time))
    except EntryFault as fault:
        yield Finding("unreadable", files.time, str(fault))
        return
    # The toolkit's loader reads exponents, signs and carriage returns.
    mild = {"number form": "times", "line ends": "times", "blank lines": "blank lines"}
    for kind, what in table.faults:
        yield Finding(mild.get(kind, "time format"), files.time, what)
    if table.rows is None:
        return
    rows, columns = table.rows.shape
    if columns not in (1, len(files.runs)):
        yield Finding("times", files.time, f"{columns} columns for {len(files.runs)} runs")
    elif frames is not None and rows != frames:
        yield Finding("times", files.time, f"{rows:,} rows beside {frames:,} boxes")
    elif bad := np.count_nonzero(~(np.isfinite(table.rows) & (table.rows > 0.0))):
        yield Finding("times", files.time, f"{bad:,} values that are not positive")
