"""Which pair has which number.

Promise: pair i of a data set is a pure function of (seed, data set, i) and of the cleaned annotations. So any shard can
be built alone, in any order, on any machine.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lorat.prep.trees.base.clip import Clip
from lorat.shards.rng import Draws

DRAWING = 1  # raise it when the same annotations give another pair i, another window, or another refusal of one
MAX_GAP = 100  # frames between template and search, in either direction (published recipe)


class PairDraw(NamedTuple):
    """Two frames of one track, as indices into the cleaned clips."""

    clip: int
    track: int
    template: int
    search: int


def draw_pair(
    clips: Sequence[Clip], name: str, seed: int, number: int, max_gap: int = MAX_GAP, *, causal: bool = False
) -> PairDraw:
    """Draw pair `number` of `name`, ``<dataset>-<split>``, from cleaned clips. Sequence, track and template frame are
    uniform, the search frame is uniform among the other visible frames at most `max_gap` frames away; where there is
    none (a still image, a lone frame) it is the template frame itself. A `causal` search frame is a later one, and the
    template frame is uniform among those that have one, if any.
    """
    draws = Draws("pair", seed, name, number)
    clip = clips[clip_index := draws.below(len(clips))]
    track_index = draws.below(len(clip.tracks))
    frames = np.flatnonzero(clip.tracks[track_index].visible)
    early = np.flatnonzero(np.diff(frames) <= max_gap) if causal else ()
    at = int(early[draws.below(len(early))]) if len(early) else draws.below(len(frames))
    template = int(frames[at])
    low, high = np.searchsorted(frames, [template if causal else template - max_gap, template + max_gap + 1]).tolist()
    others = high - low - 1
    search = template
    if others:
        chosen = low + draws.below(others)
        search = int(frames[chosen + (chosen >= at)])
    return PairDraw(clip_index, track_index, template, search)
