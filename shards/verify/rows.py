"""Checks the rows of one shard: hashes, tar members, JSON, keys, and, when asked, the images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from lorat.shards.base.errors import ShardCorrupt
from lorat.shards.manifest import Receipt
from lorat.shards.pixels.jpeg import ImageError, decode
from lorat.shards.sample import sample_key
from lorat.shards.schema import SampleMeta, read_meta
from lorat.shards.tar import BLOCK, END_OF_ARCHIVE, unpack_members

__all__ = ["DAMAGED", "Expected", "RowFault", "row_faults"]

DAMAGED = "not the bytes that were written (xxh64 differs)"
_ROLES = ("search", "template")
_KEY = re.compile(r"(?P<name>[^/]+)-(?P<pair>\d{9,})")


@dataclass(frozen=True, slots=True)
class Expected:
    """What a shard's rows must say of themselves."""

    dataset: str
    split: str
    receipt: Receipt
    deep: bool = False
    """Decode the images as well."""

    def pair(self, key: str) -> int | None:
        """Return the pair number in a key of this shard, else None."""
        match = _KEY.fullmatch(key)
        if match is None or match["name"] != f"{self.dataset}-{self.split}":
            return None
        pair, first = int(match["pair"]), self.receipt.first_pair
        return pair if first <= pair < first + self.receipt.drawn else None


@dataclass(frozen=True, slots=True)
class RowFault:
    """One thing that is wrong with a row; row and key are None for the end of the archive."""

    what: str
    offset: int
    row: int | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    """A row as it was found."""

    pair: int | None
    """From its key; what is left of one where the row is damaged."""
    sound: bool
    """Whether its bytes are those that were written."""
    problems: tuple[str, ...]


def row_faults(
    file: BinaryIO, index: NDArray[np.void], size: int, expected: Expected
) -> Iterator[RowFault]:
    """Yield what is wrong with the rows of a shard and with its end.

    Args:
        file: the shard, local.
        index: rows of `INDEX_DTYPE`, the end-of-archive frame last.
        size: of the file in bytes.
        expected: what the rows must say.
    """
    first_lost = _first_lost(index, size, expected.receipt)
    present = min(first_lost, len(index) - 1)
    rows = [_read_row(file, entry, size, expected) for entry in index[:present]]
    names = _names(rows, expected)
    before = -1
    for number, (row, entry) in enumerate(zip(rows, index, strict=False)):
        problems = row.problems
        if row.sound and row.pair is not None:
            if row.pair <= before:
                problems = (*problems, "its key is not after the key of the row before")
            before = row.pair
        for problem in problems:
            yield RowFault(problem, int(entry["offset"]), number, names[number])
    if first_lost >= len(index):
        yield from _end_faults(file, index[-1], size)
    elif first_lost == len(index) - 1:
        yield RowFault("cut: the end of the archive is gone", size)
    else:
        text = (
            f"cut: {size} of {expected.receipt.bytes} bytes are there; this row and "
            f"{len(index) - 2 - first_lost} after it are lost"
        )
        offset = min(size, int(index[first_lost]["offset"]))
        yield RowFault(text, offset, first_lost, names[first_lost])


def _first_lost(index: NDArray[np.void], size: int, receipt: Receipt) -> int:
    """Return the first frame that a cut file lacks; len(index) where none is lacking."""
    ends = index["offset"] + index["length"]
    lost = np.flatnonzero((ends > size) & (ends <= receipt.bytes))
    return int(lost[0]) if len(lost) else len(index)


def _end_faults(file: BinaryIO, entry: np.void, size: int) -> Iterator[RowFault]:
    offset, length = int(entry["offset"]), int(entry["length"])
    if offset + length > size:
        yield RowFault("the index does not say where the archive ends", size)
        return
    frame = os.pread(file.fileno(), length, offset)
    if xxhash.xxh64_intdigest(frame) != int(entry["xxh64"]):
        yield RowFault(f"end of the archive: {DAMAGED}", offset)
        return
    try:
        raw = zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError:
        raw = b""
    if raw != END_OF_ARCHIVE:
        yield RowFault("does not end as a tar archive does", offset)


