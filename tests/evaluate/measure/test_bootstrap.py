"""Whether a difference between trackers is real."""

import numpy as np
import pytest

from lorat.evaluate.measure.bootstrap import standings


def scores_of(seed, sequences=60):
    return np.random.default_rng(seed).uniform(0.2, 0.9, sequences)


def test_equal_trackers_do_not_differ_and_a_far_worse_one_does():
    first = scores_of(0)
    same, best, worse = standings(np.array([first, first + 1e-3, first - 0.3]))
    assert best.p is None and worse.p == pytest.approx(2 / 10_001)
    assert same.p == pytest.approx(2 / 10_001), "a thousandth in every sequence is a difference, however small"
    best, same = standings(np.array([first, first]))
    assert (best.p, same.p) == (None, 1.0)


def test_pairs_of_sequences_count_and_not_the_spread_of_their_scores():
    first, second = scores_of(1), scores_of(2)
    close = first - np.random.default_rng(3).normal(0.01, 0.02, len(first))
    best, paired = standings(np.array([first, close]))
    assert paired.p is not None and paired.p < 0.01 and best.spread > 3 * 0.01
    other = second - second.mean() + close.mean()
    assert (unpaired := standings(np.array([first, other]))[1].p) is not None and unpaired > 0.3


def test_the_spread_is_that_of_the_normal_interval_of_a_mean():
    scores = scores_of(4, 280)
    (only,) = standings(scores[None])
    assert only.spread == pytest.approx(1.96 * scores.std() / np.sqrt(280), rel=0.05) and only.p is None


def test_where_there_is_no_difference_p_is_small_as_seldom_as_it_says():
    p = [standings(np.array([scores_of(n), scores_of(n + 1000)])) for n in range(40)]
    small = sum(each.p is not None and each.p < 0.05 for pair in p for each in pair)
    assert small <= 6


def test_few_sequences_have_no_p_and_the_same_scores_the_same_numbers():
    pair = np.array([scores_of(5, 5), scores_of(6, 5)])
    assert [each.p for each in standings(pair)] == [None, None]
    many = np.array([scores_of(5), scores_of(6)])
    assert standings(many) == standings(many)
