"""Writes one shard: a WebDataset tar in which every sample is one zstd frame.

The file is an ordinary ``.tar.zst`` stream. It appears under its name only when it is whole: it is written beside,
flushed, and renamed, or uploaded whole to a store; the index (``.idx``) follows the same way. The same samples give the
same bytes, wherever they are written.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar, cast

import numpy as np
import xxhash
import zstandard

from lorat.shards.base.storage import Location, atomic_file
from lorat.shards.sample import Sample, to_members
from lorat.shards.tar import END_OF_ARCHIVE, pack_members

L = TypeVar("L", bound=Location)
LEVEL = 1
INDEX_DTYPE = np.dtype([("offset", "<u8"), ("length", "<u4"), ("raw_length", "<u4"), ("xxh64", "<u8")])
"""One row a frame: where its compressed bytes are, how long they and the tar bytes are, and the xxh64 of the compressed
bytes. The last row is the end-of-archive frame, not a sample."""


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What was written."""

    rows: int
    bytes: int
    sha256: str
    index_sha256: str


def index_path(shard: L) -> L:
    """Return the index file that belongs to a shard file."""
    return cast("L", shard.with_name(shard.name.removesuffix(".tar.zst") + ".idx"))


def write_shard(path: Location, samples: Iterable[Sample]) -> ShardSummary:
    """Write `samples`, in row order, as the shard ``….tar.zst`` and its index, each atomically; errors as of that."""
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True, threads=0)
    raws = (pack_members(to_members(sample)) for sample in samples)
    rows, sha, size = list[tuple[int, int, int, int]](), hashlib.sha256(), 0
    with atomic_file(path) as file:
        for raw in chain(raws, [END_OF_ARCHIVE]):
            frame = compressor.compress(raw)
            file.write(frame)
            sha.update(frame)
            rows.append((size, len(frame), len(raw), xxhash.xxh64_intdigest(frame)))
            size += len(frame)
    index = np.array(rows, dtype=INDEX_DTYPE).tobytes()
    with atomic_file(index_path(path)) as file:
        file.write(index)
    return ShardSummary(len(rows) - 1, size, sha.hexdigest(), hashlib.sha256(index).hexdigest())
