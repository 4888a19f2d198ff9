"""Masks to numbers, as VOT's toolkit computes them: J and F (since 0.9.0), quality, accuracy, robustness, errors.

Formulas: J is the overlap of two masks, intersection over union, and F the harmonic mean of precision and recall of
their contours, within a tolerance (Perazzi et al., 2016); the rest is of VOTS 2023 (Kristan et al.). Overlap is 1 where
neither has a pixel. Axes: H, W of a frame.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.results.regions import LOST, STARTED, Region

Mask = NDArray[np.bool_]
TOLERANCE = 0.008  # of the frame's diagonal, within which contours match
_FEWEST_ABSENT = 10  # frames; with no more, how well absence is told is not said
_SQUARE = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class ObjectScores:
    """What is said of one object in one sequence; NaN where no frame counts."""

    j: float
    f: float
    quality: float
    accuracy: float
    robustness: float
    nre: float
    dre: float
    adq: float

    @property
    def jf(self) -> float:
        """Return the mean of J and F."""
        return (self.j + self.f) / 2.0


class _Frame(NamedTuple):
    truth: Region
    found: Region
    overlap: float
    contour: float


def contour_accuracy(truth: Mask, found: Mask, tolerance: int) -> float:
    """Return F of two (H, W) masks: a contour pixel counts where the other's contour has one within so many pixels. 1
    where neither has a contour, 0 where one has.
    """
    contours = [_contour(mask) for mask in (truth, found)]
    counts = [int(contour.sum()) for contour in contours]
    if 0 in counts:
        return float(counts[0] == counts[1])
    y, x = np.ogrid[-tolerance : tolerance + 1, -tolerance : tolerance + 1]
    disc = (x * x + y * y <= tolerance * tolerance).astype(np.uint8)
    near = [cv2.dilate(contour, disc) for contour in contours]
    recall = int((contours[0] & near[1]).sum()) / counts[0]
    precision = int((contours[1] & near[0]).sum()) / counts[1]
    return 2.0 * recall * precision / (recall + precision) if recall + precision else 0.0


def _contour(mask: Mask) -> NDArray[np.uint8]:
    """Return (H, W) ones on pixels with a neighbour outside the mask; beyond the frame counts as inside."""
    filled = mask.astype(np.uint8)
    return filled ^ cv2.erode(filled, _SQUARE)


def score_object(
    truth: Sequence[Region], found: Sequence[Region], size: tuple[int, int], ignored: Sequence[Region] | None = None
) -> ObjectScores:
    """Score an object's regions, one a frame, in frames of a size (width, height); pixels of `ignored` do not count.

    A code of the truth's is no annotation: such a frame does not count where it is 0, nor in J and F at all. The frame
    that starts the object counts 1 in J and F and 0 in quality and accuracy, as the toolkit has it.
    """
    frames = list(_frames(truth, found, size, ignored))
    annotated = [frame for frame in frames if frame.truth.code is None]
    known = [frame for frame in frames if frame.truth.code != 0]
    counted = [frame for frame in known if frame.found.code != LOST]
    there = [frame for frame in known if not frame.truth.is_empty]
    held = [frame for frame in there if frame.overlap > 0.0]
    missed = [frame for frame in there if frame.overlap <= 0.0 and frame.found.is_empty]
    absent = [frame for frame in known if frame.truth.is_empty]
    noticed = [frame for frame in absent if frame.found.is_empty]
    kept = [frame for frame in there if frame.overlap > 0.0 or frame.found.code == STARTED]
    return ObjectScores(
        j=_mean(_similarity(frame) for frame in annotated),
        f=_mean(1.0 if frame.found.code == STARTED else frame.contour for frame in annotated),
        quality=_mean(frame.overlap for frame in counted),
        accuracy=_mean(frame.overlap for frame in kept if frame.found.code != LOST),
        robustness=_share(len(held), len(there)),
        nre=_share(len(missed), len(there)),
        dre=_share(len(there) - len(held) - len(missed), len(there)),
        adq=_share(len(noticed), len(absent)) if len(absent) > _FEWEST_ABSENT else math.nan,
    )


def _similarity(frame: _Frame) -> float:
    return frame.overlap if frame.found.code is None else float(frame.found.code == STARTED)


def mean_scores(sequences: Sequence[Sequence[ObjectScores]]) -> ObjectScores:
    """Average the scores of the objects of sequences: J and F over all objects, the others over the sequences' means,
    without those that have none; an object without a frame for quality or accuracy has 0.
    """
    every = [each for objects in sequences for each in objects]
    means = {name: _mean(_known(getattr(each, name) for each in every)) for name in ("j", "f")}
    instead = {"quality": 0.0, "accuracy": 0.0}
    for name in (*instead, "robustness", "nre", "dre", "adq"):
        values = ([getattr(each, name) for each in objects] for objects in sequences)
        filled = ([instead.get(name, value) if math.isnan(value) else value for value in own] for own in values)
        means[name] = _mean(_known(_mean(_known(own)) for own in filled))
    return ObjectScores(**means)


def _frames(
    truth: Sequence[Region], found: Sequence[Region], size: tuple[int, int], ignored: Sequence[Region] | None
) -> Iterator[_Frame]:
    tolerance = max(1, math.ceil(TOLERANCE * math.hypot(*size)))
    for number, (wanted, got) in enumerate(zip(truth, found, strict=True)):
        window = _window((wanted, got), size, tolerance + 1)
        masks = [_on(region, window) for region in (wanted, got)]
        if ignored is not None:
            out = _on(ignored[number], window)
            masks = [mask & ~out for mask in masks]
        union, common = int((masks[0] | masks[1]).sum()), int((masks[0] & masks[1]).sum())
        nothing = float(wanted.is_empty and got.is_empty)
        yield _Frame(wanted, got, common / union if union else nothing, contour_accuracy(masks[0], masks[1], tolerance))


def _window(regions: Iterable[Region], size: tuple[int, int], margin: int) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the part of a frame that regions lie in, with a margin; at least a pixel."""
    full = [region for region in regions if region.pixels.size]
    left = min((region.x for region in full), default=0) - margin
    top = min((region.y for region in full), default=0) - margin
    right = max((region.x + region.pixels.shape[1] for region in full), default=0) + margin
    bottom = max((region.y + region.pixels.shape[0] for region in full), default=0) + margin
    left, top = min(max(left, 0), size[0] - 1), min(max(top, 0), size[1] - 1)
    return left, top, max(min(right, size[0]), left + 1), max(min(bottom, size[1]), top + 1)


def _on(region: Region, window: tuple[int, int, int, int]) -> Mask:
    """Return a region's pixels in a window of the frame."""
    left, top, right, bottom = window
    mask = np.zeros((bottom - top, right - left), np.bool_)
    rows, columns = region.pixels.shape
    x1, y1 = max(region.x, left), max(region.y, top)
    x2, y2 = min(region.x + columns, right), min(region.y + rows, bottom)
    if x2 > x1 and y2 > y1:
        part = region.pixels[y1 - region.y : y2 - region.y, x1 - region.x : x2 - region.x]
        mask[y1 - top : y2 - top, x1 - left : x2 - left] = part
    return mask


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
