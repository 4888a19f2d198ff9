"""Putting the object of a search crop before another photograph.

A pair of crops from one still image shares its surroundings, so a network that learns from such
pairs alone finds the object by what lies around it, and follows the ground when the object moves
on. Before another photograph only the object itself is left to be found. Pieces of its old
surroundings are pasted as decoys, so that neither they nor the seams of a paste give it away.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["swap_background"]

_DECOYS = 3  # at most
_FADE = (0.02, 0.3)  # width of a seam, in half sides of the pasted piece


def swap_background(
    crop: NDArray[np.uint8],
    box: NDArray[np.float64],
    other: NDArray[np.uint8],
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Show the object, and up to three pieces of its surroundings, before another image.

    The object is cut out as a superellipse that fills its box: between an ellipse, which suits
    round and thin objects, and nearly the whole box.

    Args:
        crop: (S, S, 3) uint8.
        box: (4,) xyxy of the object, crop pixels, not clipped.
        other: (h, w, 3) uint8, of any size; a random square of it becomes the background.
        rng: of this pair.

    Returns:
        A new (S, S, 3) uint8 crop; the object stays where it is.
    """
    size = crop.shape[0]
    centre, half = (box[:2] + box[2:]) * 0.5, (box[2:] - box[:2]) * 0.5
    keep = _piece(size, centre, half, rng)
    for _ in range(rng.integers(_DECOYS + 1)):
        reach = np.sqrt(half.prod()) * rng.uniform(0.5, 1.25, 2)
        np.maximum(keep, _piece(size, rng.uniform(0.0, size, 2), reach, rng), out=keep)
    background = _random_square(other, size, rng).astype(np.float32)
    mixed = background + keep[..., None] * (crop.astype(np.float32) - background)
    return np.rint(mixed).astype(np.uint8)


def _piece(
    size: int, centre: NDArray[np.float64], half: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return how much of a piece each pixel shows: (size, size) in [0, 1], 1 inside."""
    power = rng.uniform(2.0, 8.0)
    fade = rng.uniform(*_FADE)
    along = np.arange(size) + 0.5
    dx, dy = (np.abs(along - c) / max(h, 1.0) for c, h in zip(centre, half, strict=True))
    radius = (dx[None, :] ** power + dy[:, None] ** power) ** (1.0 / power)
    return np.clip((1.0 + fade - radius) / fade, 0.0, 1.0).astype(np.float32)


def _random_square(
    image: NDArray[np.uint8], size: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * rng.uniform(0.5, 1.0)))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    part = image[top : top + side, left : left + side]
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return cv2.resize(part, (size, size), interpolation=how)
