"""How things in the toy world move: paths, sizes and turns over T frames, pure functions of their draws.

Objects follow smooth paths through random points of the frame at a speed that is a share of their own side: mostly 0.02
to 0.3 sides a frame, with bursts of about one. Sizes of frames are (width, height).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorat.shards.rng import Draws

Path2D = NDArray[np.floating]
_STEPS = 24  # points a path segment is sampled with


@dataclass(frozen=True, eq=False, slots=True)
class Motion:
    """Where a thing is in each of T frames."""

    centres: Path2D  # (T, 2) x and y in continuous frame pixels
    halves: NDArray[np.float64]  # (T, 2) half extents along the thing's own axes, pixels
    angles: NDArray[np.float64]  # (T,) turn in radians, from x towards y

    def matrix(self, t: int) -> NDArray[np.float64]:
        """Return the (2, 2) map from the thing's unit square to frame pixels."""
        cosine, sine = np.cos(self.angles[t]), np.sin(self.angles[t])
        return np.array([[cosine, -sine], [sine, cosine]]) * self.halves[t]

    def place(self, points: Path2D, t: int) -> Path2D:
        """Map points (P, 2) of the thing's unit square to frame pixels."""
        return points @ self.matrix(t).T + self.centres[t]

    def velocity(self, t: int) -> NDArray[np.float64]:
        """Return the (2,) motion in pixels a frame around frame t."""
        before, after = max(t - 1, 0), min(t + 1, len(self.centres) - 1)
        return (self.centres[after] - self.centres[before]) / max(after - before, 1)


def drift(draws: Draws, length: int, period: float) -> NDArray[np.float64]:
    """Return a smooth curve in [-1, 1], (length,): a cubic B-spline, a random knot a period."""
    knots = draws.uniforms(int(length / period) + 5) * 2 - 1
    at = np.arange(length) / period + draws.uniform()
    index = at.astype(np.int64)
    f = at - index
    weights = ((1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3)
    return np.stack([w * knots[index + k] for k, w in enumerate(weights)]).sum(0) / 6


def wander(draws: Draws, size: tuple[int, int], length: int, side: float, leaves: bool = False) -> Motion:
    """Plan an object that is whole in the first frame, wanders over much of it and perhaps `leaves` it for a while.
    `side` is the geometric mean of its sides, in pixels.
    """
    halves, angles = _pose(draws, length, side)
    reach = float(np.hypot(halves[0, 0], halves[0, 1])) + 1
    # Calm stretches and short bursts.
    speeds = draws.uniform(0.06, 0.18) * (1 + 0.8 * drift(draws, length, 8))
    for _ in range(draws.below(1 + length // 20)):
        at, frames = draws.below(length), 2 + draws.below(3)
        speeds[at : at + frames] = draws.uniform(0.5, 0.9)
    travelled = np.concatenate([[0.0], np.cumsum(speeds * side)[:-1]])
    points = _waypoints(draws, size, reach, float(travelled[-1]))
    if leaves:
        at = 1 + draws.below(2)
        points[at:at] = _outing(draws, size, float(halves.max()) * 1.5)
    dense = _curve(np.array(points))
    distance = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(dense, axis=0).T))])
    centres = np.stack([np.interp(travelled, distance, axis) for axis in dense.T], 1)
    return Motion(centres, halves, angles)


def still(draws: Draws, size: tuple[int, int], side: float) -> Motion:
    """Plan an object of a single picture; a part of it may lie outside the frame."""
    halves, angles = _pose(draws, 1, side)
    centre = [draws.uniform(side * 0.3, max(extent - side * 0.3, side * 0.3 + 1)) for extent in size]
    return Motion(np.array([centre]), halves, angles)


