"""Which pairs a run reads, and where each one stands in it.

Promise: the places of a step follow from the `Source` alone. Ranks take parts of a step, and the
order is computed in the process that trains; workers only get places.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from lorat.configs.schema import AugmentConfig
from lorat.shards.cache.cache import CacheOptions
from lorat.shards.manifest import Manifest
from lorat.shards.order import Pool, batch_positions, epoch_order
from lorat.train.data.labels import CropSpec
from lorat.train.data.prefetch import Ahead

__all__ = ["Place", "Source", "Steps"]


class Place(NamedTuple):
    """One position of the run and the row that stands there."""

    epoch: int
    position: int
    dataset: int
    shard: int
    row: int


@dataclass(frozen=True, slots=True)
class Source:
    """Everything that decides the batches of a run, and where the shards are read from."""

    manifests: tuple[Manifest, ...]
    weights: tuple[int, ...]
    spec: CropSpec
    augment: AugmentConfig
    seed: int
    batch_size: int
    pairs_per_epoch: int
    epochs: int
    window_shards: int = 0
    skip_damaged: bool = False
    """A damaged sample is replaced by another row, and reported; otherwise it ends the run."""
    negatives: float = 0.0
    """Share of pairs whose search crop is another sequence's."""
    cache: CacheOptions | None = None
    """Whole shards are copied there before they are read; the batches do not depend on it."""

    def pools(self) -> list[Pool]:
        """Return what the order needs to know of the data sets."""
        return [
            Pool(m.name, w, tuple(s.rows for s in m.shards))
            for m, w in zip(self.manifests, self.weights, strict=True)
        ]

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch."""
        return self.pairs_per_epoch // self.batch_size


class Steps(Sampler[list[Place]]):
    """Yields this rank's places of every step from a given one to the end of the run."""

    def __init__(self, source: Source, first_step: int, rank: int, world: int) -> None:
        self._source, self._first_step = source, first_step
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return self._source.epochs * self._source.steps_per_epoch - self._first_step

    def __iter__(self) -> Iterator[list[Place]]:
        source = self._source
        ahead = Ahead(source.manifests, source.cache) if source.cache else None
        epoch, first = divmod(self._first_step, source.steps_per_epoch)
        for number in range(epoch, source.epochs):
            order = epoch_order(
                source.pools(), source.seed, number, source.pairs_per_epoch, source.window_shards
            )
            steps = [self._positions(at) for at in range(first, source.steps_per_epoch)]
            if ahead:
                ahead.begin(order[np.concatenate(steps)])
            for count, positions in enumerate(steps):
                if ahead:
                    ahead.reach(count * len(positions))
                yield [Place(number, p, *(int(v) for v in order[p])) for p in positions]
            first = 0

    def _positions(self, step: int) -> range:
        return batch_positions(step, self._source.batch_size, self._rank, self._world)
