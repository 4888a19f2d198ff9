"""Finds the frames of a shard without its index, from the zstd headers alone.

Meant for shards whose bytes are known to be right (their checksum fits) while the index is not.
"""

import mmap
from pathlib import Path

import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from lorat.shards.base.errors import ShardCorrupt
from lorat.shards.writer import INDEX_DTYPE

_BLOCK_HEADER = 3
_CHECKSUM = 4
_RUN = 1  # block type: one byte, repeated


def walk_frames(shard: Path) -> NDArray[np.void]:
    """Return the index that belongs to a local shard, rows of `INDEX_DTYPE`.

    Follows the frame format of RFC 8878: frame header, blocks up to the last one, checksum. What is not a row of whole
    zstd frames is a `ShardCorrupt`.
    """
    rows: list[tuple[int, int, int, int]] = []
    with shard.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = 0
        while at < len(data):
            length, raw_length = _frame(data, at, shard)
            rows.append((at, length, raw_length, xxhash.xxh64_intdigest(data[at : at + length])))
            at += length
    return np.array(rows, dtype=INDEX_DTYPE)


def _frame(data: mmap.mmap, begin: int, shard: Path) -> tuple[int, int]:
    """Return the length of the frame that begins at a byte, and of what it holds."""
    head = data[begin : begin + 18]  # the longest frame header
    try:
        parameters = zstandard.get_frame_parameters(head)
        at = begin + zstandard.frame_header_size(head)
    except zstandard.ZstdError as error:
        raise ShardCorrupt(f"{shard} at byte {begin}: no zstd frame ({error})") from None
    last = False
    while not last:
        header = int.from_bytes(data[at : at + _BLOCK_HEADER], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        at += _BLOCK_HEADER + (1 if kind == _RUN else size)
        if at > len(data):
            raise ShardCorrupt(f"{shard} at byte {begin}: the file ends within this zstd frame")
    at += _CHECKSUM if parameters.has_checksum else 0
    return at - begin, int(parameters.content_size)
