"""Which frames make the sample of which number: a pair, or a tuple of a tracker that remembers.

Promise: sample i of a data set is a pure function of (seed, data set, i), the sampler, its options and the cleaned
annotations. So any shard can be built alone, in any order, on any machine.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.clip import Clip
from lorat.shards.rng import Draws
from lorat.shards.sample import SHAPES, Sampler

DRAWING = 1  # raise it when the same annotations give another sample i, another window, or another refusal of one
MAX_GAPS: dict[Sampler, int] = {"pair": 100, "spmtrack": 200, "loratv2": 100}
"""Frames between a template and the frame that others are drawn around, in either direction (published recipes)."""
_SEARCH_GAP, _WIDER, _RETRIES = 400, 5, 20  # of SPMTrack's sampler: frames, frames a failure, failures

Frames = tuple[int, ...]


class SampleDraw(NamedTuple):
    """Frames of one track, as indices into the cleaned clips; some may be the same."""

    clip: int
    track: int
    templates: Frames
    searches: Frames


class _Rule(Protocol):
    """How a sampler draws templates and search frames from the visible `frames` of a track, ascending, (n,)."""

    def __call__(
        self, frames: NDArray[np.int64], draws: Draws, max_gap: int, *, causal: bool
    ) -> tuple[Frames, Frames]: ...


def draw_sample(
    clips: Sequence[Clip],
    name: str,
    seed: int,
    number: int,
    sampler: Sampler = "pair",
    max_gap: int | None = None,
    *,
    causal: bool = False,
) -> SampleDraw:
    """Draw sample `number` of `name`, ``<dataset>-<split>``, from cleaned clips. Sequence and track are uniform; for
    the frames see the samplers below. Without a `max_gap` it is the published one. No search frame of a `causal` sample
    is before one of its templates.
    """
    draws = Draws("pair", seed, name, number)
    clip = clips[clip_index := draws.below(len(clips))]
    track_index = draws.below(len(clip.tracks))
    frames = np.flatnonzero(clip.tracks[track_index].visible)
    gap = max_gap or MAX_GAPS[sampler]
    return SampleDraw(clip_index, track_index, *_RULES[sampler](frames, draws, gap, causal=causal))


def _pair(frames: NDArray[np.int64], draws: Draws, max_gap: int, *, causal: bool) -> tuple[Frames, Frames]:
    """Draw the template frame uniformly, and the search frame uniformly among the others at most `max_gap` frames away;
    where there is none (a still image, a lone frame) it is the template frame itself. A causal search frame is a later
    one, and the template frame is uniform among those that have one, if any.
    """
    early = np.flatnonzero(np.diff(frames) <= max_gap) if causal else ()
    at = int(early[draws.below(len(early))]) if len(early) else draws.below(len(frames))
    template = int(frames[at])
    low, high = np.searchsorted(frames, [template if causal else template - max_gap, template + max_gap + 1]).tolist()
    others = high - low - 1
    search = template
    if others:
        chosen = low + draws.below(others)
        search = int(frames[chosen + (chosen >= at)])
    return (template,), (search,)


def _loratv2(frames: NDArray[np.int64], draws: Draws, max_gap: int, *, causal: bool) -> tuple[Frames, Frames]:
    """Draw the pair of the same number as search frames, the dynamic reference and the frame that is tracked, and a
    template uniformly among all other frames than the reference, or, if causal, all before it; where there is none, it
    is the reference frame itself (LoRATv2's ``increased_difficulty``).
    """
    (reference,), (search,) = _pair(frames, draws, max_gap, causal=causal)
    others = frames[frames < reference] if causal else frames[frames != reference]
    return (_any(others, draws) if len(others) else reference,), (reference, search)


def _spmtrack(frames: NDArray[np.int64], draws: Draws, max_gap: int, *, causal: bool) -> tuple[Frames, Frames]:
    """Draw SPMTrack's interval tuple, monotone in time: two frames with replacement within `max_gap` of one that is
    drawn first, and two with replacement within 400 frames before or after these three; forwards or, unless causal,
    backwards, the first three are templates. Where both sides have less than two frames the gap grows; where that does
    not help either, five frames are drawn from all, with replacement (the published sampler would not end, or stop the
    training, there).
    """
    templates, searches = SHAPES["spmtrack"]
    drawn = list[int]()
    for _ in range(_RETRIES if len(frames) > 1 else 0):
        first = _any(frames, draws)
        near = frames[(np.abs(frames - first) <= max_gap) & (frames != first)]
        if len(near) < templates:
            continue
        chosen = [first, *(_any(near, draws) for _ in range(templates - 1))]
        low, high = min(chosen), max(chosen)
        before = frames[(frames >= low - _SEARCH_GAP) & (frames < low)]
        after = frames[(frames > high) & (frames <= high + _SEARCH_GAP)]
        if sides := [side for side in (before, after) if len(side) >= searches]:
            side = sides[draws.below(len(sides))]
            drawn = chosen + [_any(side, draws) for _ in range(searches)]
            break
        max_gap += _WIDER
    drawn = sorted(drawn or [_any(frames, draws) for _ in range(templates + searches)])
    if not causal and draws.below(2):
        drawn.reverse()
    return tuple(drawn[:templates]), tuple(drawn[templates:])


def _any(frames: NDArray[np.int64], draws: Draws) -> int:
    return int(frames[draws.below(len(frames))])


_RULES: dict[Sampler, _Rule] = {"pair": _pair, "spmtrack": _spmtrack, "loratv2": _loratv2}
