"""How a frame is shrunk into a crop: as published, or as training on shards saw it.

The published system resizes bilinearly without antialiasing: detail finer than the crop's pixels turns into false
patterns. Windows in shards were averaged over areas, so weights trained on them never saw those: crops cut the same way
agree with training, crops cut as published make weights and numbers comparable with others.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lorat.shards.pixels.geometry import CropTransform, adjust, crop_frame, crop_transform
from lorat.shards.pixels.resample import Stored, Window, context_window, cut_window, sample_crop, template_window

Resize = Literal["published", "shards"]
Frame = NDArray[np.uint8]  # (H, W, 3) RGB
Crop = NDArray[np.float32]  # (S, S, 3) RGB on 0 … 255, contiguous
Box = NDArray[np.float64]  # (4,) xyxy in continuous frame pixels


def frame_size(frame: Frame) -> tuple[int, int]:
    """Return (width, height)."""
    return frame.shape[1], frame.shape[0]


def search_scale(box: ArrayLike, size: tuple[int, int], stored: Stored | None) -> float | None:
    """Return the scale, at most 1, at which shards hold the surroundings of a box in a (width, height) frame."""
    return _scale(context_window(box, size, *stored[:3])) if stored else None


def template_scale(box: ArrayLike, size: tuple[int, int], stored: Stored | None) -> float | None:
    """Return the scale, at most 1, at which shards hold a box as the template."""
    return _scale(template_window(box, size, stored.object_side)) if stored else None


def _scale(window: Window) -> float:
    return max(window.size) / max(e - o for o, e in zip(window.origin, window.end, strict=True))


def crop_around(
    frame: Frame,
    box: ArrayLike,
    area_factor: float,
    side: int,
    pad: ArrayLike,
    scale: float | None,
    out: Crop | None = None,
) -> tuple[Crop, CropTransform]:
    """Cut a crop of `side` pixels a side around a (4,) xyxy box with positive size. `area_factor` is that of
    `crop_transform`, `pad` the (3,) colour outside the frame, 0 … 255. To a `scale` the source part is averaged over
    areas first, and then sampled as training samples stored windows; None cuts the crop as published. Returns the crop,
    in `out` if that is given, and the adjusted transform from frame to crop.
    """
    size = (side, side)
    adjusted = adjust(crop_transform(box, area_factor, size), frame_size(frame), size)
    if scale is None or adjusted.source is None:
        return crop_frame(frame, adjusted, size, pad, out), adjusted.transform
    x1, y1, x2, y2 = adjusted.source
    part = Window((x1, y1), (x2, y2), (max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))))
    crop, _ = sample_crop(cut_window(frame, part), part, adjusted, side, pad)
    out = np.empty(crop.shape, np.float32) if out is None else out
    out[:] = crop
    return out, adjusted.transform
