"""Judging a submission zip, ours or another tool's, as GOT-10k's and TrackingNet's servers take it.

Promise: what is judged fit has exactly the expected sequences, four finite numbers a row with positive width and
height, commas and plain decimals, in a layout that the server reads, and, where the tree is there, a row for each frame
and the given box in the first. Nothing is unpacked to disk, and a zip that declares more than a submission can hold is
refused before an entry is read. The packer asks the same judge before its zip exists.
"""

import io
import logging
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.submit.servers import (
    ERRORS,
    SERVERS,
    WARNINGS,
    Server,
    ServerName,
    ZipFinding,
    guess_server,
    printable,
    sort_names,
)
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.base.text import BadLine, is_number, parse_table
from lorat.shards.base.errors import UserError, some
from lorat.shards.pixels.geometry import rasterise, xywh_to_xyxy, xyxy_to_xywh
from lorat.shards.pixels.jpeg import ImageError

_LOG = logging.getLogger("lorat")
_FARTHEST = 1e5  # pixels; a coordinate so far out or farther is a tracker's or a parser's fault
_LIKE = 0.011  # pixels: two decimals, rounded or cut off
# GOT-10k's and TrackingNet's submissions have up to 720 and 511 files and 3 to 30 MB of text.
_MOST_ENTRIES = 20_000
_LARGEST_ZIP = 64 << 20  # bytes; it bounds the list of entries, which is read whole
_LARGEST_ENTRY = 16 << 20  # bytes
_LARGEST_TOTAL = 1 << 30
# What zipfile and its decompressors raise on bytes that are not what the zip says they are; RuntimeError where an entry
# is encrypted.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError, RuntimeError)
# Not absolute, not out of the folder, and read alike by every program.
_PLAIN_PATH = re.compile(r"(?!/|.:|(?:.*/)?\.\.(?:/|\Z))[ -\[\]-~]+")
_PLAIN = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)")
_PLAIN_LINE = re.compile(rf"{_PLAIN.pattern}(?:,{_PLAIN.pattern})*")

Remark = tuple[str, str]
"""Kind of a finding, and details."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What there is to say about a zip."""

    server: Server
    summary: str
    """How much there is, and how it is laid out."""
    sequences: int
    """Of the expected ones, those that the zip has a file for."""
    unchecked: int
    """Sequences in the zip whose number of rows could be compared with nothing."""
    findings: tuple[ZipFinding, ...]

    @property
    def errors(self) -> tuple[ZipFinding, ...]:
        """The findings that make it unfit; the others are warnings."""
        return tuple(finding for finding in self.findings if finding.kind in ERRORS)

    def lines(self) -> list[tuple[str, str]]:
        """Return (``error`` or ``warning``, message) of each kind of finding, the gravest first."""
        lines = []
        for severity, titles in (("error", ERRORS), ("warning", WARNINGS)):
            for kind, title in titles.items():
                if found := [finding for finding in self.findings if finding.kind == kind]:
                    lines.append((severity, f"{title} ({len(found):,}): {some(found)}"))
        return lines

    def verdict(self) -> str:
        """Return whether to submit it."""
        kinds = {finding.kind for finding in self.errors}
        if not kinds:
            return "fit to submit" + (", if each has a row a frame" if self.unchecked else "")
        sound = self.sequences > 0 and kinds <= {"missing", "unexpected"}
        return "not fit to submit" + ("; what is there is sound" if sound else "")


