"""Zips for the evaluation servers of GOT-10k and TrackingNet.

Promise: a zip that is written has exactly the expected sequences, a row for every frame, four
finite numbers a row with positive width and height, in the layout the servers' toolkits write. It
passed the judge of any zip before there was a file, and was read back and compared with the results
after. The same results give the same bytes. What cannot be submitted is refused.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.results.files import SequenceResult, table_text
from lorat.evaluate.submit.judge import FARTHEST, Expected, judge_zip, parse_strictly
from lorat.evaluate.submit.servers import SERVERS, Server, ServerName
from lorat.shards.base.errors import UserError, some
from lorat.shards.base.storage import atomic_file
from lorat.shards.pixels.geometry import rasterise, xywh_to_xyxy, xyxy_to_xywh

_TIME_DECIMALS = 8

Tables = dict[str, tuple[NDArray[np.float64], int]]
"""Entry of a zip → its rows, and the decimals of its numbers."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A finished submission zip."""

    path: Path
    """The zip; its name ends in ``-unofficial`` where the sequences are not the official set."""
    sequences: int
    notes: tuple[str, ...]
    """What the user should know, a line a kind: unofficial set, missing times, odd boxes."""


def pack_zip(
    server: ServerName,
    runs: Sequence[Mapping[str, SequenceResult]],
    expected: Expected,
    out_zip: Path,
    *,
    overwrite: bool = False,
) -> Packed:
    """Write a submission.

    Boxes are rasterised to the whole pixels they touch, as in the published submissions. Times are
    left out of a sequence that was not timed in every frame.

    Args:
        server: which one it is for.
        runs: each the results by sequence name; where the server takes one, it is the first.
        expected: the sequences of the tree, and the frames of each.
        out_zip: where to write; its folder is made.
        overwrite: replace a zip that exists with other content.

    Raises:
        UserError: naming sequence and reason, if the results cannot be submitted, or if a zip with
            other content exists and `overwrite` is off.
    """
    rules = SERVERS[server]
    if rules.most_runs == 1:
        runs = runs[:1]
    if not 1 <= len(runs) <= rules.most_runs:
        raise UserError(f"{out_zip}: {server} takes 1 to {rules.most_runs} runs, not {len(runs)}")
    tables: Tables = {}
    notes: list[str] = []
    for number, results in enumerate(runs, start=1):
        where = f"{out_zip}: run {number}" if len(runs) > 1 else f"{out_zip}"
        for name, boxes in _whole_pixels(results, expected, where, notes).items():
            tables[rules.boxes.format(name, number)] = boxes, rules.decimals
    for name in expected.names if rules.times else ():
        times = np.stack([results[name].times for results in runs], axis=1)
        if (np.round(times, _TIME_DECIMALS) > 0.0).all():
            tables[f"{rules.times}".format(name)] = times, _TIME_DECIMALS
    if set(expected.names) != set(rules.official):
        if not out_zip.stem.endswith("-unofficial"):
            out_zip = out_zip.with_name(f"{out_zip.stem}-unofficial{out_zip.suffix}")
        notes.insert(
            0,
            f"{len(expected.names)} sequences are not the official {len(rules.official)} of "
            f"{rules.title}: the zip is named -unofficial, and the server would not score it",
        )
    data = _zip_bytes({name: table_text(*table) for name, table in tables.items()})
    notes += _judged(data, out_zip, rules, expected)
    _write(out_zip, data, tables, overwrite)
    return Packed(out_zip, len(expected.names), tuple(notes))


def _whole_pixels(
    results: Mapping[str, SequenceResult], expected: Expected, where: str, notes: list[str]
) -> dict[str, NDArray[np.float64]]:
    """Return (N, 4) whole-pixel x, y, w, h of every expected sequence; add to the notes.

    Raises:
        UserError: naming the sequence and the reason.
    """
    names = sorted(expected.names)
    if not names:
        raise UserError(f"{where}: the tree has no sequence to submit; check the tree")
    for kind, odd in (
        ("no result of", set(names) - results.keys()),
        ("results of unexpected sequences", results.keys() - set(names)),
    ):
        if odd:
            raise UserError(
                f"{where}: {kind} {some(sorted(odd), 5)}; track exactly the tree's list"
            )
    whole, sizeless = {}, []
    for name in names:
        boxes = results[name].boxes
        if reason := _refusal(boxes, name, expected.frames[name]):
            raise UserError(f"{where}: {name}: {reason}; track the sequence again")
        # A side of up to a ten-thousandth of a pixel can rasterise to nothing; servers want a size.
        whole[name] = xyxy_to_xywh(rasterise(xywh_to_xyxy(boxes)))
        whole[name][:, 2:] = np.maximum(whole[name][:, 2:], 1.0)
        if count := np.count_nonzero((boxes[:, 2:] == 0.0).any(axis=1)):
            sizeless.append(f"{name} ({count:,})")
    if sizeless:
        listed = some(sizeless, 5)
        notes.append(f"boxes that have no size are written a pixel wide or high: {listed}")
    return whole


def _refusal(boxes: NDArray[np.float64], name: str, frames: int) -> str | None:
    """Return why a sequence's (N, 4) boxes cannot be submitted, or None."""
    if not name.isascii() or not name.isprintable() or "/" in name or "\\" in name:
        return "the name cannot be a zip entry"
    if len(boxes) != frames:
        return f"{len(boxes)} boxes for {frames} frames"
    for what, rows in (
        ("is not finite", ~np.isfinite(boxes).all(axis=1)),
        ("has a negative size", (boxes[:, 2:] < 0.0).any(axis=1)),
        (f"is {FARTHEST:.0f} pixels away or more", (np.abs(boxes) >= FARTHEST).any(axis=1)),
    ):
        if rows.any():
            return f"the box of frame {np.flatnonzero(rows)[0] + 1} {what}"
    return None


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


def _judged(data: bytes, path: Path, server: Server, expected: Expected) -> list[str]:
    """Return the judge's warnings, a line a kind.

    Raises:
        UserError: for the gravest error that the judge finds.
    """
    lines = judge_zip(io.BytesIO(data), str(path), server.name, expected).lines()
    severity, line = lines[0] if lines else ("", "")
    if severity == "error":
        off = "one pixel off" in line
        remedy = "shift the results by one pixel" if off else "correct the results or the tree"
        raise UserError(f"{path}: {line}; {remedy}")
    return [line for _, line in lines]


def _write(path: Path, data: bytes, tables: Tables, overwrite: bool) -> None:
    """Write the zip beside its name, read it back, and only then give it its name."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the zip another name")
    if path.exists():
        if path.read_bytes() == data:
            return
        if not overwrite:
            raise UserError(f"{path}: exists with other content; use --overwrite or another name")
    with atomic_file(path) as file:
        file.write(data)
        file.flush()
        if Path(file.name).read_bytes() != data or not _holds(data, tables):
            raise UserError(f"{path}: does not read back as written; check the disk")


def _holds(data: bytes, tables: Tables) -> bool:
    """Return whether a zip has these tables and no others, as plain lines of numbers."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if set(archive.namelist()) != tables.keys():
            return False
        for name, (rows, decimals) in tables.items():
            read, faults = parse_strictly(archive.read(name))
            off = np.inf if read is None or read.shape != rows.shape else np.abs(read - rows).max()
            if faults or off > 0.5000001 * 10.0**-decimals:
                return False
    return True
