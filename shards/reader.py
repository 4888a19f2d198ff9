"""Reads one shard: any row by its byte range, every byte checked.

A row's compressed bytes are compared with the hash in the index before they are decompressed, and
the decompressed length with the index after. What does not fit is a `ShardCorrupt` that names the
shard, the row and the byte offset. Nothing is unpickled.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from lorat.shards.errors import ShardCorrupt
from lorat.shards.sample import PairSample, from_members
from lorat.shards.tar import END_OF_ARCHIVE, unpack_members
from lorat.shards.writer import INDEX_DTYPE, index_path

__all__ = ["ShardReader", "read_index"]


def read_index(shard: Path) -> NDArray[np.void]:
    """Read a shard's index: rows of `INDEX_DTYPE`, the end-of-archive frame last.

    Raises:
        ShardCorrupt: if it is missing or is not a whole number of rows.
    """
    path = index_path(shard)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ShardCorrupt(f"{path}: cannot be read ({error.strerror}); build it again") from None
    if not data or len(data) % INDEX_DTYPE.itemsize:
        raise ShardCorrupt(f"{path}: {len(data)} bytes are no whole index; build it again")
    return np.frombuffer(data, dtype=INDEX_DTYPE)


class ShardReader:
    """Random access to the samples of one shard; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = read_index(path)
        last = self._index[-1]
        if int(last["raw_length"]) != len(END_OF_ARCHIVE):
            raise ShardCorrupt(f"{index_path(path)}: lacks its last rows; build it again")
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise ShardCorrupt(f"{path}: cannot be read ({error.strerror})") from None

    def __len__(self) -> int:
        return len(self._index) - 1

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def read(self, row: int) -> PairSample:
        """Read sample `row`.

        Raises:
            ShardCorrupt: if its bytes are not those that were written.
            IndexError: if there is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"{self.path.name} has rows 0 … {len(self) - 1}, not {row}")
        entry = self._index[row]
        offset, length = int(entry["offset"]), int(entry["length"])
        where = f"{self.path} row {row} at byte {offset}"
        frame = os.pread(self._file, length, offset)
        if len(frame) != length or xxhash.xxh64_intdigest(frame) != int(entry["xxh64"]):
            raise ShardCorrupt(
                f"{where}: not the bytes that were written; delete the shard and build again"
            )
        try:
            # A decompressor is not safe to share between threads; making one costs microseconds.
            raw = zstandard.ZstdDecompressor().decompress(frame)
        except zstandard.ZstdError as error:
            raise ShardCorrupt(f"{where}: does not decompress ({error})") from None
        if len(raw) != int(entry["raw_length"]):
            raise ShardCorrupt(f"{where}: {len(raw)} bytes instead of {entry['raw_length']}")
        return from_members(unpack_members(raw, where), where)
