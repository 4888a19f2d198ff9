"""Whether one tracker is better than another, or had luck with the sequences: a paired bootstrap over these."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorat.shards.rng import Draws

DRAWS = 10_000
FEWEST = 6  # sequences from which on a p is given: of five, even a sign test says at least 0.06
_AT_ONCE = 250


class Standing(NamedTuple):
    """How sure a tracker's mean score is."""

    spread: float  # half the width of the interval that 95 % of the draws' means lie in
    p: float | None  # two-sided, that it is as good as the best; None of the best itself, and of few sequences


def standings(scores: NDArray[np.float64]) -> list[Standing | None]:
    """Compare trackers with the one of the highest mean, from (T, N) scores, N at least 1, of the same sequences; one
    with NaN among its scores is not compared: None. Each draw takes N of the sequences with replacement, the same for
    all trackers. p is twice the share of draws in which the best one is not ahead (or is not behind, if that is less).
    The same scores give the same numbers.
    """
    count, random = scores.shape[1], Draws("paired bootstrap")
    means = np.empty((len(scores), DRAWS))
    for first in range(0, DRAWS, _AT_ONCE):
        taken = (random.words(_AT_ONCE * count) % np.uint64(count)).astype(np.int64).reshape(_AT_ONCE, count)
        means[:, first : first + _AT_ONCE] = scores[:, taken].mean(axis=2)
    low, high = np.percentile(means, [2.5, 97.5], axis=1)
    unknown = np.isnan(scores).any(axis=1)
    best = int(np.where(unknown, -1.0, scores.mean(axis=1)).argmax())
    ahead = means[best] - means
    tail = np.minimum((ahead <= 0.0).sum(axis=1), (ahead >= 0.0).sum(axis=1))
    p = np.minimum(1.0, 2.0 * (tail + 1) / (DRAWS + 1))
    sure = [Standing(wide / 2, chance) for wide, chance in zip((high - low).tolist(), p.tolist(), strict=True)]
    sure = [each._replace(p=None) if t == best or count < FEWEST else each for t, each in enumerate(sure)]
    return [None if nothing else each for each, nothing in zip(sure, np.atleast_1d(unknown), strict=True)]
