"""Judging a submission zip, ours or another tool's, as GOT-10k's and TrackingNet's servers take it.

Promise: what is judged fit has exactly the expected sequences, four finite numbers a row with
positive width and height, commas and plain decimals, in a layout that the server reads, and, where
the tree is there, a row for each frame and the given box in the first. Nothing is unpacked to disk,
and a zip that declares more than a submission can hold is refused before an entry is read. The
packer asks the same judge before its zip exists.
"""

from __future__ import annotations

import io
import logging
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.submit.servers import (
    ERRORS,
    KINDS,
    SERVERS,
    Server,
    ServerName,
    ZipFinding,
    ZipTree,
    guess_server,
    printable,
)
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.base.text import BadLine, is_number, parse_table
from lorat.shards.base.errors import UserError, some
from lorat.shards.pixels.geometry import rasterise, xywh_to_xyxy, xyxy_to_xywh
from lorat.shards.pixels.jpeg import ImageError

_LOG = logging.getLogger("lorat")

FARTHEST = 1e5
"""Pixels; a coordinate so far out or farther is a tracker's or a parser's fault."""

_LIKE = 0.011  # pixels: two decimals, rounded or cut off

# GOT-10k's and TrackingNet's submissions have up to 720 and 511 files and 3 to 30 MB of text.
_MOST_ENTRIES = 20_000
_LARGEST_ZIP = 64 << 20  # bytes; it bounds the list of entries, which is read whole
_LARGEST_ENTRY = 16 << 20  # bytes
_LARGEST_TOTAL = 1 << 30
# What zipfile and its decompressors raise on bytes that are not what the zip says they are;
# RuntimeError where an entry is encrypted or compressed in a way that they do not know.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
)
_PLAIN = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)")
_PLAIN_LINE = re.compile(rf"{_PLAIN.pattern}(?:,{_PLAIN.pattern})*")


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

    @classmethod
    def of(cls, clips: Sequence[Clip], names: Iterable[str] | None = None) -> Expected:
        """Return what a tree tells of sequences: of its own, or of those with the given names."""
        sizes = {}
        for clip in clips:
            try:
                sizes[clip.name] = clip.frame_size()
            except ImageError as error:
                beyond = f"boxes of {clip.name} right of or below the image are not noticed"
                _LOG.warning("%s; %s", error, beyond)
        firsts = {c.name: xyxy_to_xywh(c.tracks[0].boxes[0]) for c in clips if len(c.frames)}
        return cls(
            names=tuple(clip.name for clip in clips) if names is None else tuple(names),
            frames={clip.name: len(clip.frames) for clip in clips},
            first_boxes=firsts,
            frame_sizes=sizes,
        )


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
    findings: tuple[ZipFinding, ...]

    @property
    def errors(self) -> tuple[ZipFinding, ...]:
        """The findings that make it unfit; the others are warnings."""
        return tuple(finding for finding in self.findings if finding.kind in ERRORS)

    def lines(self) -> list[tuple[str, str]]:
        """Return (``error`` or ``warning``, message) for each kind of finding, the gravest first.

        A message has the kind, the count, and the first few findings.
        """
        kinds = {k: [f for f in self.findings if f.kind == k] for k in KINDS}
        return [
            ("error" if kind in ERRORS else "warning", f"{KINDS[kind]} ({len(f):,}): {some(f)}")
            for kind, f in kinds.items()
            if f
        ]

    def verdict(self) -> str:
        """Return whether to submit it."""
        kinds = {finding.kind for finding in self.errors}
        if not kinds:
            return "fit to submit" + (", if each has a row a frame" if self.unchecked else "")
        sound = self.sequences > 0 and kinds <= {"missing", "unexpected"}
        return "not fit to submit" + ("; what is there is sound" if sound else "")


def judge_zip(
    file: BinaryIO, where: str, server: ServerName | None = None, expected: Expected | None = None
) -> Judgement:
    """Judge a zip.

    Args:
        file: the zip's bytes, seekable.
        where: how messages call it.
        server: whose rules hold; None looks at the names inside.
        expected: what to compare with; None: the official names and nothing else.

    Raises:
        UserError: if it is no zip, unpacks to too much, or shows no server's layout.
    """
    with _open(file, where) as archive:
        infos = archive.infolist()
        # Not is_dir(), which fails at an entry without a name.
        names = [info.filename for info in infos if not info.filename.endswith("/")]
        server = server or guess_server(names)
        if server is None:
            raise UserError(
                f"{where}: neither GOT-10k's nor TrackingNet's layout; say with --server which of "
                "the two it is for"
            )
        rules = SERVERS[server]
        expected = expected or Expected(names=rules.official)
        tree = rules.tree(names, set(expected.names))
        faults = ((i.orig_filename, _path_fault(i.orig_filename, i.filename)) for i in infos)
        findings = [ZipFinding("path", name, reason) for name, reason in faults if reason]
        findings += [*tree.findings, *_judge_sequences(archive, tree, expected, rules)]
    there = tree.sequences.keys()
    return Judgement(
        rules,
        len(names),
        len(there & set(expected.names)),
        len(expected.names),
        len(there - expected.frames.keys()),
        tree.form,
        tuple(findings),
    )


