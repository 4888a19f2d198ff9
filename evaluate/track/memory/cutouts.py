"""Search crops that are resampled on the network's device, where that is not the processor."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lorat.evaluate.track.memory.crops import Crop, Frame, crop_around, frame_size
from lorat.shards.pixels.geometry import Adjusted, CropTransform, adjust, crop_transform


@dataclass(eq=False, slots=True)
class Cutout:
    """A crop that is resampled later, on the network's device: what it shows of its frame, or nothing of it."""

    part: NDArray[Any] = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))  # (h, w, 3), contiguous
    covered: tuple[int, int, int, int] | None = None  # where in the crop that lands, (x1, y1, x2, y2), ends exclusive
    pad: tuple[float, ...] = (0.0, 0.0, 0.0)  # colour of the rest

    def take(self, frame: Frame, adjusted: Adjusted, pad: ArrayLike) -> None:
        """Cut the part out of a frame."""
        self.covered, self.pad = adjusted.covered, tuple(np.asarray(pad, np.float32).tolist())
        if adjusted.source is not None:
            x1, y1, x2, y2 = adjusted.source
            self.part = np.ascontiguousarray(frame[y1:y2, x1:x2])

    def resample(self, part: Tensor, side: int) -> Tensor:
        """Return the (side, side, 3) float32 crop on the device of `part`, which is this one's: the mathematics of
        `crop_frame` in float32 throughout, which moves values by up to 0.05 of 255 where neighbours differ most.
        """
        crop = torch.tensor(self.pad, device=part.device).expand(side, side, 3)
        if self.covered is None:
            return crop
        x1, y1, x2, y2 = self.covered
        planes = part.to(torch.float32).permute(2, 0, 1)[None]
        shown = F.interpolate(planes, (y2 - y1, x2 - x1), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
        if self.covered == (0, 0, side, side):
            return shown
        crop = crop.clone()
        crop[y1:y2, x1:x2] = shown
        return crop


Place = Crop | Cutout  # what a crop is written into
Places = NDArray[np.float32] | Sequence[Cutout]  # (B, S, S, 3), or of a device that resamples B of them


def cut_out(
    frame: Frame, box: ArrayLike, area_factor: float, side: int, pad: ArrayLike, scale: float | None, out: Cutout
) -> CropTransform:
    """Cut what `crop_around` would, to be resampled on the device; to a `scale` it is resampled here."""
    if scale is None:
        adjusted = adjust(crop_transform(box, area_factor, (side, side)), frame_size(frame), (side, side))
        out.take(frame, adjusted, pad)
        return adjusted.transform
    out.part, transform = crop_around(frame, box, area_factor, side, pad, scale)
    out.covered = (0, 0, side, side)
    return transform
