"""What it gains that pairs stand in shards, and not as three loose files each: the same stored crops, read both ways.

Pairs are read in a random order, as a training reads them, into samples; images are not decoded, which costs the same
on both sides. Four places: files in the page cache, files that the kernel was asked to forget before each round, a disk
where each opening and each read answers 5 ms late, and a store where each request takes 20 ms. There, whole shards
copied once (``--shard-cache``) are a third side. Latencies are simulated in this process, the files are local.
"""

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks.frames import TreeSize, built_shards
from benchmarks.slow_disk import late
from lorat.shards.reader import ShardReader
from lorat.shards.sample import Sample, from_members

__all__ = ["run"]

_LATE, _REQUEST = 0.005, 0.020  # seconds
_FEW = 32  # pairs where each takes long
_MEMBERS = ("json", "search.jpg", "template.jpg")


def run(quick: bool) -> dict[str, float | str]:
    """Measure both ways in all places, in turn.

    Args:
        quick: few pairs, one round.

    Returns:
        Microseconds a pair of each, and how many times as fast the packed way is.
    """
    pairs = 32 if quick else 512
    manifest = built_shards(TreeSize.of(quick), pairs, pairs // 2)
    readers = [ShardReader(manifest.folder / receipt.shard, receipt) for receipt in manifest.shards]
    rows = [(reader, row) for reader in readers for row in range(len(reader))]
    random.Random(0).shuffle(rows)
    found: dict[str, float | str] = {}
    with tempfile.TemporaryDirectory(prefix="lorat-bench-loose-") as name:
        folder = Path(name)
        keys = [_unpack(reader, row, folder) for reader, row in rows]

        def packed(count: int) -> int:
            for reader, row in rows[:count]:
                reader.read(row)
            return count

        def loose(count: int) -> int:
            for key in keys[:count]:
                _read_loose(folder, key)
            return count

        files = [*folder.iterdir(), *(Path(str(reader.path)) for reader in readers)]
        for place, count, before, inside in (
            ("cached", len(rows), lambda: None, nullcontext),
            ("forgotten", len(rows), partial(_forget, files), nullcontext),
            ("late", _FEW, lambda: None, partial(_late_disk, _LATE)),
            ("store", _FEW, lambda: None, partial(_late_disk, _REQUEST, opening=False)),
        ):
            sides = {"packed": partial(packed, count), "loose": partial(loose, count)}
            seconds = _in_turn(1 if quick else 7, sides, before, inside)
            found |= {f"{place}_{side}_us": round(1e6 * median(times), 1) for side, times in seconds.items()}
            ratios = [b / a for a, b in zip(seconds["packed"], seconds["loose"], strict=True)]
            found[f"{place}_speedup"] = round(median(ratios), 2)
    requests = len(readers) / len(rows)  # of whole shards, a pair
    found["store_whole_us"] = round(1e6 * _REQUEST * requests + float(found["cached_packed_us"]), 1)
    found["store_whole_speedup"] = round(float(found["store_loose_us"]) / float(found["store_whole_us"]), 1)
    for reader in readers:
        reader.close()
    return found


def _unpack(reader: ShardReader, row: int, folder: Path) -> str:
    """Write a row's members as files of their own, and return its key."""
    members = reader.members(row)
    for name, data in members:
        (folder / name).write_bytes(data)
    return members[0][0].removesuffix(".json")


def _read_loose(folder: Path, key: str) -> Sample:
    members = []
    for kind in _MEMBERS:
        file = os.open(folder / f"{key}.{kind}", os.O_RDONLY)
        members.append((f"{key}.{kind}", os.pread(file, os.fstat(file).st_size, 0)))
        os.close(file)
    return from_members(members, "sample")


def _in_turn(
    rounds: int,
    sides: Mapping[str, Callable[[], int]],
    before: Callable[[], None],
    inside: Callable[[], AbstractContextManager[None]],
) -> dict[str, list[float]]:
    """Return the seconds a pair of each side and round; what comes before is not timed, nor is a first round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, work in sides.items():
            before()
            with inside():
                begin = time.perf_counter()
                items = work()
                if number:
                    seconds[name].append((time.perf_counter() - begin) / items)
    return seconds


def _forget(files: list[Path]) -> None:
    """Ask the kernel to drop what it holds of files; what it must write first is written."""
    for path in files:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


@contextmanager
def _late_disk(seconds: float, *, opening: bool = True) -> Iterator[None]:
    """Let each read wait, and each opening too: a store has one request for both."""

    def waiting(*arguments: Any) -> bytes:
        time.sleep(seconds)
        return pread(*arguments)

    pread = os.pread
    with patch.object(os, "pread", waiting), late(seconds) if opening else nullcontext():
        yield


if __name__ == "__main__":
    print(json.dumps(run("--quick" in sys.argv), indent=1))
