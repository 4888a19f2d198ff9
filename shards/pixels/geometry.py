"""Boxes, crop windows and the pixels in them.

Boxes are xyxy float64 in continuous pixel coordinates: pixel column i covers [i, i + 1). Sizes are (width, height). The
formulas are those of the published system, to which trained weights are tied.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.uint8]
Box = NDArray[np.float64]
_SPARSE = 2.0  # source rows a row of output, from where it pays to take two of them
_BAND = 64  # rows that are floats at once
_EDGE = 1.0 - 1e-4  # a right or bottom edge counts from a ten-thousandth of a pixel on


def xywh_to_xyxy(boxes: ArrayLike) -> NDArray[np.float64]:
    """Turn (…, 4) x, y, w, h into x1, y1, x2, y2 with x2 = x + w (no pixel is subtracted)."""
    boxes = np.asarray(boxes, dtype=np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes: ArrayLike) -> NDArray[np.float64]:
    """Turn (…, 4) x1, y1, x2, y2 into x, y, w, h."""
    boxes = np.asarray(boxes, dtype=np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def clip_boxes(boxes: ArrayLike, size: tuple[int, int]) -> NDArray[np.float64]:
    """Cut (…, 4) xyxy boxes at an image of (width, height); a box outside ends up empty."""
    width, height = size
    return np.clip(np.asarray(boxes, dtype=np.float64), 0.0, [width, height, width, height])


@dataclass(frozen=True, slots=True)
class CropTransform:
    """The axis-aligned map from frame to crop pixels: out = in · scale + translation."""

    scale: tuple[float, float]
    translation: tuple[float, float]

    def apply(self, boxes: ArrayLike) -> NDArray[np.float64]:
        """Map (…, 4) xyxy boxes from frame to crop pixels."""
        return np.asarray(boxes, np.float64) * (self.scale * 2) + self.translation * 2

    def invert(self, boxes: ArrayLike) -> NDArray[np.float64]:
        """Map (…, 4) xyxy boxes from crop to frame pixels."""
        return (np.asarray(boxes, np.float64) - self.translation * 2) / (self.scale * 2)


def crop_transform(box: ArrayLike, area_factor: float, output_size: tuple[int, int]) -> CropTransform:
    """Return the map that centres a box, (4,) xyxy of positive size in frame pixels, in a crop of size (W, H). The
    source window has size w + (f − 1)(w + h)/2 by h + (f − 1)(w + h)/2 (area A) and is scaled by sqrt(W·H / A) in both
    axes; the area factor f is 2 for templates, 4 or 5 for search regions.
    """
    x1, y1, x2, y2 = map(float, np.asarray(box, dtype=np.float64))
    width, height = x2 - x1, y2 - y1
    context = (area_factor - 1.0) * (width + height) * 0.5
    scale = float(np.sqrt(output_size[0] * output_size[1] / ((width + context) * (height + context))))
    shift = (output_size[0] * 0.5 - (x1 + x2) * 0.5 * scale, output_size[1] * 0.5 - (y1 + y2) * 0.5 * scale)
    return CropTransform((scale, scale), shift)


def rasterise(boxes: ArrayLike) -> NDArray[np.int64]:
    """Return the whole-pixel rectangles (…, 4) that boxes touch: floor(v) to floor(v + 1 − 1e-4), exclusive."""
    boxes = np.asarray(boxes, dtype=np.float64)
    return np.floor(boxes + np.array([0.0, 0.0, _EDGE, _EDGE])).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Adjusted:
    """A crop on whole pixels, through whose `transform` boxes go: what is cut out of the frame and where it lands.
    `covered` and `source` are (x1, y1, x2, y2), ends exclusive, in the output and in the frame; None where the crop
    touches nothing of the frame.
    """

    transform: CropTransform
    covered: tuple[int, int, int, int] | None
    source: tuple[int, int, int, int] | None


def adjust(transform: CropTransform, frame_size: tuple[int, int], output_size: tuple[int, int]) -> Adjusted:
    """Put a crop on whole pixels and adjust its scale and translation to them. The frame's rectangle is mapped into the
    output, clipped and rasterised: the covered part. That part is mapped back, rasterised and clipped to the frame: the
    source part. The adjusted scale is covered size / source size, the adjusted translation covered corner − source
    corner · scale. A crop that touches nothing of the frame keeps its transform.
    """
    scale, shift = transform.scale, transform.translation
    # Plain floats: the same arithmetic as on arrays of four, in a tenth of the time.
    along_x = _adjust_axis(scale[0], shift[0], frame_size[0], output_size[0])
    along_y = _adjust_axis(scale[1], shift[1], frame_size[1], output_size[1])
    if along_x is None or along_y is None:
        return Adjusted(transform, None, None)
    (cx1, cx2, sx1, sx2), (cy1, cy2, sy1, sy2) = along_x, along_y
    scale = ((cx2 - cx1) / (sx2 - sx1), (cy2 - cy1) / (sy2 - sy1))
    adjusted = CropTransform(scale, (cx1 - sx1 * scale[0], cy1 - sy1 * scale[1]))
    return Adjusted(adjusted, (cx1, cy1, cx2, cy2), (sx1, sy1, sx2, sy2))


def _adjust_axis(scale: float, shift: float, frame: int, output: int) -> tuple[int, int, int, int] | None:
    """Return the covered span and the source span of one axis; None where one is empty."""
    low = math.floor(min(max(shift, 0.0), output))
    high = min(math.floor(min(max(frame * scale + shift, 0.0), output) + _EDGE), output)
    if high <= low:
        return None
    source_low = min(max(math.floor((low - shift) / scale), 0), frame)
    source_high = min(max(math.floor((high - shift) / scale + _EDGE), 0), frame)
    return (low, high, source_low, source_high) if source_high > source_low else None


def crop_frame(
    frame: Image,
    adjusted: Adjusted,
    output_size: tuple[int, int],
    pad: ArrayLike,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Cut a crop out of an (h, w, 3) uint8 RGB frame as the published system does at test time. The covered part is the
    bilinear resize (half-pixel centres, not antialiased) of the source part; the rest is the colour `pad`, (3,) on 0 …
    255. The crop of size (W, H) is written to `out`, (H, W, 3) float32, contiguous, on 0 … 255, or to a new array, and
    returned.
    """
    width, height = output_size
    if out is None:
        out = np.empty((height, width, 3), dtype=np.float32)
    whole = adjusted.covered == (0, 0, width, height)
    if not whole:
        # A row at a time: NumPy would be slow in repeating three values.
        out.reshape(height, -1)[:] = np.tile(np.asarray(pad, dtype=np.float32), width)
    if adjusted.covered is None or adjusted.source is None:
        return out
    cx1, cy1, cx2, cy2 = adjusted.covered
    sx1, sy1, sx2, sy2 = adjusted.source
    part, place = frame[sy1:sy2, sx1:sx2], out if whole else out[cy1:cy2, cx1:cx2]
    if part.shape[0] > _SPARSE * place.shape[0]:
        _resize_sparsely(part, place)
    else:
        size, dst = (cx2 - cx1, cy2 - cy1), out if whole else None
        resized = cv2.resize(part.astype(np.float32), size, dst=dst, interpolation=cv2.INTER_LINEAR)
        if not whole:
            place[:] = resized
    return out


