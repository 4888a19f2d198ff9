"""Which pairs a run reads, where each one stands in it, and which shards are fetched before that.

Promise: the places of a step follow from the `Source` alone. Ranks take parts of a step, and the order is computed in
the process that trains; workers only get places, and find the shards in the cache: half of it is for the shards that
are being read, half for those that come.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from lorat.configs.schema import AugmentConfig, VariantConfig
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import Location
from lorat.shards.cache.cache import CacheOptions, ShardCache
from lorat.shards.cache.folder import bytes_needed
from lorat.shards.manifest import Manifest, Receipt
from lorat.shards.order import Pool, batch_positions, epoch_order
from lorat.shards.sample import Sample


class Place(NamedTuple):
    """One position of the run and the row that stands there."""

    epoch: int
    position: int
    dataset: int
    shard: int
    row: int


@dataclass(frozen=True, slots=True)
class CropSpec:
    """Sides in pixels and in tokens, and area factors, of the crops of a sample, and how many there are."""

    template_size: int
    search_size: int
    template_grid: int
    search_grid: int
    template_factor: float
    search_factor: float
    templates: int = 1
    searches: int = 1
    reference_size: int | None = None
    reference_factor: float = 4.0

    @classmethod
    def of(cls, variant: VariantConfig, template_grid: int, search_grid: int) -> "CropSpec":
        """Return what a variant's network, with grids of so many tokens a side, is given."""
        sides = variant.template_size, variant.search_size, template_grid, search_grid
        images = variant.model_dump(include={"templates", "searches", "reference_size", "reference_factor"})
        return cls(*sides, variant.template_factor, variant.search_factor, **images)

    @property
    def views(self) -> list[tuple[int, float]]:
        """Side and area factor of each crop: the templates, the reference where there is one, the search crops. They
        are of the last so many images of a stored sample.
        """
        reference = [] if self.reference_size is None else [(self.reference_size, self.reference_factor)]
        template, search = (self.template_size, self.template_factor), (self.search_size, self.search_factor)
        return [template] * self.templates + reference + [search] * self.searches


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
    skip_damaged: bool = False  # a damaged sample is replaced by another row, and reported, or ends the run
    negatives: float = 0.0  # share of samples whose search crops are another sequence's
    negatives_from: str = ""  # the set of those crops, any of them, or, empty, the sample's own shard
    max_gap: int | None = None  # frames between a template and a search frame; others are passed over
    causal: bool = False  # whether samples with a search frame before a template's are passed over
    cache: CacheOptions | None = None  # for whole shards; the batches do not depend on it

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch."""
        return self.pairs_per_epoch // self.batch_size

    def suits(self, sample: Sample) -> bool:
        """Return whether all search frames are as near to all other frames that are used, and in such an order, as is
        asked for.
        """
        frames = [image.frame for image in sample.images[-len(self.spec.views) :]]
        earlier, later = frames[: -self.spec.searches], frames[-self.spec.searches :]
        first, last = min(later) - max(earlier), max(later) - min(earlier)
        return (self.max_gap is None or max(-first, last) <= self.max_gap) and not (self.causal and first < 0)

    def ends(self, done: int, every: int) -> bool:
        """Return whether `done` steps end the last epoch, or one of `every` so many."""
        epoch, inside = divmod(done, self.steps_per_epoch)
        return epoch > 0 and not inside and (epoch == self.epochs or epoch % every == 0)

    def order(self, epoch: int) -> NDArray[np.void]:
        """Return which row stands at each position of an epoch, as `epoch_order` does."""
        both = zip(self.manifests, self.weights, strict=True)
        pools = [Pool(manifest.name, weight, tuple(s.rows for s in manifest.shards)) for manifest, weight in both]
        return epoch_order(pools, self.seed, epoch, self.pairs_per_epoch, self.window_shards)


class Steps(Sampler[list[Place]]):
    """Yields this rank's places of every step from a given one to the end of the run."""

    def __init__(self, source: Source, first_step: int, rank: int, world: int) -> None:
        self._source, self._first_step, self._rank, self._world = source, first_step, rank, world

    def __len__(self) -> int:
        return self._source.epochs * self._source.steps_per_epoch - self._first_step

    def __iter__(self) -> Iterator[list[Place]]:
        source, slices = self._source, (self._source.batch_size, self._rank, self._world)
        ahead = Ahead(source.manifests, source.cache) if source.cache else None
        epoch, first = divmod(self._first_step, source.steps_per_epoch)
        for number in range(epoch, source.epochs):
            order = source.order(number)
            steps = [batch_positions(step, *slices) for step in range(first, source.steps_per_epoch)]
            if ahead:
                ahead.begin(order[np.concatenate(steps)])
            for count, positions in enumerate(steps):
                if ahead:
                    ahead.reach(count * len(positions))
                yield [Place(number, p, *(int(v) for v in order[p])) for p in positions]
            first = 0


