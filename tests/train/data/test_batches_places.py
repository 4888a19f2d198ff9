"""Which pairs stand where: the same on any number of ranks, from any step on; fetched in time."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.shards.base.errors import UserError
from lorat.shards.base.options import parse_bytes
from lorat.shards.cache.cache import CacheOptions
from lorat.shards.cache.folder import bytes_needed
from lorat.shards.manifest import Manifest, Receipt
from lorat.shards.order import ORDER_DTYPE, Pool, epoch_order
from lorat.train.data import places as ahead
from lorat.train.data.places import Ahead, Place, Source, Steps, check_room, shards_in_use


def manifest(name: str, rows: tuple[int, ...], size: int = 100) -> Manifest:
    receipts, first = [], 0
    for number, n in enumerate(rows):
        receipts.append(Receipt(f"{name}-{number}", first, n, n, size, f"{number:064x}", "", ""))
        first += n
    dataset, split = name.split("-")
    return Manifest(dataset, split, {}, tuple(receipts), Path("/nowhere") / name)


POOLS = (manifest("a-train", (7, 5, 9, 3)), manifest("b-train", (11, 2)))


@st.composite
def runs(draw, source: Source) -> tuple[Source, int]:
    """A run with any batch size, length, weights and window, and a step of it."""
    batch = draw(st.sampled_from([6, 8, 12]))
    steps, epochs = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    run = replace(
        source,
        manifests=POOLS,
        weights=tuple(draw(st.integers(1, 5)) for _ in POOLS),
        seed=draw(st.integers(0, 99)),
        batch_size=batch,
        pairs_per_epoch=batch * steps,
        epochs=epochs,
        window_shards=draw(st.integers(0, 3)),
    )
    return run, draw(st.integers(0, steps * epochs - 1))


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_ranks_together_read_the_order_from_any_step_on(source, data):
    run, first = data.draw(runs(source))
    world = data.draw(st.sampled_from([n for n in range(1, 13) if run.batch_size % n == 0]))
    pools = [Pool(m.name, w, tuple(s.rows for s in m.shards)) for m, w in zip(run.manifests, run.weights, strict=True)]
    whole = [
        Place(epoch, position, *(int(v) for v in row))
        for epoch in range(run.epochs)
        for position, row in enumerate(epoch_order(pools, run.seed, epoch, run.pairs_per_epoch, run.window_shards))
    ]
    ranks = [list(Steps(run, first, rank, world)) for rank in range(world)]
    assert {len(steps) for steps in ranks} == {len(Steps(run, first, 0, world))}
    together = [place for step in zip(*ranks, strict=True) for part in step for place in part]
    assert together == whole[first * run.batch_size :]


class Recorder:
    """A cache that notes what it is asked for."""

    asked: list[str]

    def __init__(self, options: CacheOptions) -> None:
        self.asked = []

    def prefetch(self, shards) -> int:
        self.asked += [place.name for place, _ in shards]
        return len(shards)


@pytest.fixture
def recorder(monkeypatch) -> type[Recorder]:
    monkeypatch.setattr(ahead, "ShardCache", Recorder)
    return Recorder


def order_of(*shards: int) -> np.ndarray:
    order = np.zeros(len(shards), dtype=ORDER_DTYPE)
    order["shard"] = shards
    return order


def test_shards_are_asked_for_in_the_order_of_their_first_use_while_they_fit(recorder):
    plan = Ahead(POOLS, CacheOptions(Path("/nowhere"), 400))  # four shards of 100 bytes
    plan.begin(order_of(2, 2, 0, 2, 0, 3, 3, 1, 0))
    assert plan._cache.asked == []
    for pair, asked in ((0, [2, 0]), (1, [2, 0, 3]), (2, [2, 0, 3]), (6, [2, 0, 3, 1])):
        plan.reach(pair)
        assert plan._cache.asked == [f"a-train-{shard}" for shard in asked]


def test_what_found_no_place_in_the_queue_is_asked_for_again(recorder, monkeypatch):
    plan = Ahead(POOLS, CacheOptions(Path("/nowhere"), 10_000))
    plan.begin(order_of(2, 0, 1, 3, 3, 3))
    take, full = recorder.prefetch, [False, False, True, False]
    monkeypatch.setattr(recorder, "prefetch", lambda cache, shards: 0 if full.pop(0) else take(cache, shards))
    plan.reach(0)
    assert plan._cache.asked == ["a-train-2", "a-train-0"]
    full += [False] * 9
    plan.reach(1)
    assert plan._cache.asked == ["a-train-2", "a-train-0", "a-train-1", "a-train-3"]


def test_what_was_passed_before_there_was_room_is_not_asked_for(recorder):
    plan = Ahead(POOLS, CacheOptions(Path("/nowhere"), 200))
    plan.begin(order_of(0, 1, 2, 3, 3))
    plan.reach(0)
    plan.reach(4)
    assert plan._cache.asked == ["a-train-0"]


def test_every_rank_asks_for_its_own_shards_epoch_by_epoch(source, recorder, monkeypatch):
    made = []
    monkeypatch.setattr(ahead, "ShardCache", lambda options: made.append(Recorder(options)) or made[-1])
    cache = CacheOptions(Path("/nowhere"), 10_000)
    run = replace(source, manifests=POOLS, cache=cache, batch_size=6, pairs_per_epoch=18)
    for rank in range(3):
        places = [place for step in Steps(run, 1, rank, 3) for place in step]
        for epoch in range(3):
            used = {POOLS[p.dataset].shards[p.shard].shard for p in places if p.epoch == epoch}
            asked = made[rank].asked[: len(used)]
            del made[rank].asked[: len(used)]
            assert set(asked) == used and len(asked) == len(used)
        assert made[rank].asked == []


def room(*shards: Receipt) -> CacheOptions:
    return CacheOptions(Path("/nowhere"), sum(map(bytes_needed, shards)))


def test_a_cache_that_cannot_hold_what_is_read_in_turn_is_refused_with_a_remedy():
    everything = room(*POOLS[0].shards, *POOLS[1].shards)
    check_room(POOLS, 0, everything)
    assert shards_in_use(POOLS, 0) == 6 and shards_in_use(POOLS, 1) == 2
    with pytest.raises(UserError, match=r"data\.window_shards=0.*--shard-cache-size or narrow"):
        check_room(POOLS, 0, replace(everything, max_bytes=everything.max_bytes - 1))
    largest = POOLS[0].shards[2], POOLS[1].shards[0]
    narrow = room(*largest, *largest)
    check_room(POOLS, 1, narrow)
    with pytest.raises(UserError, match=r"data\.window_shards=2\).*--set data\.window_shards=1 "):
        check_room(POOLS, 2, narrow)
    with pytest.raises(UserError, match=r"raise --shard-cache-size$"):  # none is narrower
        check_room(POOLS, 1, replace(narrow, max_bytes=narrow.max_bytes - 1))


@pytest.mark.parametrize("size", [70, 70_000, 123_456_789])
def test_the_size_that_is_named_suffices(size):
    pools = (manifest("a-train", (5,) * 20, size),)
    with pytest.raises(UserError) as refused:
        check_room(pools, 0, CacheOptions(Path("/nowhere"), 9))
    named = re.findall(r"needs? ([\d,.]+ MB)", refused.value.message)
    for window, text in zip((0, 8), named, strict=True):
        enough = parse_bytes(text.replace(",", ""))
        check_room(pools, window, CacheOptions(Path("/nowhere"), enough))
