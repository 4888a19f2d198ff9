"""Stored windows of frames, and crops sampled from them.

A build cuts a window out of the frame and shrinks it (antialiased), never enlarges it; training
samples its crops from that window. Both sides agree on where a stored pixel lies in the original
frame, so crops and boxes are computed in original coordinates throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lorat.shards.geometry import Adjusted, crop_transform, rasterise

__all__ = ["Window", "context_window", "cut_window", "sample_crop", "template_window"]


@dataclass(frozen=True, slots=True)
class Window:
    """A whole-pixel window of a frame and the size it is stored at."""

    origin: tuple[int, int]
    """Left, top."""
    end: tuple[int, int]
    """Right, bottom, exclusive."""
    size: tuple[int, int]
    """(width, height) of the stored image."""


def template_window(box: ArrayLike, frame_size: tuple[int, int], object_side: int) -> Window:
    """Return the window that a template of area factor 2 shows, cut at the frame."""
    transform = crop_transform(box, 2.0, (object_side, object_side))
    square = transform.invert(np.array([0.0, 0.0, object_side, object_side]))
    return _window(square, box, frame_size, object_side, max(frame_size))


def context_window(
    box: ArrayLike, frame_size: tuple[int, int], sides: float, object_side: int, longest: int
) -> Window:
    """Return the square of `sides` geometric-mean object sides around a box, cut at the frame.

    Args:
        box: (4,) xyxy, at least partly in the frame.
        frame_size: (width, height).
        sides: of the square, in sqrt(w·h) of the box.
        object_side: most stored pixels for sqrt(w·h).
        longest: most stored pixels for the longer side of the stored image.
    """
    x1, y1, x2, y2 = np.asarray(box, dtype=np.float64)
    half = 0.5 * sides * np.sqrt((x2 - x1) * (y2 - y1))
    cx, cy = (x1 + x2) * 0.5, (y1 + y2) * 0.5
    # An elongated object may be longer than the square; the window always holds all of it.
    square = np.array(
        [min(cx - half, x1), min(cy - half, y1), max(cx + half, x2), max(cy + half, y2)]
    )
    return _window(square, box, frame_size, object_side, longest)


def _window(
    square: NDArray[np.float64],
    box: ArrayLike,
    frame_size: tuple[int, int],
    object_side: int,
    longest: int,
) -> Window:
    limits = [frame_size[0], frame_size[1]] * 2
    left, top, right, bottom = np.clip(rasterise(square), 0, limits).tolist()
    x1, y1, x2, y2 = np.asarray(box, dtype=np.float64)
    side = float(np.sqrt((x2 - x1) * (y2 - y1)))
    shrink = min(1.0, object_side / side, longest / max(right - left, bottom - top))
    size = (max(1, round((right - left) * shrink)), max(1, round((bottom - top) * shrink)))
    return Window((left, top), (right, bottom), size)


def cut_window(frame: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    """Return the stored image of a window: (h, w, 3) uint8, area-averaged where it is shrunk."""
    part = frame[window.origin[1] : window.end[1], window.origin[0] : window.end[0]]
    if (part.shape[1], part.shape[0]) == window.size:
        return np.ascontiguousarray(part)
    return cv2.resize(part, window.size, interpolation=cv2.INTER_AREA)


def sample_crop(
    stored: NDArray[np.uint8],
    window: Window,
    adjusted: Adjusted,
    size: int,
    mean: ArrayLike,
) -> tuple[NDArray[np.uint8], float]:
    """Sample a square crop from a stored window, bilinearly and sub-pixel.

    Outside the frame stands the frame's mean; outside the stored window but inside the frame the
    window's edge pixels repeat.

    Args:
        stored: (h, w, 3) uint8, the stored image.
        window: where it lies in the frame.
        adjusted: the crop on whole pixels of the original frame.
        size: side of the crop in pixels.
        mean: (3,) colour outside the frame, 0 … 255.

    Returns:
        The (size, size, 3) uint8 crop, and the share of its pixels that the window lacked.
    """
    colour = np.clip(np.rint(np.asarray(mean, dtype=np.float64)), 0, 255).astype(np.uint8)
    crop = np.empty((size, size, 3), dtype=np.uint8)
    crop[:] = colour
    if adjusted.covered is None or adjusted.source is None:
        return crop, 0.0
    x1, y1, x2, y2 = adjusted.covered
    columns, outside_x = _stored_positions(adjusted, window, 0)
    rows, outside_y = _stored_positions(adjusted, window, 1)
    map_x, map_y = np.broadcast_arrays(columns[None, :], rows[:, None])
    crop[y1:y2, x1:x2] = cv2.remap(
        stored, np.ascontiguousarray(map_x), np.ascontiguousarray(map_y), cv2.INTER_LINEAR
    )
    seen = (1.0 - outside_x) * (1.0 - outside_y)
    missing = (1.0 - seen) * (x2 - x1) * (y2 - y1) / (size * size)
    return crop, float(missing)


def _stored_positions(
    adjusted: Adjusted, window: Window, axis: int
) -> tuple[NDArray[np.float32], float]:
    """Return where the covered pixels of one axis lie in the stored image, and the share outside.

    The resize of the published system maps covered pixel i (centre i + 0.5) into the source part
    and stops at the part's edge pixels; the stored image is the source seen at another scale.
    """
    low, high = adjusted.covered[axis], adjusted.covered[axis + 2]
    source_low, source_high = adjusted.source[axis], adjusted.source[axis + 2]
    steps = (np.arange(high - low) + 0.5) * ((source_high - source_low) / (high - low))
    frame = np.clip(source_low + steps, source_low + 0.5, source_high - 0.5)
    origin, end, size = window.origin[axis], window.end[axis], window.size[axis]
    outside = float(((frame < origin) | (frame > end)).mean())
    stored = (frame - origin) * (size / (end - origin)) - 0.5
    return np.clip(stored, 0.0, size - 1.0).astype(np.float32), outside
