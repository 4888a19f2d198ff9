"""Shards on their way before they are read: what the order says comes next is fetched ahead.

Half of the cache is for the shards that are being read, half for those that come. The process that
trains knows the order, so it does the asking; workers find the shards in the cache.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import Location
from lorat.shards.cache.cache import CacheOptions, ShardCache
from lorat.shards.cache.folder import bytes_needed
from lorat.shards.manifest import Manifest, Receipt

__all__ = ["Ahead", "check_room", "shards_in_use"]


_NARROW = (8, 1)  # windows that are proposed where a cache is too small


class _Coming(NamedTuple):
    """A shard and how many pairs are read before its first."""

    after: int
    place: Location
    receipt: Receipt


class Ahead:
    """Asks a cache for shards in the order of their first use, while they fit into half of it."""

    def __init__(self, manifests: tuple[Manifest, ...], options: CacheOptions) -> None:
        self._manifests = manifests
        self._cache = ShardCache(options)
        self._room = options.max_bytes // 2
        self._coming: deque[_Coming] = deque()
        self._asked: deque[_Coming] = deque()

    def begin(self, order: NDArray[np.void]) -> None:
        """Look at the pairs that this process is going to read, in order (`ORDER_DTYPE`)."""
        both = order["dataset"].astype(np.int64) << 32 | order["shard"]
        shards, first = np.unique(both, return_index=True)
        sequence = np.argsort(first)
        self._asked.clear()
        self._coming = deque(
            self._one(int(first[i]), int(shards[i] >> 32), int(shards[i] & 0xFFFFFFFF))
            for i in sequence
        )

    def reach(self, pair: int) -> None:
        """Ask for what comes next, now that `pair` pairs since `begin` are handed out."""
        while self._asked and self._asked[0].after < pair:
            self._asked.popleft()
        taken = sum(shard.receipt.bytes for shard in self._asked)
        while self._coming and taken + self._coming[0].receipt.bytes <= self._room:
            shard = self._coming[0]
            if shard.after >= pair:  # whoever reads an earlier one fetches it at once
                if not self._cache.prefetch([(shard.place, shard.receipt)]):
                    return  # too many wait; it is asked for again at the next step
                self._asked.append(shard)
                taken += shard.receipt.bytes
            self._coming.popleft()

    def _one(self, after: int, dataset: int, shard: int) -> _Coming:
        manifest = self._manifests[dataset]
        receipt = manifest.shards[shard]
        return _Coming(after, manifest.folder / receipt.shard, receipt)


def shards_in_use(manifests: tuple[Manifest, ...], window: int) -> int:
    """Return how many shards are read in turn at any time: a window of each data set."""
    return sum(min(window or len(m.shards), len(m.shards)) for m in manifests)


def check_room(manifests: tuple[Manifest, ...], window: int, options: CacheOptions) -> None:
    """See that a cache can hold what is read in turn, and as much again that comes next.

    Raises:
        UserError: if shards would be dropped and fetched again and again.
    """
    needed = _room(manifests, window)
    if needed > options.max_bytes:
        how = f"data.window_shards={window}" if window else "data.window_shards=0: all of them"
        fits = [n for n in _NARROW if _room(manifests, n) < needed]
        narrower = (
            f" or narrow the window (--set data.window_shards={fits[0]} needs "
            f"{_megabytes(_room(manifests, fits[0]))})"
            if fits
            else ""
        )
        raise UserError(
            f"{options.folder}: its limit of {options.max_bytes / 1e6:,.1f} MB is too small for "
            f"the shards that are read in turn ({how}), which need {_megabytes(needed)}; raise "
            f"--shard-cache-size{narrower}"
        )


def _room(manifests: tuple[Manifest, ...], window: int) -> int:
    """Return the bytes that the largest windows and their successors take in a cache."""
    sizes = [sorted((bytes_needed(s) for s in m.shards), reverse=True) for m in manifests]
    in_use = sum(sum(size[: window or None]) for size in sizes)
    return min(sum(map(sum, sizes)), 2 * in_use)


def _megabytes(size: int) -> str:
    """Return a size, rounded up, so that a limit of what is printed suffices."""
    return f"{math.ceil(size / 1e5) / 10:,.1f} MB"
