"""Judging a submission zip, ours or another tool's, as GOT-10k's and TrackingNet's servers take it.

Promise: what is judged fit has exactly the expected sequences, in a layout that the server reads, rows that are boxes,
and, where the tree is there, a row for each frame and the given box in the first. Nothing is unpacked to disk.
"""

import codecs
import io
import logging
import lzma
import math
import re
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.submit import servers
from lorat.evaluate.submit.servers import ERRORS, SERVERS, WARNINGS, Server, ServerName, ZipFinding, printable
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.base.text import is_number, parse_table
from lorat.shards.base.errors import UserError, counted, some
from lorat.shards.pixels.geometry import rasterise, xywh_to_xyxy, xyxy_to_xywh
from lorat.shards.pixels.jpeg import ImageError

_LOG = logging.getLogger("lorat")
_FARTHEST = 1e5  # pixels; a coordinate so far out or farther is a tracker's or a parser's fault
_LIKE = 0.011  # pixels: two decimals, rounded or cut off
# GOT-10k's and TrackingNet's submissions have up to 720 and 511 files and 3 to 30 MB of text. In bytes; the size of the
# zip bounds the list of entries, which is read whole.
_LARGEST_ZIP, _LARGEST_ENTRY, _LARGEST_TOTAL, _MOST_ENTRIES = 64 << 20, 16 << 20, 1 << 30, 20_000
# What zipfile and its decompressors raise on bytes that are not what the zip says they are; RuntimeError where an entry
# is encrypted, or packed by a method that is not known.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError, RuntimeError)
# Not absolute, not out of the folder, and read alike by every program.
_PLAIN_PATH = re.compile(r"(?!/|.:|(?:.*/)?\.\.(?:/|\Z))[ -\[\]-~]+")
_PLAIN = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)")


class Judgement(NamedTuple):
    """What there is to say about a zip."""

    server: Server
    summary: str  # how much there is, and how it is laid out
    sequences: int  # of the expected ones, those that the zip has a file for
    unchecked: int  # sequences in the zip whose number of rows could be compared with nothing
    findings: tuple[ZipFinding, ...]

    @property
    def errors(self) -> tuple[ZipFinding, ...]:
        """The findings that make it unfit; the others are warnings."""
        return tuple(finding for finding in self.findings if finding.kind in ERRORS)

    def lines(self) -> list[tuple[str, str]]:
        """Return (``error`` or ``warning``, message) of each kind of finding, the gravest first."""
        lines = []
        for kind, title in (ERRORS | WARNINGS).items():
            if found := [finding for finding in self.findings if finding.kind == kind]:
                lines.append(("error" if kind in ERRORS else "warning", f"{title} ({len(found):,}): {some(found)}"))
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
    expected: Collection[str] = (),
    clips: Sequence[Clip] = (),
) -> Judgement:
    """Judge a zip, from its seekable bytes, which messages call `where`.

    Without a server the names inside tell whose rules hold. Exactly the `expected` sequences must be there, by default
    the official ones; they are compared with the tree's clips of their names in frames, first box and size. A
    `UserError` if it is no zip, unpacks to too much, or shows no server's layout.
    """
    with _open(file, where) as archive:
        infos = archive.infolist()
        # Not is_dir(), which fails at an entry without a name.
        names = [info.filename for info in infos if not info.filename.endswith("/")]
        server = server or servers.guess_server(names)
        if server is None:
            raise UserError(f"{where}: {servers.told(names)}")
        rules = SERVERS[server]
        expected = set(expected or rules.official)
        sequences, findings, form = servers.sort_names(rules, names, expected)
        paths = {info.orig_filename: info.filename for info in infos}
        odd = [path for path, read in paths.items() if path != read or not _PLAIN_PATH.fullmatch(path)]
        findings += [ZipFinding("path", path) for path in odd]
        known = {clip.name: clip for clip in clips}
        findings += _judge_sequences(archive, sequences, known, rules)
    there = len(sequences.keys() & expected)
    summary = f"{rules.title}, {counted(len(names), 'file')} {form}, {there:,} of {counted(len(expected), 'sequence')}"
    return Judgement(rules, summary, there, len(sequences.keys() - known.keys()), tuple(findings))