def _open(file: BinaryIO, where: str) -> zipfile.ZipFile:
    """Open a zip whose declared sizes are those of a submission."""
    if (size := file.seek(0, io.SEEK_END)) > _LARGEST_ZIP:
        raise UserError(f"{where}: {size >> 20:,} MiB, where a submission takes less than 64")
    try:
        archive = zipfile.ZipFile(file)
    except _DAMAGE as error:
        reason = printable(str(error), 80)
        raise UserError(
            f"{where}: not a zip that can be read ({reason}); copy it again or pack it again"
        ) from None
    infos = archive.infolist()
    large = next((i for i in infos if i.file_size > _LARGEST_ENTRY), None)
    total = sum(info.file_size for info in infos)
    if len(infos) > _MOST_ENTRIES:
        fault = f"{len(infos):,} entries, where a submission has hundreds"
    elif large:
        fault = f"{printable(large.filename, 100)} unpacks to {large.file_size >> 20:,} MiB"
    elif total > _LARGEST_TOTAL:
        fault = f"unpacks to {total >> 20:,} MiB"
    else:
        return archive
    raise UserError(f"{where}: {fault}; not read, since the largest submission has 30 MB of text")


def _path_fault(written: str, read: str) -> str | None:
    """Return why a path means trouble: as in the zip, and as zipfile understands it."""
    if not written:
        return "no name"
    if "\\" in written:
        return "a backslash, which is no folder except on Windows"
    if written != read or not written.isprintable():
        return "a control character"
    if written.startswith("/") or written[1:2] == ":":
        return "an absolute path"
    if ".." in written.split("/"):
        return "a path that leaves the folder"
    return None if written.isascii() else "letters beyond ASCII"


def _judge_sequences(
    archive: zipfile.ZipFile, tree: ZipTree, expected: Expected, server: Server
) -> Iterator[ZipFinding]:
    same = []
    for name, parts in tree.sequences.items():
        runs = {part: entry for part, entry in sorted(parts.items()) if part != "time"}
        texts, lengths = [], {}
        for run, entry in runs.items():
            data, boxes, found = _read(archive, entry)
            texts += [] if data is None else [data]
            if boxes is not None and boxes.shape[1] != 4:
                found.append(("columns", f"{boxes.shape[1]} columns instead of 4"))
            elif boxes is not None:
                lengths[run] = len(boxes)
                found += _judge_boxes(name, boxes, expected)
            yield from (ZipFinding(kind, entry, what) for kind, what in found)
        same.append(len(texts) > 1 and len(set(texts)) == 1)
        frames = expected.frames.get(name)
        if frames is None and len(set(lengths.values())) > 1:
            listed = ", ".join(f"{run} has {rows:,}" for run, rows in lengths.items())
            yield ZipFinding("rows", name, f"rows differ between runs: {listed}")
        for run, rows in lengths.items():
            if frames not in (None, rows):
                yield ZipFinding("rows", runs[run], f"{rows:,} rows for {frames:,} frames")
        if server.times and "time" not in parts:
            yield ZipFinding("times missing", name)
        elif server.times:
            longest = max(lengths.values(), default=None) if frames is None else frames
            for kind, what in _judge_time(archive, parts["time"], longest, len(runs)):
                yield ZipFinding(kind, parts["time"], what)
    if all(same):
        yield from (ZipFinding("identical", name) for name in tree.sequences)


def _read(
    archive: zipfile.ZipFile, name: str
) -> tuple[bytes | None, NDArray[np.float64] | None, list[tuple[str, str]]]:
    """Return a file's bytes, (N, C) numbers and faults; of a name that is there twice, the last."""
    info = archive.getinfo(name)
    try:
        data = archive.read(info)
    except NotImplementedError:
        return None, None, [("unreadable", f"compression method {info.compress_type} is unknown")]
    except _DAMAGE as error:
        return None, None, [("unreadable", str(error) or type(error).__name__)]
    if len(data) != info.file_size:
        declared = f"{len(data):,} bytes where the zip declares {info.file_size:,}"
        return None, None, [("unreadable", declared)]
    return data, *parse_strictly(data)