class Ahead:
    """Asks a cache for shards in the order of their first use, while they fit into half of it."""

    def __init__(self, manifests: tuple[Manifest, ...], options: CacheOptions) -> None:
        self._manifests, self._cache, self._room = manifests, ShardCache(options), options.max_bytes // 2
        # How many pairs are read before a shard's first, and the shard, or its bytes.
        self._coming: deque[tuple[int, Location, Receipt]] = deque()
        self._asked: deque[tuple[int, int]] = deque()

    def begin(self, order: NDArray[np.void]) -> None:
        """Look at the pairs that this process is going to read, in order (`ORDER_DTYPE`)."""
        _, firsts = np.unique(order["dataset"].astype(np.int64) << 32 | order["shard"], return_index=True)
        self._asked.clear()
        self._coming.clear()
        for first in np.sort(firsts).tolist():
            manifest = self._manifests[order["dataset"][first]]
            receipt = manifest.shards[order["shard"][first]]
            self._coming.append((first, manifest.folder / receipt.shard, receipt))

    def reach(self, pair: int) -> None:
        """Ask for what comes next, now that `pair` pairs since `begin` are handed out."""
        while self._asked and self._asked[0][0] < pair:
            self._asked.popleft()
        taken = sum(size for _, size in self._asked)
        while self._coming and taken + self._coming[0][2].bytes <= self._room:
            after, place, receipt = self._coming[0]
            if after >= pair:  # whoever reads an earlier one fetches it at once
                if not self._cache.prefetch([(place, receipt)]):
                    return  # too many wait; it is asked for again at the next step
                self._asked.append((after, receipt.bytes))
                taken += receipt.bytes
            self._coming.popleft()


def shards_in_use(manifests: tuple[Manifest, ...], window: int) -> int:
    """Return how many shards are read in turn at any time: a window of each data set."""
    return sum(len(m.shards[: window or None]) for m in manifests)


def check_room(manifests: tuple[Manifest, ...], window: int, options: CacheOptions) -> None:
    """Raise a `UserError` where shards in use, and as many that come next, exceed a cache."""
    sizes = [sorted((bytes_needed(s) for s in m.shards), reverse=True) for m in manifests]

    def needed(window: int) -> int:
        in_use = sum(sum(size[: window or None]) for size in sizes)
        return min(sum(map(sum, sizes)), 2 * in_use)

    def shown(window: int) -> str:  # rounded up, so that a limit of what is printed suffices
        return f"{math.ceil(needed(window) / 1e5) / 10:,.1f} MB"

    if needed(window) <= options.max_bytes:
        return
    limit = f"{options.folder}: its limit of {options.max_bytes / 1e6:,.1f} MB"
    read = f"shards that are read in turn (data.window_shards={window or '0: all of them'})"
    narrower = [n for n in (8, 1) if needed(n) < needed(window)][:1]
    narrow = [f" or narrow the window (--set data.window_shards={n} needs {shown(n)})" for n in narrower]
    remedy = f"raise --shard-cache-size{''.join(narrow)}"
    raise UserError(f"{limit} is too small for the {read}, which need {shown(window)}; {remedy}")
