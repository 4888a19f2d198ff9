"""Where a lost object is sought: in one search region a frame, which goes from place to place over all of the frame.

First, and then in every other frame, it is sought around the last box, as ever, for what was only hidden. Promise: pure
functions; a frame costs what it costs while the object is tracked.
"""

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.track.memory.crops import Box

_WAIT = 20  # frames in which it is sought around the last box alone, where most come back
_MOST = 16  # places, if regions up to twice as wide as the usual one make do with so many
_WIDENINGS = (1.0, 1.5, 2.0)
_STEP = 0.75  # of a region's side from one to the next, so that an object cut by one is whole in the other


def sought(turn: int, box: Box, size: tuple[int, int], factor: float) -> Box | None:
    """Return the box that the search region is cut around in the `turn`-th frame, from 1, of an object that is lost and
    was last tracked in `box`, (4,) xyxy; None where it is the last box. `size` is the frame's (width, height), a
    usual region's side `factor` times the box's.
    """
    turn -= _WAIT
    if turn <= 0 or turn % 2:
        return None
    for widening in _WIDENINGS:
        sides = (box[2:] - box[:2]) * widening
        places = places_of(size, factor * float(np.sqrt(sides.prod())), (box[:2] + box[2:]) / 2)
        if len(places) <= _MOST:
            break
    centre = places[(turn // 2 - 1) % len(places)]
    return np.concatenate([centre - sides / 2, centre + sides / 2])


def places_of(size: tuple[int, int], side: float, near: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centres (K, 2) of regions with a `side` that cover a (width, height) frame, the nearest first."""
    axes = []
    for extent in size:
        count = 1 + max(0, int(np.ceil((extent - side) / (_STEP * side))))
        half = min(side, extent) / 2
        axes.append(np.linspace(half, extent - half, count) if count > 1 else np.array([extent / 2]))
    places = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    return places[np.argsort(np.hypot(*(places - near).T), kind="stable")]
