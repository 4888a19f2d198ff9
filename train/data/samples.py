"""One training sample: read, crop, jitter, augment, label.

Promise: the sample at a place of a run depends on the shards, the recipe, the seed and the place, on nothing else. One
that no window shows is replaced by another row of its data set, and so is a damaged one where that is allowed; which
row it is depends on the place and the attempt alone. A network of n images is given the last n of a stored sample: of a
tuple LoRAT takes a pair.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lorat.configs.schema import AugmentConfig
from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.cache.cache import ShardCache, open_shard
from lorat.shards.pixels.geometry import Box, CropTransform, Image, adjust, box_mask, clip_boxes, crop_transform
from lorat.shards.pixels.jitter import MIN_OBJECT, Jitter, jitter_window
from lorat.shards.pixels.jpeg import ImageError, decode
from lorat.shards.pixels.resample import Window, sample_crop, sample_turned_crop, turn_box
from lorat.shards.reader import ShardReader
from lorat.shards.rng import Draws
from lorat.shards.sample import Sample, StoredImage, image_roles
from lorat.train.data.augment import augment_sample, swap_background
from lorat.train.data.places import CropSpec, Place, Source, shards_in_use

_REPLACEMENTS = 20
_MISFITS = 5000  # pairs whose frames are too far apart, or in the wrong order, in a row
_MOST_OPEN = 64  # shards a process: far below the usual limit on open files


class TrainingSample(NamedTuple):
    """What the network is given of one sample, and what it should answer; as in a `Batch`."""

    template: Image
    search: Image
    template_mask: NDArray[np.bool_]
    positive: NDArray[np.bool_]
    box: NDArray[np.float32]
    missing: float
    reference: Image | None
    key: str
    position: int = 0
    damaged: tuple[str, ...] = ()
    seconds: tuple[float, float] = (0.0, 0.0)


class Stored(NamedTuple):
    """A sample, and its last images decoded."""

    sample: Sample
    pixels: list[Image]


class Samples(Dataset["TrainingSample | UserError"]):
    """Training samples by their place; an error that a worker would raise gains a traceback."""

    def __init__(self, source: Source) -> None:
        self._source, self._cache = source, ShardCache(source.cache) if source.cache else None
        in_use = shards_in_use(source.manifests, source.window_shards)
        self._most_open = max(1, min(_MOST_OPEN, in_use)) if self._cache else _MOST_OPEN
        self._readers: dict[tuple[int, int], ShardReader] = {}
        self._uncached: set[tuple[int, int]] = set()
        self._read_for = 0.0
        self._damaged: list[str] = []

    def __getitem__(self, place: Place) -> TrainingSample | UserError:
        begin, self._read_for, self._damaged = time.perf_counter(), 0.0, []
        try:
            made = self._make(place)
        except UserError as error:
            return error
        seconds = self._read_for, time.perf_counter() - begin - self._read_for
        return made._replace(position=place.position, damaged=tuple(self._damaged), seconds=seconds)

    def _make(self, place: Place) -> TrainingSample:
        source, at = self._source, (self._source.seed, place.epoch, place.position)
        # Draws of its own: all other samples stay what they are without negative ones.
        negative = source.negatives > 0 and Draws("negative", *at).uniform() < source.negatives
        attempt = misfits = 0
        while attempt - misfits < _REPLACEMENTS and misfits < _MISFITS:
            key, attempt = (*at, attempt), attempt + 1
            shard, row = (place.shard, place.row) if key[-1] == 0 else self._row(place.dataset, Draws("replace", *key))
            reader = self._reader(place.dataset, shard)  # one that is gone is never skipped
            stored = self._decoded(reader, row, len(source.spec.views), source.suits)
            if stored is None:
                continue
            if not stored.pixels:
                misfits += 1
                continue
            rng = np.random.default_rng(key)
            background = None
            if source.augment.background and rng.random() < source.augment.background:
                background = self._background(reader, stored.sample, int(rng.integers(len(reader))), key)
            if negative:
                stored = self._astray(reader, stored, key)
            made = make_sample(stored, source.spec, source.augment, rng, background)
            if made is not None and negative:
                return made._replace(positive=np.zeros_like(made.positive), box=np.zeros_like(made.box))
            if made is not None:
                return made
        folder = source.manifests[place.dataset].folder
        if misfits == _MISFITS:
            wanted = " and ".join(f"data.{k}={v}" for k in ("max_gap", "causal") if (v := getattr(source, k)))
            raise UserError(f"{folder}: {misfits:,} pairs in a row do not suit {wanted}; build it with those")
        if self._damaged:
            raise self._too_damaged(folder)
        what = f"{_REPLACEMENTS} pairs in a row show too little of their object"
        raise UserError(f"{folder}: {what}; check the boxes of this data set")

    def _row(self, dataset: int, draws: Draws) -> tuple[int, int]:
        """Draw (shard, row) of any pair of a data set."""
        ends = np.cumsum([0, *(s.rows for s in self._source.manifests[dataset].shards)])
        number = draws.below(int(ends[-1]))
        shard = int(np.searchsorted(ends, number, side="right")) - 1
        return shard, number - int(ends[shard])

    def _decoded(self, reader: ShardReader, row: int, count: int, suits: Callable[[Sample], bool]) -> Stored | None:
        """Return a row and its last `count` images, none of one that does not suit; None for a damaged row that is
        skipped.
        """
        try:
            with self._reading():
                sample = reader.read(row)
            return Stored(sample, _decode(sample, count, reader, row) if suits(sample) else [])
        except ShardCorrupt as error:
            if not self._source.skip_damaged:
                raise ShardCorrupt(f"{error.message}, or train with --on-bad-sample skip") from None
            self._damaged.append(error.message)
            return None

    def _astray(self, reader: ShardReader, stored: Stored, key: tuple[int, ...]) -> Stored:
        """Return the sample with the search images of another sequence, from a row of `reader`, which is the sample's
        own, or of another data set.
        """
        sample, draws, count = stored.sample, Draws("astray", *key), self._source.spec.searches
        for _ in range(_REPLACEMENTS):
            where, row = self._elsewhere(draws) if self._source.negatives_from else (reader, draws.below(len(reader)))
            other = self._decoded(where, row, count, _of_others(sample))
            if other is not None and other.pixels:
                searches = sample.searches[:-count] + other.sample.searches[-count:]
                mixed = replace(sample, key=f"{sample.key}+{other.sample.key}", searches=searches)
                return Stored(mixed, stored.pixels[:-count] + other.pixels)
        what = f"{_REPLACEMENTS} draws found no sequence but {sample.sequence} for a negative pair"
        raise UserError(f"{reader.path}: {what}; build this data set from more sequences or set data.negatives=0")

    def _elsewhere(self, draws: Draws) -> tuple[ShardReader, int]:
        """Draw a row, and the reader of its shard, of the data set that negative pairs are taken from."""
        source = self._source
        names = [manifest.name for manifest in source.manifests]
        if source.negatives_from in names:
            dataset = names.index(source.negatives_from)
        else:
            dataset = int(np.searchsorted(np.cumsum(source.weights), draws.below(sum(source.weights)), side="right"))
        shard, row = self._row(dataset, draws)
        return self._reader(dataset, shard), row

    def _background(self, reader: ShardReader, sample: Sample, first: int, key: tuple[int, ...]) -> Image | None:
        """Return the last search image of the first sound row; None if it would show the object again. Rows are of the
        sample's own shard, which is open: on a disk they are near each other.
        """
        for number in range(_REPLACEMENTS):
            row = Draws("background", *key, number).below(len(reader)) if number else first
            found = self._decoded(reader, row, 1, _of_others(sample))
            if found is not None:
                return found.pixels[0] if found.pixels else None
        raise self._too_damaged(reader.path)

    def _too_damaged(self, where: object) -> UserError:
        what = f"{len(self._damaged)} samples in a row are damaged (last: {self._damaged[-1]})"
        return UserError(f"{where}: {what}; build this data set again")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._read_for += time.perf_counter() - begin

    def _reader(self, dataset: int, shard: int) -> ShardReader:
        at = (dataset, shard)
        reader = self._readers.pop(at, None)
        if reader is None:
            with self._reading():
                reader = self._open(at)
        self._readers[at] = reader  # last used, last in the table
        if len(self._readers) > self._most_open:  # a cache keeps what is open
            self._readers.pop(next(iter(self._readers))).close()
        return reader

    def _open(self, at: tuple[int, int]) -> ShardReader:
        manifest, shard = self._source.manifests[at[0]], at[1]
        if self._cache is not None and at not in self._uncached:
            try:
                return open_shard(manifest, shard, self._cache)
            except ShardCorrupt:
                # A cache refuses a damaged shard whole. Its sound rows are read where it lies, so that the same rows
                # count as damaged as without a cache; if it is gone, this fails.
                self._uncached.add(at)
        return open_shard(manifest, shard)


def _of_others(sample: Sample) -> Callable[[Sample], bool]:
    return lambda other: other.sequence != sample.sequence


def _decode(sample: Sample, count: int, reader: ShardReader, row: int) -> list[Image]:
    """Decode the last `count` images; windows that are the same, as of one still image, once."""
    decoded, images = dict[Any, Image](), list[Image]()
    for role, image in list(zip(image_roles(sample.shape), sample.images, strict=True))[-count:]:
        window = image.frame, image.origin, image.window
        if window not in decoded:
            decoded[window] = _decode_one(image, f"{sample.key}.{role}.jpg", reader, row)
        images.append(decoded[window])
    return images


def _decode_one(image: StoredImage, name: str, reader: ShardReader, row: int) -> Image:
    what = "does not decode"
    with suppress(ImageError):
        pixels = decode(image.jpeg)
        height, width = pixels.shape[:2]
        if (width, height) == image.size:
            return pixels
        what = f"is {width}x{height}, its JSON says {image.size[0]}x{image.size[1]}"
    raise ShardCorrupt(f"{reader.where(row)}: {name} {what}; delete the shard and build again")


def make_sample(
    stored: Stored, spec: CropSpec, config: AugmentConfig, rng: np.random.Generator, background: Image | None = None
) -> TrainingSample | None:
    """Crop, augment and label one stored sample; None where no jittered window shows an object. All crops but the
    templates are jittered, and have their objects put before `background`, (h, w, 3) uint8, if there is one.
    """
    views, fixed = spec.views, spec.templates
    images = stored.sample.images[-len(views) :]
    jitter, windows = Jitter(config.scale_jitter, config.translation_jitter), list[CropTransform]()
    for image, (size, factor) in zip(images, views, strict=True):
        nominal = len(windows) < fixed
        window = (
            crop_transform(image.box, factor, (size, size))
            if nominal
            else jitter_window(image.box, factor, size, rng, jitter)
        )
        if window is None:
            return None
        windows.append(window)
    crops, boxes, lacked = list[Image](), list[Box](), list[float]()
    for image, pixels, window, (size, _) in zip(images, stored.pixels, windows, views, strict=True):
        moves = len(crops) >= fixed
        angle = rng.uniform(-np.pi, np.pi) if moves and rng.random() < config.rotation else 0.0
        crop, box, missing = training_crop(image, pixels, window, size, angle)
        if moves and background is not None:
            crop, missing = swap_background(crop, box, background, rng), 0.0
        crops.append(crop)
        boxes.append(box)
        lacked.append(missing)
    crops, boxes = augment_sample(crops, boxes, rng, config, fixed)
    searches = len(views) - spec.searches
    return TrainingSample(
        _stacked(crops[:fixed]),
        _stacked(crops[searches:]),
        *make_labels(boxes[:fixed], boxes[searches:], spec),
        float(np.mean(lacked[fixed:])),
        _stacked(crops[fixed:searches])[0] if searches > fixed else None,
        stored.sample.key,
    )


def _stacked(crops: list[Image]) -> Image:
    """Return crops, channels first, as one array; one alone is not copied."""
    whole = crops[0][None] if len(crops) == 1 else np.stack(crops)
    return whole.transpose(0, 3, 1, 2)


def make_labels(
    template_boxes: Sequence[Box], search_boxes: Sequence[Box], spec: CropSpec
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float32]]:
    """Make the labels of a sample from its boxes in crop pixels, (4,) xyxy each.

    These are the (T, g, g) tokens that the object touches in each template, row-major [y, x]; the (S, G, G) cells of
    the response map that it touches in each search crop; and its (S, 4) xyxy boxes, cut at the search crop, in units of
    that crop's side.
    """
    size = spec.search_size
    searches = [clip_boxes(box, (size, size)) for box in search_boxes]
    side = spec.template_size
    templates = [clip_boxes(box, (side, side)) for box in template_boxes]
    return (
        np.stack([box_mask(box, side, spec.template_grid) for box in templates]),
        np.stack([box_mask(box, size, spec.search_grid) for box in searches]),
        (np.stack(searches) / size).astype(np.float32),
    )


def training_crop(
    image: StoredImage, pixels: Image, transform: CropTransform, size: int, angle: float = 0.0
) -> tuple[Image, Box, float]:
    """Sample a square crop from a stored image, whose decoded JPEG `pixels` are, (h, w, 3) uint8.

    `transform` goes from the original frame to crop pixels. The crop is turned by `angle`, in radians, about the
    object, unless too little of it would be left to see. Returns the (size, size, 3) uint8 crop, the (4,) box in it
    (not clipped), and the share of pixels that the stored window lacked.
    """
    adjusted = adjust(transform, image.frame_size, (size, size))
    window = Window(image.origin, image.window, image.size)
    box = adjusted.transform.apply(np.asarray(image.box))
    if angle:
        turned = turn_box(box, angle)
        seen = clip_boxes(turned, (size, size))
        if ((seen[2:] - seen[:2]) >= MIN_OBJECT).all():
            turn = (image.frame_size, angle, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
            crop, missing = sample_turned_crop(pixels, window, adjusted, size, image.mean, *turn)
            return crop, turned, missing
    crop, missing = sample_crop(pixels, window, adjusted, size, image.mean)
    return crop, box, missing
