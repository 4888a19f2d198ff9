"""Whether a target is tracked, unsure or lost: judged from its scores, frame after frame.

Promise: a judgement is a pure function of the scores so far, of this target alone; it costs no look at an image.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from lorat.evaluate.results.files import State


@dataclass(frozen=True, slots=True)
class Judged:
    """What was said of a target, and what the next judgement rests on."""

    state: State = "tracked"
    low: int = 0  # frames in a row with a score below the judge's `lost`
    since: int = 0  # frames in a row that it is lost


@dataclass(frozen=True, slots=True)
class Judge:
    """The thresholds, all of them. Scores are in [0, 1]."""

    unsure: float = 0.5  # below it a frame alone says little
    lost: float = 0.3  # below it for `patience` frames in a row, the object is lost
    patience: int = 3
    found: float = 0.5  # a lost object is found by one frame at or above it

    def after(self, past: Judged, score: float) -> Judged:
        """Return the judgement of the frame after `past`; one without a score (NaN) leaves it as it is."""
        if np.isnan(score):
            return past
        low = past.low + 1 if score < self.lost else 0
        if low >= self.patience or (past.state == "lost" and score < self.found):
            return Judged("lost", low, past.since + 1)
        return Judged("unsure" if score < self.unsure else "tracked", low)

    def states(self, scores: Iterable[float]) -> list[State]:
        """Return the state of each frame of a sequence from all of its scores, the first frame's 1."""
        return [judged.state for judged in accumulate(scores, self.after, initial=Judged())][1:]
