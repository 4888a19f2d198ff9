"""Augmentation of one cropped sample: flips, colours, and one of grey, solarise or blur; backgrounds.

Crops are uint8 (S, S, 3) RGB. The order, ranges and which draws the images share are the
published systems'; the last step works on 8-bit values, truncated, so what leaves here is exactly what the network sees
after normalisation. The generator is keyed by the sample's place in the run, never by the process.

A pair of crops from one still image shares its surroundings, so a network that learns from such pairs alone finds the
object by what lies around it, and follows the ground when the object moves on. Before another photograph only the
object itself is left to be found. Pieces of its old surroundings are pasted as decoys, so that neither they nor the
seams of a paste give it away.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.configs.schema import AugmentConfig
from lorat.shards.pixels.geometry import Box, Image

_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601 luma
_TO_GREY = np.tile(_GREY, (3, 1))
_SAME = np.eye(3, dtype=np.float32)
_DECOYS = 3  # at most
_FADE = (0.02, 0.3)  # width of a seam, in half sides of the pasted piece


def augment_sample(
    crops: list[Image], boxes: list[Box], rng: np.random.Generator, config: AugmentConfig, templates: int
) -> tuple[list[Image], list[Box]]:
    """Augment the crops of a sample, of which so many first ones are templates, and flip their (4,) xyxy boxes (crop
    pixels, not clipped) with them.
    """
    flipped = [_flip(c, b, rng, config.flip) for c, b in zip(crops, boxes, strict=True)]
    images = [_jitter_colours(c, rng, config.colour_jitter) for c, _ in flipped]
    if config.grey_solarise_blur:
        images = _grey_solarise_or_blur(images, rng)
    for number in range(templates, len(images) if config.motion_blur else 0):
        if rng.random() < config.motion_blur:
            images[number] = _motion_blur(images[number], rng)
    return images, [box for _, box in flipped]


def _flip(crop: Image, box: Box, rng: np.random.Generator, p: float) -> tuple[Image, Box]:
    if rng.random() >= p:
        return crop, box
    width = crop.shape[1]
    return cv2.flip(crop, 1), np.array([width - box[2], box[1], width - box[0], box[3]])


def _jitter_colours(crop: Image, rng: np.random.Generator, strength: float) -> Image:
    """Change brightness, contrast and saturation in random order, in float32, clamped after each. OpenCV mixes and
    clamps: NumPy's loops over an axis of three, and its clip, would take longer than all else in this file.
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
    """Apply one choice, uniformly drawn, to all crops."""
    choice = rng.integers(3)
    if choice == 0:
        greys = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images)
        return [cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB) for grey in greys]
    if choice == 1:
        return [np.minimum(i, ~i) for i in images]  # ~i is 255 - i, the smaller from 128 on
    radius = rng.uniform(0.1, 2.0)
    return [cv2.GaussianBlur(i, (0, 0), radius) for i in images]


def _motion_blur(image: Image, rng: np.random.Generator) -> Image:
    """Smear the crop along a straight line of up to a tenth of its side."""
    length, angle = rng.uniform(2.0, image.shape[0] / 10), rng.uniform(0.0, np.pi)
    reach = int(length / 2) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), dtype=np.uint8)
    step = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    ends = [tuple(int(v) for v in np.rint((reach + sign * step) * 16)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 255, 1, cv2.LINE_AA, shift=4)
    weights = kernel.astype(np.float32) / kernel.sum(dtype=np.float32)
    return cv2.filter2D(image, -1, weights, borderType=cv2.BORDER_REPLICATE)


def swap_background(crop: Image, box: Box, other: Image, rng: np.random.Generator) -> Image:
    """Show the object, and up to three pieces of its surroundings, before a random square of another image.

    The object is cut out as a superellipse that fills its box: between an ellipse, which suits round and thin objects,
    and nearly the whole box. The (S, S, 3) uint8 crop is copied, its (4,) xyxy box (crop pixels, not clipped) stays
    where it is, `other` is (h, w, 3) uint8.
    """
    size = crop.shape[0]
    centre, half = (box[:2] + box[2:]) * 0.5, (box[2:] - box[:2]) * 0.5
    keep = _piece(size, centre, half, rng)
    for _ in range(rng.integers(_DECOYS + 1)):
        reach = np.sqrt(half.prod()) * rng.uniform(0.5, 1.25, 2)
        np.maximum(keep, _piece(size, rng.uniform(0.0, size, 2), reach, rng), out=keep)
    height, width = other.shape[:2]
    side = max(1, round(min(height, width) * rng.uniform(0.5, 1.0)))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    square = cv2.resize(other[top : top + side, left : left + side], (size, size), interpolation=how)
    background = square.astype(np.float32)
    mixed = background + keep[..., None] * (crop.astype(np.float32) - background)
    return np.rint(mixed).astype(np.uint8)


def _piece(size: int, centre: Box, half: Box, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return how much of a piece (its centre and half sides, (2,) each) each pixel shows: (size, size) in [0, 1]."""
    power, fade = rng.uniform(2.0, 8.0), rng.uniform(*_FADE)
    along = np.arange(size) + 0.5
    dx, dy = (np.abs(along - c) / max(h, 1.0) for c, h in zip(centre, half, strict=True))
    radius = (dx[None, :] ** power + dy[:, None] ** power) ** (1.0 / power)
    return np.clip((1.0 + fade - radius) / fade, 0.0, 1.0).astype(np.float32)