def judge_zip(
    file: BinaryIO,
    where: str,
    server: ServerName | None = None,
    expected: Collection[str] | None = None,
    clips: Sequence[Clip] = (),
) -> Judgement:
    """Judge a zip, from its seekable bytes, which messages call `where`.

    Without a server the names inside tell whose rules hold. The `expected` sequences must be there, and no others;
    these are the official ones by default. Sequences are compared with the tree's clips of the same names in frames,
    first box and size. A `UserError` if it is no zip, unpacks to too much, or shows no server's layout.
    """
    with _open(file, where) as archive:
        infos = archive.infolist()
        # Not is_dir(), which fails at an entry without a name.
        names = [info.filename for info in infos if not info.filename.endswith("/")]
        server = server or guess_server(names)
        if server is None:
            raise UserError(
                f"{where}: neither GOT-10k's nor TrackingNet's layout; say with --server which of the two it is for"
            )
        rules = SERVERS[server]
        expected = set(rules.official if expected is None else expected)
        sequences, findings, form = sort_names(rules, names, expected)
        paths = {info.orig_filename: info.filename for info in infos}
        odd = [p for p, read in paths.items() if p != read or not _PLAIN_PATH.fullmatch(p)]
        findings += [ZipFinding("path", path) for path in odd]
        known = {clip.name: clip for clip in clips}
        findings += _judge_sequences(archive, sequences, known, rules)
    there = len(sequences.keys() & expected)
    summary = f"{len(names):,} files {form}, {there:,} of {len(expected):,} sequences"
    unchecked = len(sequences.keys() - known.keys())
    return Judgement(rules, f"{rules.title}, {summary}", there, unchecked, tuple(findings))


def _open(file: BinaryIO, where: str) -> zipfile.ZipFile:
    """Open a zip whose declared sizes are those of a submission."""
    if (size := file.seek(0, io.SEEK_END)) > _LARGEST_ZIP:
        raise UserError(f"{where}: {size >> 20:,} MiB, where a submission takes less than 64")
    try:
        archive = zipfile.ZipFile(file)
    except _DAMAGE as error:
        reason = printable(str(error), 80)
        raise UserError(f"{where}: not a zip that can be read ({reason}); copy it again or pack it again") from None
    sizes = {info.filename: info.file_size for info in archive.infolist()}
    total, largest = sum(sizes.values()), max(sizes, key=sizes.__getitem__, default="")
    if (count := len(archive.infolist())) > _MOST_ENTRIES:
        fault = f"has {count:,} entries"
    elif largest and sizes[largest] > _LARGEST_ENTRY:
        fault = f"{printable(largest, 100)} unpacks to {sizes[largest] >> 20:,} MiB"
    elif total > _LARGEST_TOTAL:
        fault = f"unpacks to {total >> 20:,} MiB"
    else:
        return archive
    raise UserError(f"{where}: {fault}; not read, since a submission has hundreds of small files")


def _judge_sequences(
    archive: zipfile.ZipFile, sequences: Mapping[str, Mapping[str, str]], clips: Mapping[str, Clip], server: Server
) -> Iterator[ZipFinding]:
    same = []
    for name, parts in sequences.items():
        clip = clips.get(name)
        frames = len(clip.frames) if clip else None
        texts, lengths = [], {}
        for run in (part for part in parts if part != "time"):
            data, boxes, faults = _read(archive, parts[run])
            texts += [] if data is None else [data]
            if boxes is not None and boxes.shape[1] != 4:
                faults.append(("columns", f"{boxes.shape[1]} columns instead of 4"))
            elif boxes is not None:
                lengths[run] = len(boxes)
                faults += _judge_boxes(boxes, clip)
                if frames not in (None, len(boxes)):
                    faults.append(("rows", f"{len(boxes):,} rows for {frames:,} frames"))
            yield from (ZipFinding(kind, parts[run], what) for kind, what in faults)
        same.append(len(texts) > 1 and len(set(texts)) == 1)
        if frames is None and len(set(lengths.values())) > 1:
            listed = ", ".join(f"{run} has {rows:,}" for run, rows in lengths.items())
            yield ZipFinding("rows", name, f"rows differ between runs: {listed}")
        if server.times and "time" not in parts:
            yield ZipFinding("times missing", name)
        elif server.times:
            rows = max(lengths.values(), default=None) if frames is None else frames
            for kind, what in _judge_time(archive, parts["time"], rows, len(parts) - 1):
                yield ZipFinding(kind, parts["time"], what)
    if all(same):
        yield from (ZipFinding("identical", name) for name in sequences)


