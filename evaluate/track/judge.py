"""Whether a target is tracked, unsure or lost: judged from its scores, frame after frame.

A score is measured by the target's usual one, since networks and objects differ in theirs. Promise: a judgement is a
pure function of the scores so far, of this target alone; it costs no look at an image.
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
    usual: float = 0.0  # score while it is tracked: a mean over `seen` frames, the first with its given box not one
    seen: int = 0
    low: int = 0  # frames in a row with a score that speaks for lost
    since: int = 0  # frames in a row that it is lost


@dataclass(frozen=True, slots=True)
class Judge:
    """The thresholds, all of them: shares of the target's usual score."""

    unsure: float = 0.85  # below it a frame is unsure
    lost: float = 0.75  # below it for `patience` frames in a row, the object is lost
    patience: int = 2
    found: float = 0.9  # a lost object is found by one frame at or above it
    memory: int = 30  # frames that the usual score is a mean of; later ones push earlier ones out
    least: float = 0.3  # score; a lower usual one counts as this

    def after(self, past: Judged, score: float) -> Judged:
        """Return the judgement of the frame after `past`, with a score in [0, 1]; one without (NaN) changes nothing."""
        if np.isnan(score):
            return past
        share = score / max(past.usual if past.seen else score, self.least)
        low = past.low + 1 if share < self.lost else 0
        if low >= self.patience or (past.state == "lost" and share < self.found):
            return Judged("lost", past.usual, past.seen, low, past.since + 1)
        usual, seen = past.usual, past.seen
        if not low:
            seen = min(seen + 1, self.memory)
            usual += (score - usual) / seen
        return Judged("unsure" if share < self.unsure else "tracked", usual, seen, low)

    def states(self, scores: Iterable[float]) -> list[State]:
        """Return the state of each frame of a sequence from the scores of all after the first, whose box is given."""
        return [judged.state for judged in accumulate(scores, self.after, initial=Judged())]