def _open(file: BinaryIO, where: str) -> zipfile.ZipFile:
    """Open a zip whose declared sizes are those of a submission."""
    if (size := file.seek(0, io.SEEK_END)) > _LARGEST_ZIP:
        raise UserError(f"{where}: {size >> 20:,} MiB, where a submission takes less than 64")
    try:
        archive = zipfile.ZipFile(file)
    except _DAMAGE as error:
        reason = printable(str(error), 80)
        raise UserError(f"{where}: not a zip that can be read ({reason}); copy it again or pack it again") from None
    sizes = [info.file_size for info in archive.infolist()]
    count, total, largest = len(sizes), sum(sizes), max(sizes, default=0)
    if count > _MOST_ENTRIES or total > _LARGEST_TOTAL or largest > _LARGEST_ENTRY:
        fault = f"{count:,} entries unpack to {total >> 20:,} MiB, the largest to {largest >> 20:,} MiB"
        raise UserError(f"{where}: {fault}; not read, since a submission has hundreds of small files")
    return archive


def _judge_sequences(
    archive: zipfile.ZipFile, sequences: Mapping[str, Mapping[str, str]], clips: Mapping[str, Clip], server: Server
) -> Iterator[ZipFinding]:
    same = []
    for name, parts in sequences.items():
        clip, runs = clips.get(name), {run: entry for run, entry in parts.items() if run != "time"}
        frames = len(clip.frames) if clip else None
        for entry in runs.values():
            boxes, faults = _read(archive, entry, server)
            if boxes is not None and boxes.shape[1] != 4:
                faults.append(("lines", f"{counted(boxes.shape[1], 'column')} instead of 4"))
            elif boxes is not None:
                frames = len(boxes) if frames is None else frames
                faults += _judge_boxes(boxes, clip)
                if frames != len(boxes):
                    wanted = f"{frames:,} {'frames' if clip else 'of another run'}"
                    faults.append(("rows", f"{counted(len(boxes), 'row')} for {wanted}"))
            yield from (ZipFinding(kind, entry, what) for kind, what in faults)
        same.append(len(runs) > len({archive.getinfo(entry).CRC for entry in runs.values()}) == 1)
        if "time" in parts:
            remarks = _judge_time(archive, parts["time"], frames, len(runs), server)
            yield from (ZipFinding(kind, parts["time"], what) for kind, what in remarks)
        elif server.times and f"{name}/{name}_" in min(runs.values()):  # of what lies elsewhere, its place is told
            yield ZipFinding("times", name, "no time file")
    if all(same):
        yield from (ZipFinding("identical", name) for name in sequences)


def _read(
    archive: zipfile.ZipFile, name: str, server: Server
) -> tuple[NDArray[np.float64] | None, list[tuple[str, str]]]:
    """Read as the server's toolkit does: (N, C) numbers where the meaning is plain, kind and details of every fault."""
    try:
        data = archive.read(name)  # of a name that is there twice, the last
    except _DAMAGE as error:
        return None, [("unreadable", str(error) or type(error).__name__)]
    if len(data) != (declared := archive.getinfo(name).file_size):
        return None, [("unreadable", f"{len(data):,} bytes where the zip declares {declared:,}")]
    returns = data.count(b"\r")
    faults = [("form", f"{counted(returns, 'carriage return')}")] if returns else []
    if server.pandas and data.startswith(codecs.BOM_UTF8):
        data = data.removeprefix(codecs.BOM_UTF8)
        faults.append(("form", "a byte order mark"))
    if re.search(rb"[^\t\r\n -~]", data):
        return None, [*faults, ("lines", "bytes that are no plain text, such as a byte order mark")]
    lines = data.decode("ascii").splitlines()
    # NumPy, with which GOT-10k's toolkit reads, passes over empty lines but not over spaces.
    filled = [(n, line) for n, line in enumerate(lines, start=1) if (line.strip() if server.pandas else line)]
    if not filled:
        return None, [*faults, ("rows", "no line")]
    if len(filled) != len(lines):
        faults.append(("blank lines", f"{counted(len(lines) - len(filled), 'line')}"))
    odd: dict[str, list[str]] = defaultdict(list)
    for number, line in filled:
        fields = [field for field in line.split(",") if not _PLAIN.fullmatch(field)]
        numbers = line.count(",") == filled[0][1].count(",") and all(is_number(field.strip()) for field in fields)
        # nan and inf are judged as numbers: their text is the only one they have.
        if not numbers or any(math.isfinite(float(field)) for field in fields):
            odd["form" if numbers else "lines"].append(f"line {number}: '{printable(line, 40)}'")
    faults += [(kind, some(where, 1)) for kind, where in odd.items()]
    return None if "lines" in odd else parse_table("\n".join(line for _, line in filled), "zip"), faults


