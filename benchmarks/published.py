"""A training pair made the published way, written from its description: the baseline.

Both whole frames are decoded and turned to float32, their mean is taken, the crop is resized by torch, torchvision
jitters the colours, and PIL does the last augmentation on 8-bit values. Frames are decoded by the same codec as ours,
and the geometry, the jitter and the labels are our own code (they take a few hundredths of the time), so what is
compared is the way, not the skill. The last step of the published system, normalising on the processor, is left out:
ours does it elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageFilter, ImageOps
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import ColorJitter
from torchvision.transforms.functional import hflip, pil_to_tensor, to_pil_image

from lorat.shards.pixels.geometry import CropTransform, adjust, crop_transform
from lorat.shards.pixels.jitter import Jitter, jitter_window
from lorat.shards.pixels.jpeg import read_image
from lorat.train.data.places import CropSpec
from lorat.train.data.samples import make_labels

__all__ = ["PublishedPair", "RawPair", "collate", "published_pair"]

Box = NDArray[np.float64]
_COLOURS = ColorJitter(0.4, 0.4, 0.4)
_FLIP = 0.5
_SOLARISE_FROM = 128


@dataclass(frozen=True, slots=True)
class RawPair:
    """Where the frames of a pair lie, and its boxes, (4,) xyxy in frame pixels."""

    template: Path
    search: Path
    template_box: tuple[float, float, float, float]
    search_box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False, slots=True)
class PublishedPair:
    """Uint8 (3, S, S) crops and their labels."""

    template: Tensor
    search: Tensor
    labels: tuple[NDArray[Any], ...]
    """Of `make_labels`."""


def published_pair(raw: RawPair, spec: CropSpec, rng: np.random.Generator) -> PublishedPair | None:
    """Make a pair; None where no jittered window shows the object."""
    template = _float_frame(raw.template)
    search = template if raw.search == raw.template else _float_frame(raw.search)
    window = jitter_window(raw.search_box, spec.search_factor, spec.search_size, rng, Jitter())
    if window is None:
        return None
    side = spec.template_size
    nominal = crop_transform(raw.template_box, spec.template_factor, (side, side))
    cut = [_crop(template, raw.template_box, nominal, side)]
    cut.append(_crop(search, raw.search_box, window, spec.search_size))
    crops, boxes = zip(*(_flip(crop / 255.0, box, rng) for crop, box in cut), strict=True)
    change = _last_change(rng)
    images = [pil_to_tensor(change(to_pil_image(_COLOURS(crop)))) for crop in crops]
    return PublishedPair(images[0], images[1], make_labels(boxes[:1], boxes[1:], spec))


def collate(pairs: list[PublishedPair]) -> tuple[Tensor, ...]:
    """Stack crops and labels."""
    labels = zip(*(pair.labels for pair in pairs), strict=True)
    return (
        torch.stack([pair.template for pair in pairs]),
        torch.stack([pair.search for pair in pairs]),
        *(torch.from_numpy(np.stack(each)) for each in labels),
    )


def _float_frame(path: Path) -> Tensor:
    """Return the whole frame, (3, H, W) float32 on 0 … 255."""
    return torch.from_numpy(read_image(path)).permute(2, 0, 1).to(torch.float32)


def _crop(frame: Tensor, box: tuple[float, ...], transform: CropTransform, size: int) -> tuple[Tensor, Box]:
    height, width = frame.shape[1:]
    adjusted = adjust(transform, (width, height), (size, size))
    mean = frame.mean(dim=(1, 2))
    crop = mean.view(3, 1, 1).expand(3, size, size).contiguous()
    if adjusted.covered is not None and adjusted.source is not None:
        x1, y1, x2, y2 = adjusted.covered
        left, top, right, bottom = adjusted.source
        part = frame[None, :, top:bottom, left:right]
        crop[:, y1:y2, x1:x2] = interpolate(part, (y2 - y1, x2 - x1), mode="bilinear", align_corners=False)[0]
    return crop, adjusted.transform.apply(np.asarray(box))


def _flip(crop: Tensor, box: Box, rng: np.random.Generator) -> tuple[Tensor, Box]:
    if rng.random() >= _FLIP:
        return crop, box
    side = crop.shape[2]
    return hflip(crop), np.array([side - box[2], box[1], side - box[0], box[3]])


def _last_change(rng: np.random.Generator) -> Callable[[Image], Image]:
    """Return one of grey, solarise and blur; both crops of a pair get the same."""
    choice = rng.integers(3)
    if choice == 0:
        return lambda image: ImageOps.grayscale(image).convert("RGB")
    if choice == 1:
        return lambda image: ImageOps.solarize(image, _SOLARISE_FROM)
    blur = ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0))
    return lambda image: image.filter(blur)
