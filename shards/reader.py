"""Reads one shard: any row by its byte range, every byte checked.

A row's compressed bytes are compared with the hash in the index before they are decompressed, and the decompressed
length with the index after. What does not fit is a `ShardCorrupt` that names the shard, the row, its key where the rows
beside it tell it, and the byte offset; a store that does not answer is a `UserError`. Nothing is unpickled.
"""

import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from lorat.shards.base.disk import explain_reading
from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.base.storage import Location, read_bytes, read_range
from lorat.shards.manifest import Receipt
from lorat.shards.sample import Sample, from_members
from lorat.shards.tar import END_OF_ARCHIVE, unpack_members
from lorat.shards.writer import INDEX_DTYPE, index_path

_LOCAL = threading.local()
_REMEDY = "see that it may be read, or build it again"
_NEIGHBOURS = 16  # rows on each side that are asked for their keys


def read_index(shard: Location) -> NDArray[np.void]:
    """Read a shard's index: rows of `INDEX_DTYPE`, the end-of-archive frame last. A `ShardCorrupt` if it is missing,
    cut, or its rows do not follow each other without a gap; a `UserError` if a store does not answer.
    """
    path = index_path(shard)
    with explain_reading(path, _REMEDY, ShardCorrupt):
        data = read_bytes(path)
    if not data or len(data) % INDEX_DTYPE.itemsize:
        raise ShardCorrupt(f"{path}: {len(data)} bytes are no whole index; build it again")
    index = np.frombuffer(data, dtype=INDEX_DTYPE)
    for row in np.flatnonzero(index["offset"] != np.cumsum(index["length"], dtype=np.uint64) - index["length"]):
        where = f"{path}: row {row} at byte {row * INDEX_DTYPE.itemsize}"
        raise ShardCorrupt(f"{where} does not begin where the one before ends; build it again")
    if int(index[-1]["raw_length"]) != len(END_OF_ARCHIVE):
        raise ShardCorrupt(f"{path}: lacks its last rows; build it again")
    return index


class ShardReader:
    """Random access to the samples of one shard; safe to use from several threads. A local shard is an open file until
    `close`; a shard in a store is read row by row, one request each, and holds nothing open. Rows are read by the
    `index` that is given, or by the one beside the shard, which must be the one that the receipt names. A shard or
    index that is missing, or an index that is not what was written, is a `ShardCorrupt`, a store that does not answer a
    `UserError`.
    """

    def __init__(self, path: Location, receipt: Receipt | None = None, index: NDArray[np.void] | None = None) -> None:
        self.path, self._receipt, self._file = path, receipt, -1
        self._index = read_index(path) if index is None else index
        if receipt is not None and index is None:
            digest = hashlib.sha256(self._index.tobytes()).hexdigest()
            if digest != receipt.index_sha256 or len(self) != receipt.rows:
                raise ShardCorrupt(f"{index_path(path)}: not the index that the shard's receipt names; build it again")
        if isinstance(path, Path):
            with explain_reading(path, _REMEDY, ShardCorrupt):
                self._file = os.open(path, os.O_RDONLY)

    def __len__(self) -> int:
        return len(self._index) - 1

    def close(self) -> None:
        """Close the file; reading on is an error, closing again is none."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1  # the number may be another file's from now on

    def where(self, row: int) -> str:
        """Return what errors call a row: its shard, number, key where it is known, and byte offset."""
        key = self.key(row)
        return f"{self.path} row {row}{f' ({key})' if key else ''} at byte {int(self._index[row]['offset'])}"

    def key(self, row: int) -> str:
        """Return a row's key. A damaged one lies between those of the nearest sound rows: a range where pairs were left
        out, ``lasot-train-000000012 to 000000014``; empty where nothing is known of them.
        """
        low, high = self._bound(row, -1), self._bound(row, 1)
        if low is None or high is None:
            return ""
        return f"{self._set}-{low:09d}" + (f" to {high:09d}" if high > low else "")

    @property
    def _set(self) -> str:
        return self.path.name.partition(".")[0].rpartition("-")[0]

    def _bound(self, row: int, step: int) -> int | None:
        """Return the least (step −1) or greatest (step 1) pair number of a row, by the next sound one on that side."""
        for beside in range(row, row + step * _NEIGHBOURS, step):
            if not 0 <= beside < len(self):
                break
            with suppress(ShardCorrupt, IndexError, ValueError):
                of, _, number = self.members(beside)[0][0].partition(".")[0].rpartition("-")
                if of == self._set and (self._receipt is None or int(number) in self._receipt.pairs):
                    return int(number) + row - beside
        if (receipt := self._receipt) is None:
            return None
        return receipt.first_pair + row + (receipt.drawn - len(self) if step > 0 else 0)

    def read(self, row: int) -> Sample:
        """Read sample `row`; an `IndexError` if there is none. Bytes that are not those that were written are a
        `ShardCorrupt`; a store that does not answer, or has the shard no more, is a `UserError`.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"{self.path.name} has rows 0 … {len(self) - 1}, not {row}")
        try:
            return from_members(self.members(row), "sample")
        except ShardCorrupt as error:
            return self._instead_of(row, error)

    def _instead_of(self, row: int, damage: ShardCorrupt) -> Sample:
        """Return a damaged row from elsewhere; here there is no other place to look."""
        raise ShardCorrupt(f"{self.where(row)}: {damage.message}; delete the shard and build again") from None

    def members(self, row: int) -> list[tuple[str, bytes]]:
        """Return the tar members of a row, (name, payload) each; errors as of `unpacked`."""
        return unpack_members(self.unpacked(row), "tar")

    def unpacked(self, row: int) -> bytes:
        """Return the tar bytes of a row, or the archive's end for the row after the last. A `ShardCorrupt` says what is
        wrong, not where; a `UserError` that a store does not answer or has the shard no more.
        """
        offset, length, raw_length, digest = self._index[row].tolist()
        local = isinstance(self.path, Path)
        try:
            frame = os.pread(self._file, length, offset) if local else read_range(self.path, offset, length)
        except FileNotFoundError:
            # No row is damaged, so whoever skips damaged ones must not take this for one.
            raise UserError(f"{self.path}: the shard is missing; build it again") from None
        except OSError as error:
            raise ShardCorrupt(f"cannot be read ({error.strerror})") from None
        if len(frame) != length:
            raise ShardCorrupt(f"{len(frame)} of {length} bytes are there")
        if xxhash.xxh64_intdigest(frame) != digest:
            raise ShardCorrupt("not the bytes that were written (xxh64 differs)")
        if not hasattr(_LOCAL, "zstd"):  # making one takes longer than decompressing a sample
            _LOCAL.zstd = zstandard.ZstdDecompressor()
        try:
            raw: bytes = _LOCAL.zstd.decompress(frame)
        except zstandard.ZstdError as error:
            raise ShardCorrupt(f"does not decompress ({error})") from None
        if len(raw) != raw_length:
            raise ShardCorrupt(f"{len(raw)} bytes instead of {raw_length}")
        return raw
