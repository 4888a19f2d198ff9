"""The search window of a training pair: centred on the object, then jittered in scale and place.

Source of the formula: the published system's training crops. All coordinates are those of the original frame.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lorat.shards.pixels.geometry import CropTransform, crop_transform

ATTEMPTS = 12
MIN_OBJECT = 10.0  # crop pixels that the object keeps in an accepted window, in each axis


@dataclass(frozen=True, slots=True)
class Jitter:
    """How far a search window may be from the object."""

    scale: float = 0.25  # standard deviation of the log scale, an axis each
    translation: float = 3.0  # largest shift, in mean object sides


def _draw_window(
    box: ArrayLike, nominal: CropTransform, size: int, rng: np.random.Generator, jitter: Jitter
) -> tuple[CropTransform, bool]:
    """Draw one jittered window; say whether the box, cut at the crop, has at least 10 × 10 crop pixels in it. The scale
    of the centred window is divided by exp(jitter.scale · n), n standard normal for each axis; the translation,
    computed for that scale, gets U(−1, 1)² · jitter.translation · (w·s_x + h·s_y) / 2 added. Two normals are drawn,
    then two uniforms.
    """
    # Plain floats where they give the same: arrays of two cost more to make than to compute with.
    x1, y1, x2, y2 = map(float, np.asarray(box, dtype=np.float64))
    shrink_x, shrink_y = np.exp(jitter.scale * rng.standard_normal(2)).tolist()
    shift_x, shift_y = rng.uniform(-1.0, 1.0, 2).tolist()
    scale_x, scale_y = nominal.scale[0] / shrink_x, nominal.scale[1] / shrink_y
    reach = jitter.translation * ((x2 - x1) * scale_x + (y2 - y1) * scale_y) * 0.5
    move_x = size * 0.5 - (x1 + x2) * 0.5 * scale_x + shift_x * reach
    move_y = size * 0.5 - (y1 + y2) * 0.5 * scale_y + shift_y * reach
    seen_x = _within(x2 * scale_x + move_x, size) - _within(x1 * scale_x + move_x, size)
    seen_y = _within(y2 * scale_y + move_y, size) - _within(y1 * scale_y + move_y, size)
    return CropTransform((scale_x, scale_y), (move_x, move_y)), seen_x >= MIN_OBJECT and seen_y >= MIN_OBJECT


def _within(value: float, size: int) -> float:
    return min(max(value, 0.0), size)


def jitter_window(
    box: ArrayLike, area_factor: float, size: int, rng: np.random.Generator, jitter: Jitter
) -> CropTransform | None:
    """Return the first accepted of `ATTEMPTS` windows of a square crop of side `size`, or None where all of them fail.
    The box is (4,) xyxy with positive size in frame pixels, the generator that of this pair.
    """
    nominal = crop_transform(box, area_factor, (size, size))
    drawn = (_draw_window(box, nominal, size, rng, jitter) for _ in range(ATTEMPTS))
    return next((window for window, accepted in drawn if accepted), None)
