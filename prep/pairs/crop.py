"""Cuts one sample out of its frames: windows, mean colours, boxes, and whether it is usable."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.prep.pairs.draw import SampleDraw
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.options import option
from lorat.shards.pixels.geometry import Image, crop_transform
from lorat.shards.pixels.jitter import MIN_OBJECT, Jitter
from lorat.shards.pixels.jpeg import RANGE16, Range16, encode
from lorat.shards.pixels.resample import SERVED, Window, context_window, cut_window, template_window
from lorat.shards.rng import Draws
from lorat.shards.sample import Sample, StoredImage

_TRIALS, _MIN_ACCEPTED = 60, 1 / 20  # windows tried on a search frame, and the share of them that training must accept


@dataclass(frozen=True, slots=True)
class CropOptions:
    """What is stored of each frame; `serve` decides sizes, by `SERVED`."""

    serve: Literal[224, 378] = option(224, help="Search size of the variants that will train on the shards.")
    context: float = field(init=False)
    object_side: int = field(init=False)
    longest: int = field(init=False)
    area_factor: float = field(init=False)
    quality: int = option(92, least=50, most=100, help="Of the stored JPEGs.")
    range16: Range16 | None = option(None, **RANGE16)

    def __post_init__(self) -> None:
        for name, value in SERVED[self.serve]._asdict().items():
            object.__setattr__(self, name, value)


class JitterReport(NamedTuple):
    """Windows tried on one search frame: how many were drawn, accepted, and left the stored window."""

    tried: int
    accepted: int
    outside: int

    @property
    def usable(self) -> bool:
        """Whether training will find an accepted window within its attempts."""
        return self.accepted >= _MIN_ACCEPTED * self.tried


class FrameSizeChanged(Exception):
    """A frame that has another size than the first one of its sequence."""


def cut_sample(clip: Clip, drawn: SampleDraw, key: str, options: CropOptions) -> Sample:
    """Cut out what is stored of a sample of a cleaned clip, each of its frames decoded once, and each window encoded
    once; an `ImageError` or a `FrameSizeChanged` is its frames'.
    """
    boxes, size, frames = clip.tracks[drawn.track].boxes, clip.frame_size(), clip.stretched(options.range16).frames
    wanted = [(index, template_window(boxes[index], size, options.object_side)) for index in drawn.templates]
    wanted += [(index, search_window(boxes[index], size, options)) for index in drawn.searches]
    decoded, stored = dict[int, Image](), dict[tuple[int, Window], StoredImage]()
    for index, window in wanted:
        if index not in decoded:
            decoded[index] = frame = frames.read(index)
            height, width = frame.shape[:2]
            if (width, height) != size:
                raise FrameSizeChanged(f"{clip.frames[index]}: {width}x{height} instead of {size[0]}x{size[1]}")
        if (index, window) not in stored:
            box = boxes[index].round(4).tolist()
            stored[index, window] = _store(decoded[index], clip.first + index, box, window, options.quality)
    images, first = tuple(stored[each] for each in wanted), len(drawn.templates)
    about = key, clip.dataset, clip.split, clip.name, drawn.track
    return Sample(*about, templates=images[:first], searches=images[first:])


def _store(frame: Image, number: int, box: list[float], window: Window, quality: int) -> StoredImage:
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = box
    red, green, blue = (round(channel, 2) for channel in cv2.mean(frame)[:3])
    return StoredImage(
        frame=number,
        box=(x1, y1, x2, y2),
        frame_size=(width, height),
        mean=(red, green, blue),
        origin=window.origin,
        window=window.end,
        size=window.size,
        jpeg=encode(cut_window(frame, window), quality),
    )


def search_window(box: NDArray[np.float64], frame_size: tuple[int, int], options: CropOptions) -> Window:
    """Return the window that is stored of a search frame."""
    return context_window(box, frame_size, options.context, options.object_side, options.longest)


def try_jitter(
    box: NDArray[np.float64], frame_size: tuple[int, int], options: CropOptions, draws: Draws
) -> JitterReport:
    """Draw training windows for a (4,) xyxy box in a frame of (width, height); report how they fare on the stored one.
    They follow `lorat.shards.pixels.jitter.jitter_window`, all at once. Since the report decides whether a pair is
    stored, they come from `draws` and not from NumPy's distributions.
    """
    jitter, size = Jitter(), options.serve
    u = draws.uniforms(6 * _TRIALS).reshape(6, _TRIALS)
    normal = np.sqrt(-2.0 * np.log1p(-u[:2])) * np.cos(2.0 * np.pi * u[2:4])  # Box and Muller
    nominal = crop_transform(box, options.area_factor, (size, size)).scale[0]
    scale = nominal / np.exp(jitter.scale * normal)
    reach = jitter.translation * ((box[2:] - box[:2])[:, None] * scale).sum(axis=0) * 0.5
    centre = ((box[:2] + box[2:]) * 0.5)[:, None]
    translation = size * 0.5 - centre * scale + (2.0 * u[4:] - 1.0) * reach
    low, high = (np.clip(box[k : k + 2, None] * scale + translation, 0, size) for k in (0, 2))
    accepted = ((high - low) >= MIN_OBJECT).all(axis=0)
    frame = np.array(frame_size)[:, None]
    begin, end = (np.clip((edge - translation) / scale, 0, frame) for edge in (0, size))
    stored = search_window(box, frame_size, options)
    before = np.floor(begin) < np.array(stored.origin)[:, None]
    after = np.ceil(end) > np.array(stored.end)[:, None]
    outside = accepted & (before | after).any(axis=0)
    return JitterReport(_TRIALS, int(accepted.sum()), int(outside.sum()))
