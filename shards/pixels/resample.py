"""Stored windows of frames, and crops sampled from them.

A build cuts a window out of the frame and shrinks it (antialiased), never enlarges it; training samples its crops from
that window. Both sides agree on where a stored pixel lies in the original frame, so crops and boxes are computed in
original coordinates throughout.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lorat.shards.pixels.geometry import Adjusted, Box, Image, crop_transform, rasterise

SHRINKING = "halved, then bilinear"
RESAMPLER = f"opencv-{cv2.__version__}"
"""How `cut_window` shrinks, and what does it; both stand in the manifest, since they decide the stored pixels."""


class Stored(NamedTuple):
    """How large shards hold what variants of one search size train on."""

    context: float  # side of the search window in geometric-mean object sides
    object_side: int  # most stored pixels for the geometric-mean side of the object
    longest: int  # most stored pixels for the longer side of an image
    area_factor: float  # of the search crops that are drawn from the window


SERVED = {224: Stored(12.0, 96, 1024, 4.0), 378: Stored(14.0, 128, 1536, 5.0)}
"""Search size → what ``lorat-prep build --serve`` stores."""


def serving(search_size: int) -> int:
    """Return which of `SERVED` is meant for variants of a search size: the smallest that is not below it."""
    return next((size for size in SERVED if size >= search_size), max(SERVED))


def stored_by(config: Mapping[str, Any]) -> Stored | None:
    """Return how shards hold frames by their manifest's configuration; None where it does not say."""
    return Stored(*(config[key] for key in Stored._fields)) if config.keys() >= set(Stored._fields) else None


@dataclass(frozen=True, slots=True)
class Window:
    """A whole-pixel window of a frame and the size it is stored at."""

    origin: tuple[int, int]  # left, top
    end: tuple[int, int]  # right, bottom, exclusive
    size: tuple[int, int]  # (width, height) of the stored image


def template_window(box: ArrayLike, frame_size: tuple[int, int], object_side: int) -> Window:
    """Return the window that a template of area factor 2 shows, cut at the frame."""
    transform = crop_transform(box, 2.0, (object_side, object_side))
    square = transform.invert(np.array([0.0, 0.0, object_side, object_side]))
    return _window(square, box, frame_size, object_side, max(frame_size))


def context_window(box: ArrayLike, frame_size: tuple[int, int], sides: float, object_side: int, longest: int) -> Window:
    """Return the square of `sides` geometric-mean object sides around a box, (4,) xyxy, cut at the frame. The box is at
    least partly in the frame of (width, height). At most `object_side` pixels are stored for sqrt(w·h) of the box and
    `longest` for the longer side of the window.
    """
    x1, y1, x2, y2 = np.asarray(box, dtype=np.float64)
    half = 0.5 * sides * np.sqrt((x2 - x1) * (y2 - y1))
    cx, cy = (x1 + x2) * 0.5, (y1 + y2) * 0.5
    # An elongated object may be longer than the square; the window always holds all of it.
    corners = (min(cx - half, x1), min(cy - half, y1), max(cx + half, x2), max(cy + half, y2))
    return _window(np.array(corners), box, frame_size, object_side, longest)


def _window(square: Box, box: ArrayLike, frame_size: tuple[int, int], object_side: int, longest: int) -> Window:
    left, top, right, bottom = np.clip(rasterise(square), 0, frame_size * 2).tolist()
    x1, y1, x2, y2 = np.asarray(box, dtype=np.float64)
    side = max(1.0, float(np.sqrt((x2 - x1) * (y2 - y1))))
    left, top = min(left, frame_size[0] - 1), min(top, frame_size[1] - 1)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    shrink = min(1.0, object_side / side, longest / max(right - left, bottom - top))
    size = (max(1, round((right - left) * shrink)), max(1, round((bottom - top) * shrink)))
    return Window((left, top), (right, bottom), size)


