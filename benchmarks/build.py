"""Building shards: against its own floor, and with two processes against one.

The floor of a pair is its frames only decoded and its two crops only encoded, by the same codec, from and to memory.
The build reads the same frames from the page cache and does everything else too: draws, tries the jitter, takes the
means, cuts, packs, compresses, hashes, flushes and renames. Its shards hold 512 pairs; those of a real build hold 2,048
by default, so that flushing them costs less there. Two processes are started anew for every build, which is part of
their time.
"""

import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.frames import TreeSize, built_shards, hd_clips, scratch
from benchmarks.timing import in_turn
from lorat.prep.build.plan import BuildOptions
from lorat.prep.build.run import build
from lorat.prep.trees.base.clip import Clip
from lorat.shards.manifest import Manifest
from lorat.shards.pixels.jpeg import decode, encode
from lorat.shards.pixels.resample import Window, cut_window
from lorat.shards.reader import ShardReader
from lorat.shards.sample import StoredImage

__all__ = ["run"]

_QUALITY = 92


def run(quick: bool) -> dict[str, float | str]:
    """Measure both.

    Args:
        quick: few pairs, one round.

    Returns:
        Pairs a second of the build, of its floor and of two processes (medians), the two ratios that have targets, and
        the first of them in processor time.
    """
    cv2.setNumThreads(1)
    size = TreeSize.of(quick)
    clips = hd_clips(size)
    one_shard = 8 if quick else 512
    floor = _Floor.of(clips, built_shards(size, one_shard, one_shard))
    alone = in_turn(1 if quick else 5, {"floor": floor.run, "build": lambda: _build(clips, one_shard, one_shard, 1)})
    many, shard = (16, 4) if quick else (2048, 128)
    shared = in_turn(
        1 if quick else 3, {"one": lambda: _build(clips, many, shard, 1), "two": lambda: _build(clips, many, shard, 2)}
    )
    return {
        "floor_pairs_per_s": round(1.0 / alone.median("floor"), 2),
        "build_pairs_per_s": round(1.0 / alone.median("build"), 2),
        "two_pairs_per_s": round(1.0 / shared.median("two"), 2),
        "build_of_floor": round(alone.ratio("floor", "build"), 4),
        "two_of_one": round(shared.ratio("one", "two"), 3),
        "build_of_floor_cpu": round(alone.cpu_ratio("floor", "build"), 4),
    }


_NUMBER = count()


def _build(clips: tuple[Clip, ...], pairs: int, shard_pairs: int, workers: int) -> int:
    folder = scratch() / f"build-{next(_NUMBER)}"
    options = BuildOptions(pairs=pairs, shard_pairs=shard_pairs, workers=workers)
    rows = build(list(clips), folder, options).manifest.rows
    shutil.rmtree(folder)
    return rows


@dataclass(frozen=True)
class _Floor:
    """The files and the crops of some pairs, in memory."""

    frames: dict[Path, bytes]
    needed: list[Path]
    """One for every frame that a build of these pairs decodes, in order."""
    crops: list[NDArray[np.uint8]]
    pairs: int

    @staticmethod
    def of(clips: tuple[Clip, ...], manifest: Manifest) -> "_Floor":
        by_name = {clip.name: clip for clip in clips}
        needed: list[Path] = []
        crops: list[NDArray[np.uint8]] = []
        for shard in manifest.shards:
            reader = ShardReader(manifest.folder / shard.shard)
            for sample in (reader.read(row) for row in range(len(reader))):
                frames = by_name[sample.sequence].frames
                images = (sample.templates[0], sample.searches[0])
                needed += dict.fromkeys(frames[image.frame] for image in images)
                crops += (_cut(frames[image.frame], image) for image in images)
        return _Floor({path: path.read_bytes() for path in needed}, needed, crops, manifest.rows)

    def run(self) -> int:
        for path in self.needed:
            decode(self.frames[path])
        for crop in self.crops:
            encode(crop, _QUALITY)
        return self.pairs


def _cut(path: Path, image: StoredImage) -> NDArray[np.uint8]:
    return cut_window(decode(path.read_bytes()), Window(image.origin, image.window, image.size))