def _resize_sparsely(part: Image, out: NDArray[np.float32]) -> None:
    """Do what ``cv2.resize`` does, to rounding, from a part (h, w, 3) with at least twice the rows of `out` (H, W, 3).
    Only the two rows that a row of the output lies between are turned into floats, a few at a time so that they stay in
    the cache: two thirds of the time for a part of 700 rows and 224 of output.
    """
    height, width = out.shape[:2]
    at = (np.arange(height) + 0.5) * (part.shape[0] / height) - 0.5
    above = np.floor(at).astype(np.int64)
    rows = np.stack([above, above + 1], axis=1).ravel()
    across = np.empty((2 * height, width, 3), dtype=np.float32)
    for start in range(0, 2 * height, _BAND):
        floats = part[rows[start : start + _BAND]].astype(np.float32)
        band = across[start : start + _BAND]
        cv2.resize(floats, (width, len(band)), dst=band, interpolation=cv2.INTER_LINEAR)
    upper, lower = across[0::2], across[1::2]
    np.subtract(lower, upper, out=out)
    out *= (at - above).astype(np.float32)[:, None, None]
    out += upper


def box_mask(box: ArrayLike, image_size: int, grid: int) -> NDArray[np.bool_]:
    """Return the (grid, grid) cells, row-major [y, x], that a box, (4,) xyxy in pixels, touches in a square crop. Used
    for the template's foreground tokens and the positive cells of the response map.
    """
    cells = grid / image_size
    x1, y1, x2, y2 = (float(v) * cells for v in np.asarray(box, dtype=np.float64))
    left, top = max(math.floor(x1), 0), max(math.floor(y1), 0)
    right, bottom = max(math.floor(x2 + _EDGE), 0), max(math.floor(y2 + _EDGE), 0)
    mask = np.zeros((grid, grid), dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return mask
