"""Augmentation of one cropped pair: flips, colours, and one of grey, solarise or blur.

Crops are uint8 (S, S, 3) RGB. The order, ranges and which draws are shared between template and
search are the published system's; the last step works on 8-bit values, truncated, so what leaves
here is exactly what the network sees after normalisation. The generator is keyed by the pair's
place in the run, never by the process.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.configs.schema import AugmentConfig

__all__ = ["augment_pair"]

Image = NDArray[np.uint8]
Box = NDArray[np.float64]
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601 luma
_TO_GREY = np.tile(_GREY, (3, 1))
_SAME = np.eye(3, dtype=np.float32)


def augment_pair(
    crops: tuple[Image, Image],
    boxes: tuple[Box, Box],
    rng: np.random.Generator,
    config: AugmentConfig,
) -> tuple[tuple[Image, Image], tuple[Box, Box]]:
    """Augment a template and a search crop.

    Args:
        crops: template and search, (S, S, 3) uint8 each.
        boxes: (4,) xyxy of the object in each crop, crop pixels, not clipped.
        rng: of this pair.
        config: which augmentations and how strong.

    Returns:
        The crops and the boxes, flipped where the crop was.
    """
    pairs = [_flip(c, b, rng, config.flip) for c, b in zip(crops, boxes, strict=True)]
    images = [_jitter_colours(c, rng, config.colour_jitter) for c, _ in pairs]
    if config.grey_solarise_blur:
        images = _grey_solarise_or_blur(images, rng)
    if config.motion_blur and rng.random() < config.motion_blur:
        images[1] = _motion_blur(images[1], rng)
    return (images[0], images[1]), (pairs[0][1], pairs[1][1])


def _flip(crop: Image, box: Box, rng: np.random.Generator, p: float) -> tuple[Image, Box]:
    if rng.random() >= p:
        return crop, box
    width = crop.shape[1]
    return cv2.flip(crop, 1), np.array([width - box[2], box[1], width - box[0], box[3]])


def _jitter_colours(crop: Image, rng: np.random.Generator, strength: float) -> Image:
    """Change brightness, contrast and saturation in random order, clamped after each.

    The arithmetic is float32. OpenCV mixes the channels and clamps: NumPy's loops over an axis of
    three, and its clip, would take longer than everything else in this file.
    """
    if strength == 0.0:
        return crop
    order = rng.permutation(3)
    factors = rng.uniform(1.0 - strength, 1.0 + strength, 3)
    image = crop.astype(np.float32)
    for change in order:
        factor = np.float32(factors[change])
        if change == 0:
            image *= factor
        elif change == 1:
            grey = np.dot(cv2.sumElems(image)[:3], _GREY) / (image.shape[0] * image.shape[1])
            image *= factor
            image += (1.0 - factor) * np.float32(grey)
        else:
            image = cv2.transform(image, factor * _SAME + (1.0 - factor) * _TO_GREY)
        if not 0.0 <= factor <= 1.0:  # else every value stays between two that were in range
            cv2.threshold(image, 255.0, 0.0, cv2.THRESH_TRUNC, dst=image)
            cv2.threshold(image, 0.0, 0.0, cv2.THRESH_TOZERO, dst=image)
    return image.astype(np.uint8)  # truncated, as the published system converts


def _grey_solarise_or_blur(images: list[Image], rng: np.random.Generator) -> list[Image]:
    """Apply one choice, uniformly drawn, to both crops."""
    choice = rng.integers(3)
    if choice == 0:
        return [
            cv2.cvtColor(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) for i in images
        ]
    if choice == 1:
        return [np.minimum(i, ~i) for i in images]  # ~i is 255 - i, the smaller from 128 on
    radius = rng.uniform(0.1, 2.0)
    return [cv2.GaussianBlur(i, (0, 0), radius) for i in images]


def _motion_blur(image: Image, rng: np.random.Generator) -> Image:
    """Smear the crop along a straight line of up to a tenth of its side."""
    length = rng.uniform(2.0, image.shape[0] / 10)
    angle = rng.uniform(0.0, np.pi)
    reach = int(length / 2) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), dtype=np.uint8)
    step = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    ends = [tuple(int(v) for v in np.rint((reach + sign * step) * 16)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 255, 1, cv2.LINE_AA, shift=4)
    weights = kernel.astype(np.float32) / kernel.sum(dtype=np.float32)
    return cv2.filter2D(image, -1, weights, borderType=cv2.BORDER_REPLICATE)