def parse_strictly(data: bytes) -> tuple[NDArray[np.float64] | None, list[tuple[str, str]]]:
    """Read lines of numbers as servers do: plain decimals, commas, a line a frame.

    Returns:
        (N, C) numbers, wherever the meaning is plain in spite of what is wrong, else None; and
        (kind, detail) of everything that is wrong with the text.
    """
    faults = []
    if data.startswith(b"\xef\xbb\xbf"):
        faults.append(("byte order mark", "the first three bytes are EF BB BF"))
        data = data[3:]
    if returns := data.count(b"\r"):
        faults.append(("line ends", f"{returns:,} carriage returns"))
    if re.search(rb"[^\t\r\n -~]", data):
        return None, [*faults, ("not numbers", "the bytes are no plain text")]
    lines = data.decode("ascii").splitlines()
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not filled:
        return None, [*faults, ("empty", "no line")]
    if len(filled) != len(lines):
        faults.append(("blank lines", f"{len(lines) - len(filled):,} lines"))
    odd: dict[str, list[str]] = {}
    for number, line in filled:
        if not _PLAIN_LINE.fullmatch(line) and (kind := _line_fault(line, number == 1)):
            odd.setdefault(kind, []).append(f"line {number}: '{printable(line, 40)}'")
    for kind, where in odd.items():
        more = f" and {len(where) - 1:,} more" if len(where) > 1 else ""
        faults.append((kind, where[0] + more))
    if odd.keys() - {"number form"}:
        return None, faults
    try:
        return parse_table("\n".join(line for _, line in filled), "zip"), faults
    except BadLine as bad:
        number, line = filled[bad.number - 1]
        first, other = (text.count(",") + 1 for text in (filled[0][1], line))
        return None, [*faults, ("columns", f"line {number} has {other}, line 1 has {first}")]


def _line_fault(line: str, is_first: bool) -> str | None:
    """Return the kind of fault of a line that is not plain decimals and commas."""
    fields = line.split(",")
    if all(is_number(field.strip()) for field in fields):
        # nan and inf are judged as numbers: their text is the only one they have.
        odd = (field for field in fields if not _PLAIN.fullmatch(field))
        return "number form" if any(np.isfinite(float(field)) for field in odd) else None
    pieces = [piece for piece in re.split(r"[\s;|,]+", line) if piece]
    if re.search(r"[\s;|]", line.strip()) and all(map(is_number, pieces)):
        return "delimiter"
    return "header" if is_first and not any(map(is_number, pieces)) else "not numbers"


def _judge_boxes(
    name: str, boxes: NDArray[np.float64], expected: Expected
) -> Iterator[tuple[str, str]]:
    """Yield (kind, detail) of (N, 4) boxes x, y, w, h."""
    finite, sized = np.isfinite(boxes).all(axis=1), (boxes[:, 2:] > 0.0).all(axis=1)
    near = (np.abs(boxes) < FARTHEST).all(axis=1)
    beyond = np.asarray(expected.frame_sizes.get(name, (np.inf, np.inf)))
    inside = ((boxes[:, :2] + boxes[:, 2:] > 0.0) & (boxes[:, :2] < beyond)).all(axis=1)
    for kind, rows in (
        ("not finite", ~finite),
        ("no size", finite & ~sized),
        ("far away", finite & ~near),
        ("outside", finite & sized & near & ~inside),
    ):
        numbers = np.flatnonzero(rows) + 1
        if len(numbers):
            first = f"row {numbers[0]}"
            yield kind, first if len(numbers) == 1 else f"{len(numbers):,} rows, {first} the first"
    given = np.asarray(expected.first_boxes.get(name, np.full(4, np.nan)), np.float64)
    both = np.isfinite(given).all() and np.isfinite(boxes[0]).all()
    if both and (odd := _judge_first(boxes[0], given)):
        is_, wanted = (",".join(f"{value:g}" for value in box) for box in (boxes[0], given))
        yield odd, f"{is_}; given is {wanted}"


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


# How grave it is in a file of times: the toolkit's loader reads exponents, signs and returns.
_TIME_KINDS = {
    "unreadable": "unreadable",
    "number form": "times",
    "line ends": "times",
    "blank lines": "blank lines",
}


def _judge_time(
    archive: zipfile.ZipFile, entry: str, frames: int | None, runs: int
) -> Iterator[tuple[str, str]]:
    """Yield (kind, detail) of a file of seconds a frame, one column or a column a run."""
    _, table, faults = _read(archive, entry)
    yield from ((_TIME_KINDS.get(kind, "time format"), what) for kind, what in faults)
    if table is None:
        return
    rows, columns = table.shape
    if columns not in (1, runs):
        yield "times", f"{columns} columns for {runs} runs"
    elif frames is not None and rows != frames:
        yield "times", f"{rows:,} rows beside {frames:,} boxes"
    elif bad := np.count_nonzero(~(np.isfinite(table) & (table > 0.0))):
        yield "times", f"{bad:,} values that are not positive"
