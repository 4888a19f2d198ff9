"""What tuples cost beside pairs: bytes, building, decoding, whole training samples, one process on one thread.

Pairs and both kinds of tuples are built from the same HD tree with what the 378 variants want, and made into the crops
of such variants: LoRAT's, SPMTrack's and those of LoRATv2's second phase. Sequences are longer than elsewhere, so that
few images of a tuple are the same frame. Everything is in the page cache.
"""

import shutil
from dataclasses import dataclass, replace
from functools import partial

import torch

from benchmarks.frames import TreeSize, hd_clips, scratch
from benchmarks.source import loader_source
from benchmarks.timing import in_turn
from lorat.prep.build.plan import BuildOptions
from lorat.prep.build.run import build
from lorat.prep.pairs.crop import CropOptions
from lorat.shards.base.process import settle_worker
from lorat.shards.manifest import Manifest
from lorat.shards.pixels.jpeg import decode
from lorat.shards.reader import ShardReader
from lorat.shards.sample import SHAPES, Sampler
from lorat.train.data.batches import make_loader
from lorat.train.data.places import CropSpec, Source

__all__ = ["run"]

_BATCH = 8
_PAIR = CropSpec(196, 378, 14, 27, 2.0, 5.0)
_SPECS: dict[Sampler, CropSpec] = {
    "pair": _PAIR,
    "spmtrack": replace(_PAIR, templates=3, searches=2),
    "loratv2": replace(_PAIR, template_size=224, template_grid=16, reference_size=224),
}


def run(quick: bool) -> dict[str, float | str]:
    """Measure all kinds.

    Args:
        quick: few samples, one round.

    Returns:
        Of each kind kilobytes a stored sample, and milliseconds that building, decoding and making a training sample
        take (medians); of tuples also what building and making take of a pair's time.
    """
    torch.set_num_threads(1)
    settle_worker()
    size, count = (TreeSize.of(quick), 8) if quick else (TreeSize(4, 48), 96)
    kinds = {sampler: _Kind.of(size, count, sampler) for sampler in SHAPES}
    sides = {f"{sampler}_decode": kind.decode for sampler, kind in kinds.items()}
    sides |= {f"{sampler}_sample": kind.load for sampler, kind in kinds.items()}
    builds = {f"{sampler}_build": partial(_rebuild, size, count // 2, sampler) for sampler in SHAPES}
    times, built = in_turn(1 if quick else 7, sides), in_turn(1 if quick else 3, builds)
    numbers: dict[str, float | str] = {}
    for sampler, kind in kinds.items():
        numbers[f"{sampler}_kb"] = round(sum(r.bytes for r in kind.source.manifests[0].shards) / count / 1e3, 1)
        numbers[f"{sampler}_build_ms"] = round(built.median(f"{sampler}_build") * 1e3, 2)
        for what in ("decode", "sample"):
            numbers[f"{sampler}_{what}_ms"] = round(times.median(f"{sampler}_{what}") * 1e3, 3)
        if sampler != "pair":
            numbers[f"{sampler}_of_pair"] = round(times.ratio(f"{sampler}_sample", "pair_sample"), 3)
            numbers[f"{sampler}_build_of_pair"] = round(built.ratio(f"{sampler}_build", "pair_build"), 3)
    return numbers


@dataclass(frozen=True)
class _Kind:
    """Samples of one kind; each side goes through all once and returns how many there were."""

    source: Source
    images: list[list[bytes]]

    @staticmethod
    def of(size: TreeSize, count: int, sampler: Sampler) -> "_Kind":
        manifest = _built(size, count, sampler)
        readers = [ShardReader(manifest.folder / receipt.shard) for receipt in manifest.shards]
        samples = [reader.read(row) for reader in readers for row in range(len(reader))]
        source = replace(loader_source(manifest, _BATCH), spec=_SPECS[sampler])
        return _Kind(source, [[image.jpeg for image in sample.images] for sample in samples])

    def decode(self) -> int:
        for images in self.images:
            for jpeg in images:
                decode(jpeg)
        return len(self.images)

    def load(self) -> int:
        return sum(len(batch) for batch in make_loader(self.source))


def _built(size: TreeSize, count: int, sampler: Sampler, folder: str = "tuples") -> Manifest:
    crops = CropOptions(serve=378)
    options = BuildOptions(crops=crops, sampler=sampler, pairs=count, shard_pairs=count // 2, workers=1)
    return build(list(hd_clips(size)), scratch() / f"{folder}-{sampler}", options).manifest


def _rebuild(size: TreeSize, count: int, sampler: Sampler) -> int:
    rows = _built(size, count, sampler, "again").rows
    shutil.rmtree(scratch() / f"again-{sampler}")
    return rows