def _read(archive: zipfile.ZipFile, name: str) -> tuple[bytes | None, NDArray[np.float64] | None, list[Remark]]:
    """Return a file's bytes, (N, C) numbers and faults; of a name that is there twice, the last."""
    info = archive.getinfo(name)
    try:
        data = archive.read(info)
    except NotImplementedError:
        fault = f"compression method {info.compress_type} is unknown"
    except _DAMAGE as error:
        fault = str(error) or type(error).__name__
    else:
        if len(data) == info.file_size:
            return data, *parse_strictly(data)
        fault = f"{len(data):,} bytes where the zip declares {info.file_size:,}"
    return None, None, [("unreadable", fault)]


def parse_strictly(data: bytes) -> tuple[NDArray[np.float64] | None, list[Remark]]:
    """Read lines of numbers as servers do: plain decimals, commas, a line a frame.

    Returns (N, C) numbers, wherever the meaning is plain in spite of what is wrong, else None; and (kind, detail) of
    everything that is wrong with the text.
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
    faults += [(kind, some(where, 1)) for kind, where in odd.items()]
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


def _judge_boxes(boxes: NDArray[np.float64], clip: Clip | None) -> Iterator[Remark]:
    """Judge (N, 4) boxes x, y, w, h of a sequence whose tree may be there."""
    finite, sized = np.isfinite(boxes).all(axis=1), (boxes[:, 2:] > 0.0).all(axis=1)
    near = (np.abs(boxes) < _FARTHEST).all(axis=1)
    inside = (boxes[:, :2] + boxes[:, 2:] > 0.0) & (boxes[:, :2] < _size(clip))
    for kind, rows in (
        ("not finite", ~finite),
        ("no size", finite & ~sized),
        ("far away", finite & ~near),
        ("outside", finite & sized & near & ~inside.all(axis=1)),
    ):
        if rows.any():
            yield kind, some([f"row {row + 1}" for row in np.flatnonzero(rows)], 1)
    given = xyxy_to_xywh(clip.tracks[0].boxes[0]) if clip and len(clip.frames) else boxes[0]
    odd = _judge_first(boxes[0], given) if np.isfinite([boxes[0], given]).all() else None
    if odd:
        starts, wanted = (",".join(f"{value:g}" for value in box) for box in (boxes[0], given))
        remedy = "; shift all boxes by a pixel" if odd == "one pixel off" else ""
        yield odd, f"{starts}; given is {wanted}{remedy}"


def _size(clip: Clip | None) -> tuple[float, float]:
    """Return the (width, height) of a sequence's frames; infinite where they are not known."""
    try:
        return clip.frame_size() if clip else (np.inf, np.inf)
    except ImageError as error:
        _LOG.warning("%s; boxes right of or below the image are not noticed", error)
        return np.inf, np.inf


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


def _judge_time(archive: zipfile.ZipFile, entry: str, frames: int | None, runs: int) -> Iterator[Remark]:
    """Judge a file of seconds a frame, one column or a column a run."""
    _, table, faults = _read(archive, entry)
    for kind, what in faults:
        # The toolkit's loader reads exponents, signs and carriage returns.
        mild = kind in ("number form", "line ends", "blank lines")
        yield "times" if mild else kind if kind == "unreadable" else "time format", what
    if table is None:
        return
    if table.shape[1] not in (1, runs):
        yield "times", f"{table.shape[1]} columns for {runs} runs"
    elif frames not in (None, len(table)):
        yield "times", f"{len(table):,} rows beside {frames:,} boxes"
    elif bad := np.count_nonzero(~(np.isfinite(table) & (table > 0.0))):
        yield "times", f"{bad:,} values that are not positive"
