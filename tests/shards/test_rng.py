"""Draws depend on their key alone and are uniform."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorat.shards.rng import Draws


def test_draws_of_a_key_never_change():
    draws = Draws("pair", 42, "lasot-train", 7)
    assert [draws.below(1000) for _ in range(5)] == PINNED
    assert Draws("pair", 42, "lasot-train", 7).permutation(6).tolist() == PINNED_PERMUTATION


PINNED = [15, 154, 120, 187, 562]
PINNED_PERMUTATION = [2, 0, 1, 4, 5, 3]


def test_neighbouring_keys_are_unrelated():
    first = Draws("a", 1).uniforms(4000)
    for other in (Draws("a", 2), Draws("a", "1"), Draws("a1"), Draws("a", 1, 0)):
        assert abs(np.corrcoef(first, other.uniforms(4000))[0, 1]) < 0.06


@given(st.integers(1, 50), st.integers())
def test_below_stays_below_and_reaches_every_value(n, key):
    draws = Draws(key)
    values = [draws.below(n) for _ in range(40 * n if n < 6 else n)]
    assert all(0 <= v < n for v in values)
    if n < 6:
        assert set(values) == set(range(n))


def test_below_refuses_an_empty_range():
    with pytest.raises(ValueError, match="positive"):
        Draws(0).below(0)


@given(st.integers(0, 200), st.integers())
def test_permutations_hold_every_number_once(n, key):
    assert sorted(Draws(key).permutation(n).tolist()) == list(range(n))


def test_floats_fill_their_range_evenly():
    values = Draws("floats").uniforms(20000)
    assert values.min() >= 0.0 and values.max() < 1.0
    counts, _ = np.histogram(values, bins=10, range=(0, 1))
    assert counts.min() > 1800 and counts.max() < 2200
    one_by_one = Draws("floats")
    assert all(2.0 <= one_by_one.uniform(2.0, 5.0) < 5.0 for _ in range(100))


@given(st.lists(st.integers(0, 5), max_size=40))
def test_a_permutation_is_the_stable_order_of_its_words(words):
    draws = Draws("x")
    draws.words = lambda n: np.array(words, np.uint64)
    expected = np.argsort(np.array(words, np.uint64), kind="stable")
    found = draws.permutation(len(words))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)
