"""A training worker on one thread: reading, decoding, whole samples, and the published way.

The same pairs go through every side: shards built from the HD tree by the real build, read back by the real loader with
no worker processes; the published way reads the frames the pairs came from. Everything is in the page cache.
"""

from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.frames import TreeSize, built_shards, hd_clips
from benchmarks.published import PublishedPair, RawPair, collate, published_pair
from benchmarks.source import B_224, loader_source
from benchmarks.timing import in_turn
from lorat.shards.base.process import settle_worker
from lorat.shards.pixels.jpeg import decode
from lorat.shards.reader import ShardReader
from lorat.shards.sample import Sample
from lorat.train.data.batches import make_loader
from lorat.train.data.places import Source

__all__ = ["run"]

_BATCH = 16


def run(quick: bool) -> dict[str, float | str]:
    """Measure all of it.

    Args:
        quick: few pairs, one round.

    Returns:
        Microseconds a pair of every side (medians), the ratios that have targets, and the same ratios in processor
        time.
    """
    torch.set_num_threads(1)
    settle_worker()  # as every loader worker does
    size = TreeSize.of(quick)
    pairs = _Pairs.of(size, 32 if quick else 256)
    often = in_turn(2 if quick else 15, {"read": pairs.read, "decode": pairs.decode})
    times = in_turn(1 if quick else 7, {"decode": pairs.decode, "sample": pairs.load, "published": pairs.published})
    stored = [len(s.searches[0].jpeg) + len(s.templates[0].jpeg) for s in pairs.samples]
    return {
        "pairs": len(pairs.samples),
        "stored_kb": round(sum(stored) / len(stored) / 1e3, 1),
        "read_us": round(often.median("read") * 1e6, 1),
        "decode_us": round(times.median("decode") * 1e6, 1),
        "sample_us": round(times.median("sample") * 1e6, 1),
        "published_us": round(times.median("published") * 1e6, 1),
        "samples_per_s": round(1.0 / times.median("sample"), 1),
        "decodes_per_s": round(1.0 / times.median("decode"), 1),
        "read_of_decode": round(often.ratio("read", "decode"), 4),
        "sample_of_decode": round(times.ratio("decode", "sample"), 4),
        "sample_of_published": round(times.ratio("published", "sample"), 3),
        "read_of_decode_cpu": round(often.cpu_ratio("read", "decode"), 4),
        "sample_of_decode_cpu": round(times.cpu_ratio("decode", "sample"), 4),
        "sample_of_published_cpu": round(times.cpu_ratio("published", "sample"), 3),
    }


@dataclass(frozen=True)
class _Pairs:
    """The sides; each goes through all pairs once and returns how many there were."""

    source: Source
    readers: list[ShardReader]
    samples: list[Sample]
    raws: list[RawPair]

    @staticmethod
    def of(size: TreeSize, count: int) -> "_Pairs":
        manifest = built_shards(size, count, count // 2)
        readers = [ShardReader(manifest.folder / s.shard) for s in manifest.shards]
        samples = [r.read(row) for r in readers for row in range(len(r))]
        clips = {clip.name: clip for clip in hd_clips(size)}
        raws = []
        for sample in samples:
            frames = clips[sample.sequence].frames
            template, search = sample.templates[0], sample.searches[0]
            raws.append(RawPair(frames[template.frame], frames[search.frame], template.box, search.box))
        return _Pairs(loader_source(manifest, _BATCH), readers, samples, raws)

    def read(self) -> int:
        for reader in self.readers:
            for row in range(len(reader)):
                reader.read(row)
        return len(self.samples)

    def decode(self) -> int:
        for sample in self.samples:
            decode(sample.templates[0].jpeg)
            decode(sample.searches[0].jpeg)
        return len(self.samples)

    def load(self) -> int:
        return sum(len(batch) for batch in make_loader(self.source))

    def published(self) -> int:
        made = 0
        batch: list[PublishedPair] = []
        for number, raw in enumerate(self.raws):
            pair = published_pair(raw, B_224, np.random.default_rng((1, number)))
            if pair is not None:
                batch.append(pair)
            if len(batch) == _BATCH:
                made += len(collate(batch)[0])
                batch.clear()
        return made + len(batch)
