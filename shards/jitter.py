"""The search window of a training pair: centred on the object, then jittered in scale and place.

Source of the formula: the published system's training crops. All coordinates are those of the
original frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lorat.shards.geometry import CropTransform, clip_boxes, crop_transform

__all__ = ["ATTEMPTS", "MIN_OBJECT", "Jitter", "jitter_window"]

ATTEMPTS = 12
MIN_OBJECT = 10.0  # crop pixels that the object keeps in an accepted window, in each axis


@dataclass(frozen=True, slots=True)
class Jitter:
    """How far a search window may be from the object."""

    scale: float = 0.25
    """Standard deviation of the log scale, an axis each."""
    translation: float = 3.0
    """Largest shift, in mean object sides."""


def _draw_window(
    box: ArrayLike, nominal: CropTransform, size: int, rng: np.random.Generator, jitter: Jitter
) -> tuple[CropTransform, bool]:
    """Draw one jittered window and say whether enough of the object is in it.

    The scale is divided by exp(jitter.scale · n), n standard normal for each axis; the translation,
    computed for that scale, gets U(−1, 1)² · jitter.translation · (w·s_x + h·s_y) / 2 added.

    Args:
        box: (4,) xyxy, frame pixels.
        nominal: the window centred on the box.
        size: side of the square crop in pixels.
        rng: draws two normals, then two uniforms.
        jitter: how far.

    Returns:
        The transform, and whether the box cut at the crop is at least 10 × 10 crop pixels.
    """
    box = np.asarray(box, dtype=np.float64)
    scale = np.asarray(nominal.scale) / np.exp(jitter.scale * rng.standard_normal(2))
    width, height = box[2] - box[0], box[3] - box[1]
    reach = jitter.translation * (width * scale[0] + height * scale[1]) * 0.5
    centre = np.array([(box[0] + box[2]) * 0.5, (box[1] + box[3]) * 0.5])
    translation = size * 0.5 - centre * scale + rng.uniform(-1.0, 1.0, 2) * reach
    window = CropTransform(
        (float(scale[0]), float(scale[1])), (float(translation[0]), float(translation[1]))
    )
    inside = clip_boxes(window.apply(box), (size, size))
    return window, bool(((inside[2:] - inside[:2]) >= MIN_OBJECT).all())


def jitter_window(
    box: ArrayLike, area_factor: float, size: int, rng: np.random.Generator, jitter: Jitter
) -> CropTransform | None:
    """Return the first accepted of `ATTEMPTS` windows, or None where all of them fail.

    Args:
        box: (4,) xyxy with positive size, frame pixels.
        area_factor: of the search window.
        size: side of the square crop in pixels.
        rng: of this pair.
        jitter: how far.
    """
    nominal = crop_transform(box, area_factor, (size, size))
    for _ in range(ATTEMPTS):
        window, accepted = _draw_window(box, nominal, size, rng, jitter)
        if accepted:
            return window
    return None
