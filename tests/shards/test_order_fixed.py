"""A seed's order is the same for ever: checkpoints hold a position in it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorat.shards.order import Pool, epoch_order
from lorat.shards.rng import Draws


@pytest.mark.parametrize(("window", "digest"), [(0, "4f5013d66ca5d7a5"), (2, "9195043c62fd0e63")])
def test_an_order_is_the_one_of_earlier_releases(window, digest):
    pools = [Pool("a", 2, (5, 0, 3, 400)), Pool("b", 1, (70,))]
    epochs = [epoch_order(pools, 7, epoch, 333, window).tobytes() for epoch in range(4)]
    assert hashlib.sha256(b"".join(epochs)).hexdigest()[:16] == digest


@given(st.lists(st.integers(0, 5), max_size=40))
def test_a_permutation_is_the_stable_order_of_its_words(words):
    draws = Draws("x")
    draws.words = lambda n: np.array(words, np.uint64)
    expected = np.argsort(np.array(words, np.uint64), kind="stable")
    found = draws.permutation(len(words))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=7).filter(any),
    st.integers(0, 3),
    st.integers(1, 9),
)
def test_an_epoch_is_the_same_part_of_the_run_however_long_it_is(rows, window, length):
    pool = Pool("a", 1, tuple(rows))
    whole = epoch_order([pool], 5, 0, 6 * length, window)
    for epoch in range(6):
        part = epoch_order([pool], 5, epoch, length, window)
        np.testing.assert_array_equal(part, whole[epoch * length : (epoch + 1) * length])
