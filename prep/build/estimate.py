"""What a build will cost, from a sample of its pairs that are really cut.

Sizes scatter by about half their mean, so that 32 pairs tell bytes and minutes to some 10 %.
"""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import zstandard

from lorat.prep.build.plan import Plan
from lorat.prep.build.shard import Skip, make_sample
from lorat.shards.base.errors import UserError
from lorat.shards.base.process import one_core
from lorat.shards.base.storage import Location
from lorat.shards.sample import to_members
from lorat.shards.tar import pack_members
from lorat.shards.writer import INDEX_DTYPE, LEVEL

_SAMPLE = 32
_SECONDS = 10.0
_LEAST = 4  # pairs that are cut however long they take
_SHARE = 8  # no more than one pair in so many is cut twice
_SURELY = 0.8  # of the bytes estimated are needed even where the sample was unlucky


class Cost(NamedTuple):
    """What a pair costs on average; seconds of one process."""

    sampled: int
    bytes: float
    seconds: float


class Estimate(NamedTuple):
    """What the build of one data set is expected to take."""

    name: str
    pairs: int  # of the whole pool
    there: int  # of them, built already
    to_build: int  # of them, this run's
    bytes: int  # that the run adds
    lacking: int  # bytes that all parts add
    bytes_per_pair: float
    seconds: float  # of the run, on all its processes
    sampled: int


def measure(plan: Plan, shards: Sequence[int], seconds: float | None = _SECONDS) -> Cost:
    """Cut a sample of the pairs of some shards, evenly spread, and return what one costs; a skipped one has no bytes.
    It stops after so many `seconds`; None: never, so that sizes do not depend on the machine, where they decide how
    many pairs are built. OpenCV gets one thread, as in a worker.
    """
    size, total = plan.options.shard_pairs, plan.pairs_in(shards)
    count = min(_SAMPLE, -(-total // _SHARE))
    places = [total * step // count for step in range(count)]
    pairs = [shards[at // size] * size + at % size for at in places]
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    stored = done = 0
    with one_core():
        if pairs:
            make_sample(plan, pairs[0])  # what the first pair alone pays for is not timed
        begin = time.perf_counter()
        for number in pairs:
            made = make_sample(plan, number)
            if not isinstance(made, Skip):
                stored += len(compressor.compress(pack_members(to_members(made[0])))) + INDEX_DTYPE.itemsize
            done += 1
            if seconds is not None and time.perf_counter() - begin > seconds and done >= _LEAST:
                break
        spent = time.perf_counter() - begin
    return Cost(done, stored / max(1, done), spent / max(1, done))


def estimate(plan: Plan, missing: Sequence[int], slots: int, cost: Cost | None = None) -> Estimate:
    """Estimate a run of `slots` jobs at once; the cost of a pair is measured where it is not known.
    `missing` are the shards that are not there, ascending, over all parts.
    """
    sampled, size, seconds = cost or measure(plan, missing)
    mine = sorted(set(missing) & set(plan.mine()))
    pairs, lacking = plan.pairs_in(mine), plan.pairs_in(missing)
    # Shards are not divided: three of them keep one of two processes busy with two.
    longest = round(plan.pairs_in(mine[:: max(1, slots)]) * seconds, 1)
    added, there = round(pairs * size), plan.pairs - lacking
    return Estimate(plan.name, plan.pairs, there, pairs, added, round(lacking * size), round(size, 1), longest, sampled)


def pairs_within(budget: int, wanted: Sequence[tuple[int, int, float]]) -> list[int]:
    """Divide a budget of bytes among data sets, in proportion to the pairs each gets by default.
    `wanted` are its default pairs, the most that are worth drawing, and the bytes a pair. Each gets at least 1 pair and
    at most that; what this leaves of the budget is left.
    """
    whole = sum(default * cost for default, _, cost in wanted)
    scale = budget / whole if whole > 0 else 1.0
    return [min(most, max(1, int(default * scale))) for default, most, _ in wanted]


def free_bytes(shards: Location) -> int | None:
    """Return the free space where shards will go; None where it cannot be known (a store)."""
    if not isinstance(shards, Path):
        return None
    return shutil.disk_usage(next(folder for folder in (shards, *shards.absolute().parents) if folder.is_dir())).free


def check_room(needed: int, shards: Location) -> str | None:
    """Return a warning where a disk may be too small; a `UserError` where it clearly is."""
    free = free_bytes(shards)
    if free is None or needed <= free * 0.9:
        return None
    room = f"{shards}: {free / 1e9:,.1f} GB are free, the build needs about {needed / 1e9:,.1f} GB"
    if needed * _SURELY <= free:
        return f"{room}, which may not fit"
    remedy = "free space, build into another --shards, ask for fewer --pairs or a --budget, or go on with --force"
    raise UserError(f"{room}; {remedy}")
