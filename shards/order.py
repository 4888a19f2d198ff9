"""The training order: arithmetic, not state.

Promise: which pairs stand in global batch b of epoch e depends on the manifests, the weights, the seed and e alone.
Ranks and workers only slice. No pair of a data set comes twice before every pair came once; at the end of every epoch
each data set's share of all draws so far is exact (inside an epoch the data sets are shuffled). Not promised: equal
losses on another number of ranks (sums are rounded in another order).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorat.shards.rng import Draws

ORDER_DTYPE = np.dtype([("dataset", "<i4"), ("shard", "<i4"), ("row", "<i4")])
"""One position of an epoch: data set number, its shard's number, the shard's row."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What the order needs to know of one data set: `rows` are those of each shard."""

    name: str
    weight: int
    rows: tuple[int, ...]


def quotas(weights: Sequence[int], draws: int) -> list[int]:
    """Return how many of the first T = `draws` draws of the run each data set supplies. With cumulative weights W_d
    (shares of the total) it is floor(W_d · T) − floor(W_{d−1} · T), in integers: no drift.
    """
    bounds = [draws * int(w) // sum(weights) for w in np.cumsum([0, *weights])]
    return [high - low for low, high in itertools.pairwise(bounds)]


def epoch_order(pools: Sequence[Pool], seed: int, epoch: int, length: int, window: int = 0) -> NDArray[np.void]:
    """Return the (length,) positions of an epoch, 0-based, as `ORDER_DTYPE`. The pools stand in the recipe's order.
    Rows are shuffled inside windows of so many shards; 0 means all of them. A pool that has no rows, or whose weight
    gives it less than one pair an epoch, is a `ValueError`.
    """
    weights = [pool.weight for pool in pools]
    if min(weights) * length < sum(weights):  # its quota could shrink from one epoch to the next
        raise ValueError(f"an epoch of {length} pairs is too short for weights {weights}")
    first, last = quotas(weights, epoch * length), quotas(weights, (epoch + 1) * length)
    labels = np.repeat(np.arange(len(pools)), [b - a for a, b in zip(first, last, strict=True)])
    labels = labels[Draws("labels", seed, epoch).permutation(length)]
    order = np.zeros(length, dtype=ORDER_DTYPE)
    order["dataset"] = labels
    for number, pool in enumerate(pools):
        mine = labels == number
        order["shard"][mine], order["row"][mine] = _draws(pool, seed, first[number], last[number], window)
    return order


def batch_positions(step: int, batch_size: int, rank: int, world: int) -> range:
    """Return the positions of an epoch that a rank reads at a step; the ranks must divide the batch (`ValueError`)."""
    share, rest = divmod(batch_size, world)
    if rest:
        raise ValueError(f"{world} processes do not divide a batch of {batch_size}")
    start = step * batch_size + rank * share
    return range(start, start + share)


def _draws(pool: Pool, seed: int, first: int, last: int, window: int) -> NDArray[np.int32]:
    """Return the (2, n) shard and row numbers of draws first … last − 1 of one data set over the whole run."""
    total = sum(pool.rows)
    if total == 0:
        raise ValueError(f"{pool.name} has no rows")
    parts = [np.zeros((2, 0), dtype=np.int32)]
    while first < last:
        number, start = divmod(first, total)
        count = min(last - first, total - start)
        parts.append(_part_of_pass(pool, seed, number, window, range(start, start + count)))
        first += count
    return np.concatenate(parts, axis=1)


def _part_of_pass(pool: Pool, seed: int, number: int, window: int, draws: range) -> NDArray[np.int32]:
    """Return the (2, n) shards and rows of n draws of one pass; only windows that hold one of them are shuffled."""
    shards = Draws("shards", seed, pool.name, number).permutation(len(pool.rows))
    rows, step = np.array(pool.rows)[shards], window or len(shards)
    parts, begin = [], 0
    for at in range(0, len(shards), step):
        hot, ends = shards[at : at + step], np.cumsum(rows[at : at + step])
        starts, total = ends - rows[at : at + step], int(ends[-1])
        if begin < draws.stop and begin + total > draws.start:
            shuffle = Draws("rows", seed, pool.name, number, at).permutation(total)
            wanted = shuffle[max(0, draws.start - begin) : draws.stop - begin]
            which = np.searchsorted(ends, wanted, side="right")
            parts.append(np.stack([hot[which], wanted - starts[which]]).astype(np.int32))
        begin += total
    return np.concatenate(parts, axis=1)