def crossing(draws: Draws, target: Motion, size: tuple[int, int]) -> Motion:
    """Plan a bar or slab that passes straight before the target once, past the first third, from well beside it."""
    length = len(target.centres)
    meet = int(length * draws.uniform(0.35, 0.85))
    extent = float(target.halves.max()) * 2
    wide = extent * draws.uniform(0.35, 0.75)
    tall = float(max(size)) if draws.uniform() < 0.5 else extent * draws.uniform(0.7, 1.2)
    turn = draws.uniform(-0.5, 0.5) + (np.pi / 2 if draws.uniform() < 0.4 else 0.0)
    across = np.array([np.cos(turn), np.sin(turn)])
    # The slab must be clear of the target in the first frame, from whichever side it comes.
    start = float((target.centres[0] - target.centres[meet]) @ across)
    clear = (extent + wide * 2) * draws.uniform(0.8, 1.4)
    way = -1.0 if start > 0 else 1.0
    speed = max(clear - abs(start) * 0.5, extent * 0.4) / meet
    centres = target.centres[meet] + np.arange(-meet, length - meet)[:, None] * across * speed * way
    return Motion(centres, np.tile([wide, tall], (length, 1)), np.full(length, turn))


def pan(draws: Draws, room: tuple[int, int], length: int) -> Path2D:
    """Plan the ground's motion: (length, 2) offsets within [0, room] pixels."""
    period, share = draws.uniform(14, 40), draws.uniform(0.1, 1.0)
    return np.stack([(drift(draws, length, period) * share + 1) / 2 * extent for extent in room], 1)


def _pose(draws: Draws, length: int, side: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return half extents (length, 2) and angles (length,)."""
    aspect = 0.62 * (1.6 / 0.62) ** draws.uniform()
    scale = 1 + draws.uniform(0.0, 0.5) * drift(draws, length, 22)
    squeeze = 1 + draws.uniform(0.0, 0.25) * drift(draws, length, 14)
    root = np.sqrt(aspect * squeeze)
    halves = np.stack([side * scale * root, side * scale / root], 1) / 2
    wobble = draws.uniform(0.0, 0.7) * drift(draws, length, 16)
    spin = draws.uniform(-0.05, 0.05) if draws.uniform() < 0.4 else 0.0
    return halves, draws.uniform(-0.6, 0.6) + wobble + spin * np.arange(length)


def _waypoints(draws: Draws, size: tuple[int, int], reach: float, travel: float) -> list[tuple[float, float]]:
    """Return points at least a third of the frame apart that make a path of length `travel`."""
    least = min(size) / 3
    points: list[tuple[float, float]] = []
    length = 0.0
    # One point more than the travel needs, so that the path does not end early.
    while length <= travel + max(size) or len(points) < 4:
        # A later point may lie where the object is cut a little; the first must show it whole.
        margins = [min(reach * 0.6 if points else reach, extent / 2) for extent in size]
        for _ in range(16):
            x, y = (draws.uniform(edge, extent - edge) for edge, extent in zip(margins, size, strict=True))
            step = float(np.hypot(x - points[-1][0], y - points[-1][1])) if points else 0.0
            if step >= least or not points:
                break
        length += step
        points.append((x, y))
    return points


def _outing(draws: Draws, size: tuple[int, int], reach: float) -> list[tuple[float, float]]:
    """Return two points beyond one edge of the frame, by `reach` pixels."""
    edge = draws.below(4)
    along, deep = size if edge < 2 else size[::-1]
    first = along * draws.uniform(0.2, 0.8)
    second = min(max(first + along * draws.uniform(-0.3, 0.3), 0.1 * along), 0.9 * along)
    beyond = -reach if edge % 2 == 0 else deep + reach
    pair = [(first, beyond), (second, beyond)]
    return pair if edge < 2 else [(y, x) for x, y in pair]


def _curve(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a Catmull-Rom curve through all points, `_STEPS` samples a segment, and the last."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    f = (np.arange(_STEPS) / _STEPS)[None, :, None]
    a, b, c, d = (padded[k : len(points) - 1 + k, None, :] for k in range(4))
    curve = b + 0.5 * f * (c - a + f * (2 * a - 5 * b + 4 * c - d + f * (3 * (b - c) + d - a)))
    return np.concatenate([curve.reshape(-1, 2), points[-1:]])
