"""The training order: exact shares, every pair once before any twice, the same for any slicing."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.shards.order import Pool, batch_positions, epoch_order, quotas

POOLS = [Pool("a", 2, (5, 3, 4)), Pool("b", 1, (7,))]


def rows(order, dataset):
    mine = order[order["dataset"] == dataset]
    return list(zip(mine["shard"].tolist(), mine["row"].tolist(), strict=True))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 10_000))
def test_shares_are_exact_at_every_draw(weights, draws):
    counts = quotas(weights, draws)
    assert sum(counts) == draws
    for weight, count in zip(weights, counts, strict=True):
        assert abs(count - draws * weight / sum(weights)) < 1
    later = quotas(weights, draws + sum(weights))
    assert all(b >= a for a, b in zip(counts, later, strict=True))


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(36, 80), st.integers(0, 3), st.integers(0, 1000)
)
def test_shares_are_exact_after_every_epoch(weights, length, window, seed):
    pools = [Pool(f"set{n}", w, (3, 4, n + 1)) for n, w in enumerate(weights)]
    drawn = np.zeros(len(pools), dtype=int)
    for epoch in range(4):
        order = epoch_order(pools, seed, epoch, length, window)
        drawn += np.bincount(order["dataset"], minlength=len(pools))
        assert drawn.tolist() == quotas(weights, (epoch + 1) * length)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 9), min_size=1, max_size=6)), min_size=1, max_size=4),
    st.integers(0, 4),
    st.integers(0, 1000),
)
def test_no_pair_comes_twice_before_every_pair_of_its_data_set_came_once(sets, window, seed):
    pools = [Pool(f"set{n}", weight, tuple(shards)) for n, (weight, shards) in enumerate(sets)]
    draws: list[list] = [[] for _ in pools]
    for epoch in range(5):
        order = epoch_order(pools, seed, epoch, 36, window)
        for number, mine in enumerate(draws):
            mine += rows(order, number)
    for pool, mine in zip(pools, draws, strict=True):
        total = sum(pool.rows)
        for at in range(0, len(mine), total):
            assert len(set(mine[at : at + total])) == len(mine[at : at + total])


def test_epochs_go_on_where_the_last_one_ended():
    draws = [pair for epoch in range(3) for pair in rows(epoch_order(POOLS, 3, epoch, 6), 0)]
    assert sorted(draws) == [(s, r) for s, n in enumerate((5, 3, 4)) for r in range(n)]


def test_an_epoch_too_short_for_a_weight_is_refused():
    pools = [Pool(name, weight, (9,)) for name, weight in (("a", 5), ("b", 1), ("c", 5))]
    assert len(epoch_order(pools, 0, 0, 11)) == 11
    with pytest.raises(ValueError, match="10 pairs is too short"):
        epoch_order(pools, 0, 0, 10)


def test_seeds_and_passes_give_other_orders():
    first = epoch_order(POOLS, 1, 0, 18)
    assert (first != epoch_order(POOLS, 2, 0, 18)).any()
    assert (first != epoch_order(POOLS, 1, 1, 18)).any()
    np.testing.assert_array_equal(first, epoch_order(POOLS, 1, 0, 18))


def test_a_window_keeps_few_shards_hot():
    pool = Pool("a", 1, (10,) * 8)
    order = epoch_order([pool], 0, 0, 80, window=2)
    for at in range(0, 80, 20):
        assert len(set(order["shard"][at : at + 20].tolist())) == 2


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_ranks_slice_the_same_batches(world):
    for step in range(3):
        together = [p for r in range(world) for p in batch_positions(step, 16, r, world)]
        assert together == list(range(step * 16, (step + 1) * 16))


def test_ranks_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match="3 processes"):
        batch_positions(0, 16, 0, 3)


@pytest.mark.parametrize(("window", "digest"), [(0, "4f5013d66ca5d7a5"), (2, "9195043c62fd0e63")])
def test_an_order_is_the_one_of_earlier_releases(window, digest):
    """For ever: checkpoints hold a position in it."""
    pools = [Pool("a", 2, (5, 0, 3, 400)), Pool("b", 1, (70,))]
    epochs = [epoch_order(pools, 7, epoch, 333, window).tobytes() for epoch in range(4)]
    assert hashlib.sha256(b"".join(epochs)).hexdigest()[:16] == digest


@given(st.lists(st.integers(0, 6), min_size=1, max_size=7).filter(any), st.integers(0, 3), st.integers(1, 9))
def test_an_epoch_is_the_same_part_of_the_run_however_long_it_is(rows, window, length):
    pool = Pool("a", 1, tuple(rows))
    whole = epoch_order([pool], 5, 0, 6 * length, window)
    for epoch in range(6):
        part = epoch_order([pool], 5, epoch, length, window)
        np.testing.assert_array_equal(part, whole[epoch * length : (epoch + 1) * length])