def _judge_boxes(boxes: NDArray[np.float64], clip: Clip | None) -> Iterator[tuple[str, str]]:
    """Judge (N, 4) boxes x, y, w, h of a sequence whose tree may be there."""
    try:
        size = clip.frame_size() if clip else (np.inf, np.inf)
    except ImageError as error:
        _LOG.warning("%s; boxes right of or below the image are not noticed", error)
        size = (np.inf, np.inf)
    good = (np.abs(boxes) < _FARTHEST).all(axis=1) & (boxes[:, 2:] > 0.0).all(axis=1)  # NaN is neither
    inside = ((boxes[:, :2] + boxes[:, 2:] > 0.0) & (boxes[:, :2] < size)).all(axis=1)
    for kind, rows in (("boxes", ~good), ("outside", good & ~inside)):
        if rows.any():
            yield kind, some([f"row {row + 1}: {_text(boxes[row])}" for row in np.flatnonzero(rows)], 1)
    given = xyxy_to_xywh(clip.tracks[0].boxes[0]) if clip and len(clip.frames) else boxes[0]
    if np.isfinite([boxes[0], given]).all() and (odd := _judge_first(boxes[0], given)):
        remedy = "; shift all boxes by a pixel" if odd == "one pixel off" else ""
        yield odd, f"{_text(boxes[0])}; given is {_text(given)}{remedy}"


def _text(box: NDArray[np.float64]) -> str:
    return ",".join(f"{value:g}" for value in box)


def _judge_first(box: NDArray[np.float64], given: NDArray[np.float64]) -> str | None:
    """Compare a first box with the given one, however that was made whole numbers."""
    whole = xyxy_to_xywh(rasterise(xywh_to_xyxy(given)))
    if any((np.abs(box - same) <= _LIKE).all() for same in (given, whole, np.rint(given))):
        return None
    off = np.stack([box - given, box - whole])
    if any((np.abs(off - [pixel, pixel, 0.0, 0.0]) <= _LIKE).all(axis=1).any() for pixel in (-1.0, 1.0)):
        return "one pixel off"
    # Made whole by other rules, a box differs from the given one by up to a pixel a side.
    return "first box" if (np.abs(off) > [1.0, 1.0, 2.0, 2.0]).any(axis=1).all() else None


def _judge_time(
    archive: zipfile.ZipFile, entry: str, frames: int | None, runs: int, server: Server
) -> Iterator[tuple[str, str]]:
    """Judge a file of seconds a frame, one column or a column a run."""
    table, faults = _read(archive, entry, server)
    # The toolkit's loader reads exponents, signs, carriage returns and blank lines.
    kinds = {"unreadable": "unreadable", "form": "times", "blank lines": "times"}
    yield from ((kinds.get(kind, "time format"), what) for kind, what in faults)
    if table is None:
        return
    if table.shape[1] not in (1, runs):
        yield "times", f"{counted(table.shape[1], 'column')} for {counted(runs, 'run')}"
    elif frames not in (None, len(table)):
        yield "times", f"{counted(len(table), 'row')} beside {frames:,} boxes"
    elif bad := np.count_nonzero(~(np.isfinite(table) & (table > 0.0))):
        yield "times", f"{bad:,} values that are not positive"