def _read_row(file: BinaryIO, entry: np.void, size: int, expected: Expected) -> _Row:
    offset, length = int(entry["offset"]), int(entry["length"])
    if offset + length > size:
        return _Row(None, False, ("its index entry points past the end of the file",))
    frame = os.pread(file.fileno(), length, offset)
    if xxhash.xxh64_intdigest(frame) != int(entry["xxh64"]):
        return _Row(_salvage(frame, expected), False, (DAMAGED,))
    try:
        raw = zstandard.ZstdDecompressor().decompress(frame)
        if len(raw) != int(entry["raw_length"]):
            return _Row(None, False, (f"{len(raw)} bytes instead of {entry['raw_length']}",))
        members = unpack_members(raw, "tar")
    except zstandard.ZstdError as error:
        return _Row(None, False, (f"does not decompress ({error})",))
    except ShardCorrupt as error:
        return _Row(None, False, (error.message,))
    return _check_members(members, expected)


def _check_members(members: list[tuple[str, bytes]], expected: Expected) -> _Row:
    names = [name for name, _ in members]
    key = names[0].partition(".")[0] if names else ""
    pair = expected.pair(key)
    wanted = [f"{key}.json", *(f"{key}.{role}.jpg" for role in _ROLES)]
    if names != wanted:
        return _Row(pair, True, (f"members are {names}, expected {wanted}",))
    problems = [] if pair is not None else [f"key {key!r} is none of this shard"]
    meta, wrong = read_meta(members[0][1])
    problems += wrong
    if meta is not None and (meta.dataset, meta.split) != (expected.dataset, expected.split):
        problems.append(f"JSON names the data set {meta.dataset}-{meta.split}")
    if meta is not None and expected.deep:
        problems += _image_problems(members[1][1], members[2][1], meta)
    return _Row(pair, True, tuple(problems))


def _image_problems(search: bytes, template: bytes, meta: SampleMeta) -> Iterator[str]:
    for role, data, image in (
        ("search image", search, meta.search),
        ("template image", template, meta.template),
    ):
        try:
            height, width, _ = decode(data, role).shape
        except ImageError as error:
            yield error.message.removesuffix("; replace the file")
            continue
        if (width, height) != image.size:
            yield f"{role} is {width}x{height}, its JSON says {image.size[0]}x{image.size[1]}"


def _salvage(frame: bytes, expected: Expected) -> int | None:
    """Return the pair number that a damaged frame still shows, or None."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(frame) as stream:
            head = stream.read(BLOCK)
    except (zstandard.ZstdError, MemoryError):  # a damaged header may ask for any window
        return None
    name = head[:100].partition(b"\0")[0].decode("ascii", "replace")
    return expected.pair(name.partition(".")[0])


def _names(rows: list[_Row], expected: Expected) -> list[str]:
    """Return a key for each row, and for the one after the last.

    A damaged row's key lies between the keys of its neighbours. Where that leaves several and its
    bytes do not show which, the name is the range: ``lasot-train-000000012 to 000000014``.
    """
    receipt = expected.receipt
    sound = [(n, row.pair) for n, row in enumerate(rows) if row.sound and row.pair is not None]
    after = [*sound, (receipt.rows, receipt.first_pair + receipt.drawn)]
    before = (-1, receipt.first_pair - 1)
    names: list[str] = []
    for number in range(len(rows) + 1):
        if number == after[0][0] and len(after) > 1:
            before = after.pop(0)
            names.append(sample_key(expected.dataset, expected.split, before[1]))
            continue
        low = before[1] + number - before[0]
        high = max(low, after[0][1] - (after[0][0] - number))
        shown = rows[number].pair if number < len(rows) else None
        if shown is not None and low <= shown <= high:
            low = high = shown
        key = sample_key(expected.dataset, expected.split, low)
        names.append(key if low == high else f"{key} to {high:09d}")
    return names