def cut_window(frame: Image, window: Window) -> Image:
    """Return the stored image of a window: (h, w, 3) uint8, antialiased where it is shrunk. The window is halved (means
    of 2 × 2 pixels) while it is at least twice as large as wanted; what is then left to shrink, less than twofold, is
    bilinear. The means of fractional areas that OpenCV has for this differ by 1 or 2 of 255 and would take as long as
    decoding the frame. They are taken for windows that cannot be halved without moving pixels: those of an odd side.
    """
    part = frame[window.origin[1] : window.end[1], window.origin[0] : window.end[0]]
    width, height = window.size
    if part.shape[:2] == (height, width):
        return np.ascontiguousarray(part)
    while part.shape[0] >= 2 * height and part.shape[1] >= 2 * width:
        if part.shape[0] % 2 or part.shape[1] % 2:
            return cv2.resize(part, window.size, interpolation=cv2.INTER_AREA)
        part = cv2.resize(part, (part.shape[1] // 2, part.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(part, window.size, interpolation=cv2.INTER_LINEAR)


def sample_crop(stored: Image, window: Window, adjusted: Adjusted, size: int, mean: ArrayLike) -> tuple[Image, float]:
    """Sample a square crop from the (h, w, 3) uint8 image that is stored of a window, bilinearly and sub-pixel. Outside
    the frame stands the frame's mean, (3,) on 0 … 255; outside the stored window but inside the frame the window's edge
    pixels repeat. The crop is on whole pixels of the original frame. Returns the (size, size, 3) uint8 crop, and the
    share of its pixels that the stored image lacked.
    """
    colour = _colour(mean)
    if adjusted.covered is None or adjusted.source is None:
        return np.full((size, size, 3), colour, dtype=np.uint8), 0.0
    x1, y1, x2, y2 = adjusted.covered
    columns, outside_x = _stored_positions((x1, x2), adjusted.source[0::2], window, 0)
    rows, outside_y = _stored_positions((y1, y2), adjusted.source[1::2], window, 1)
    maps = np.empty((2, y2 - y1, x2 - x1), dtype=np.float32)
    maps[0], maps[1] = columns, rows[:, None]
    crop = cv2.remap(stored, maps[0], maps[1], cv2.INTER_LINEAR)
    if adjusted.covered != (0, 0, size, size):
        crop = cv2.copyMakeBorder(crop, y1, size - y2, x1, size - x2, cv2.BORDER_CONSTANT, value=colour)
    seen = (1.0 - outside_x) * (1.0 - outside_y)
    return crop, float((1.0 - seen) * (x2 - x1) * (y2 - y1) / (size * size))


def _stored_positions(
    covered: tuple[int, int], source: tuple[int, int], window: Window, axis: int
) -> tuple[NDArray[np.float32], float]:
    """Return where the covered pixels of one axis lie in the stored image, and the share outside. The published
    system's resize maps covered pixel i (centre i + 0.5) into the source part and stops at the part's edge pixels; the
    stored image is the source at another scale.
    """
    count, (low, high) = covered[1] - covered[0], source
    steps = _centres(count) * ((high - low) / count)
    # Ufuncs, since np.clip takes longer to call than these arrays take to clip.
    frame = np.minimum(np.maximum(low + steps, low + 0.5), high - 0.5)
    origin, end, size = window.origin[axis], window.end[axis], window.size[axis]
    outside = 0.0
    if frame[0] < origin or frame[-1] > end:  # the positions ascend
        outside = float(((frame < origin) | (frame > end)).mean())
    stored = (frame - origin) * (size / (end - origin)) - 0.5
    return np.minimum(np.maximum(stored, 0.0), size - 1.0).astype(np.float32), outside


@functools.cache
def _centres(count: int) -> NDArray[np.float64]:
    """Return the centres of `count` pixels; not to be changed."""
    return np.arange(count, dtype=np.float64) + 0.5


def sample_turned_crop(
    stored: Image,
    window: Window,
    adjusted: Adjusted,
    size: int,
    mean: ArrayLike,
    frame_size: tuple[int, int],
    angle: float,
    centre: tuple[float, float],
) -> tuple[Image, float]:
    """Sample a square crop whose content is turned by radians (x axis towards y axis) about a point in crop pixels, as
    `sample_crop` does otherwise; `adjusted` is the crop before that, `frame_size` the original frame's (width, height).
    """
    along = np.arange(size) + 0.5
    dx, dy = along[None, :] - centre[0], along[:, None] - centre[1]
    cos, sin = np.cos(angle), np.sin(angle)
    before = (centre[0] + cos * dx + sin * dy, centre[1] - sin * dx + cos * dy)
    scale, translation = adjusted.transform.scale, adjusted.transform.translation
    maps: list[NDArray[np.float32]] = []
    in_frame = in_window = np.ones((size, size), dtype=np.bool_)
    for axis in (0, 1):
        frame = (before[axis] - translation[axis]) / scale[axis]
        origin, end, stored_size = window.origin[axis], window.end[axis], window.size[axis]
        in_frame = in_frame & (frame >= 0) & (frame <= frame_size[axis])
        in_window = in_window & (frame >= origin) & (frame <= end)
        maps.append(((frame - origin) * (stored_size / (end - origin)) - 0.5).astype(np.float32))
    crop = cv2.remap(stored, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    crop[~in_frame] = _colour(mean)
    return crop, float((in_frame & ~in_window).mean())


def turn_box(box: Box, angle: float) -> Box:
    """Return the bounding box, (4,) xyxy, of an object turned by radians, as the ellipse that fills its box. A turned
    rectangle's bounding box would be too large for most objects by up to 41 %.
    """
    centre, half = (box[:2] + box[2:]) * 0.5, (box[2:] - box[:2]) * 0.5
    cos, sin = np.cos(angle) * half, np.sin(angle) * half
    reach = np.array([np.hypot(cos[0], sin[1]), np.hypot(sin[0], cos[1])])
    return np.concatenate([centre - reach, centre + reach])


def _colour(mean: ArrayLike) -> tuple[int, ...]:
    return tuple(min(max(round(value), 0), 255) for value in np.asarray(mean, dtype=np.float64).tolist())
