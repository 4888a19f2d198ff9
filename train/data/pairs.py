"""One training pair: read, crop, jitter, augment, label.

Promise: the pair at a place of a run depends on the shards, the recipe, the seed and the place, on
nothing else. A pair that no window shows is replaced by another row of its data set, and so is a
damaged one where that is allowed; which row it is depends on the place and the attempt alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lorat.configs.schema import AugmentConfig
from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.cache.cache import ShardCache, open_shard
from lorat.shards.pixels.geometry import CropTransform, adjust, clip_boxes, crop_transform
from lorat.shards.pixels.jitter import MIN_OBJECT, Jitter, jitter_window
from lorat.shards.pixels.jpeg import ImageError, decode
from lorat.shards.pixels.resample import Turn, Window, sample_crop, sample_turned_crop, turn_box
from lorat.shards.reader import ShardReader
from lorat.shards.rng import Draws
from lorat.shards.sample import PairSample, StoredImage
from lorat.train.data.augment import augment_pair
from lorat.train.data.backgrounds import swap_background
from lorat.train.data.labels import CropSpec, make_labels
from lorat.train.data.places import Place, Source
from lorat.train.data.prefetch import shards_in_use

__all__ = [
    "Failure",
    "Pairs",
    "StoredPair",
    "TrainingPair",
    "make_pair",
    "training_crop",
    "without_object",
]

_REPLACEMENTS = 20
_MOST_OPEN = 64  # shards a process: far below the usual limit on open files

Image = NDArray[np.uint8]


class TrainingPair(NamedTuple):
    """What the network is given of one pair, and what it should answer."""

    template: Image
    """(3, h, w)."""
    search: Image
    """(3, H, W)."""
    template_mask: NDArray[np.bool_]
    positive: NDArray[np.bool_]
    box: NDArray[np.float32]
    missing: float
    """Share of the search crop that the stored window lacked."""
    key: str
    position: int = 0
    """In its epoch."""
    damaged: tuple[str, ...] = ()
    """The damaged samples that were read before this pair was found."""
    seconds: tuple[float, float] = (0.0, 0.0)
    """Spent on reading stored bytes, and on the rest: decoding, cropping, augmenting."""


class Failure(NamedTuple):
    """A user's error on its way from a worker: raised there it would gain a traceback."""

    message: str


class StoredPair(NamedTuple):
    """A sample with its images decoded."""

    sample: PairSample
    template: Image
    search: Image


class Pairs(Dataset["TrainingPair | Failure"]):
    """Training pairs by their place."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._cache = ShardCache(source.cache) if source.cache else None
        in_use = shards_in_use(source.manifests, source.window_shards)
        self._most_open = max(1, min(_MOST_OPEN, in_use)) if self._cache else _MOST_OPEN
        self._readers: dict[tuple[int, int], ShardReader] = {}
        self._uncached: set[tuple[int, int]] = set()
        self._read_for = 0.0

    def __getitem__(self, place: Place) -> TrainingPair | Failure:
        begin, self._read_for = time.perf_counter(), 0.0
        try:
            pair = self._make(place)
        except UserError as error:
            return Failure(error.message)
        rest = time.perf_counter() - begin - self._read_for
        return pair._replace(seconds=(self._read_for, rest))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._read_for += time.perf_counter() - begin

    def _make(self, place: Place) -> TrainingPair:
        source = self._source
        damaged: list[str] = []
        for attempt in range(_REPLACEMENTS):
            shard, row = self._row(place, attempt)
            with self._reading():
                reader = self._reader(place.dataset, shard)  # one that is gone is never skipped
            try:
                with self._reading():
                    sample = reader.read(row)
                stored = _decoded(sample, reader, row)
            except ShardCorrupt as error:
                self._skip(error, damaged)
                continue
            negative = self._is_negative(place)
            if negative:
                stored = self._astray(place, attempt, reader, stored, damaged)
            rng = np.random.default_rng((source.seed, place.epoch, place.position, attempt))
            background = None
            if source.augment.background and rng.random() < source.augment.background:
                rows = self._background_rows(place, attempt, reader, int(rng.integers(len(reader))))
                background = self._background(reader, rows, stored.sample, damaged)
            pair = make_pair(stored, source.spec, source.augment, rng, background)
            if pair is not None:
                pair = without_object(pair) if negative else pair
                return pair._replace(position=place.position, damaged=tuple(damaged))
        raise self._gave_up(place.dataset, damaged)

    def _row(self, place: Place, attempt: int) -> tuple[int, int]:
        """Return (shard, row) of an attempt: the place's own, then other rows of its data set."""
        if attempt == 0:
            return place.shard, place.row
        rows = [s.rows for s in self._source.manifests[place.dataset].shards]
        draws = Draws("replace", self._source.seed, place.epoch, place.position, attempt)
        number = draws.below(sum(rows))
        ends = np.cumsum(rows)
        shard = int(np.searchsorted(ends, number, side="right"))
        return shard, number - int(ends[shard] - rows[shard])

    def _is_negative(self, place: Place) -> bool:
        share = self._source.negatives
        if not share:
            return False
        # Draws of its own: all other pairs stay what they are without negative ones.
        draws = Draws("negative", self._source.seed, place.epoch, place.position)
        return draws.uniform() < share

    def _astray(
        self,
        place: Place,
        attempt: int,
        reader: ShardReader,
        stored: StoredPair,
        damaged: list[str],
    ) -> StoredPair:
        """Return the pair with the search image of another sequence, from a row of its shard.

        Raises:
            UserError: if no such row is found, or a row is damaged and may not be skipped.
        """
        draws = Draws("astray", self._source.seed, place.epoch, place.position, attempt)
        sample = stored.sample
        for _ in range(_REPLACEMENTS):
            row = draws.below(len(reader))
            try:
                with self._reading():
                    other = reader.read(row)
                if other.sequence == sample.sequence:
                    continue
                search = _decode(other.search, reader, row, f"{other.key}.search.jpg")
            except ShardCorrupt as error:
                self._skip(error, damaged)
                continue
            mixed = replace(sample, key=f"{sample.key}+{other.key}", search=other.search)
            return StoredPair(mixed, stored.template, search)
        raise UserError(
            f"{reader.path}: {_REPLACEMENTS} draws found no sequence but {sample.sequence} for a "
            "negative pair; build this data set from more sequences or set data.negatives=0"
        )

    def _background_rows(
        self, place: Place, attempt: int, reader: ShardReader, first: int
    ) -> Iterator[int]:
        """Yield rows of the pair's own shard, which is open: on a disk they are near each other."""
        yield first
        for again in range(1, _REPLACEMENTS):
            key = (self._source.seed, place.epoch, place.position, attempt, again)
            yield Draws("background", *key).below(len(reader))

    def _background(
        self, reader: ShardReader, rows: Iterator[int], sample: PairSample, damaged: list[str]
    ) -> Image | None:
        """Return the search image of the first sound row; None if it would show the object again.

        Raises:
            UserError: if every row is damaged, or one is and may not be skipped.
        """
        for row in rows:
            try:
                with self._reading():
                    other = reader.read(row)
                if other.sequence == sample.sequence:
                    return None
                return _decode(other.search, reader, row, f"{other.key}.search.jpg")
            except ShardCorrupt as error:
                self._skip(error, damaged)
        raise _too_damaged(str(reader.path), damaged)

    def _skip(self, error: ShardCorrupt, damaged: list[str]) -> None:
        if not self._source.skip_damaged:
            raise ShardCorrupt(f"{error.message}, or train with --on-bad-sample skip") from None
        damaged.append(error.message)

    def _gave_up(self, dataset: int, damaged: list[str]) -> UserError:
        folder = self._source.manifests[dataset].folder
        if damaged:
            return _too_damaged(str(folder), damaged)
        return UserError(
            f"{folder}: {_REPLACEMENTS} pairs in a row show too little of their object; check the "
            "boxes of this data set"
        )

    def _reader(self, dataset: int, shard: int) -> ShardReader:
        at = (dataset, shard)
        reader = self._readers.pop(at, None)
        if reader is None:
            reader = self._open(at)
        self._readers[at] = reader  # last used, last in the table
        if len(self._readers) > self._most_open:  # a cache keeps what is open
            self._readers.pop(next(iter(self._readers))).close()
        return reader

    def _open(self, at: tuple[int, int]) -> ShardReader:
        manifest, shard = self._source.manifests[at[0]], at[1]
        if at not in self._uncached:
            try:
                return open_shard(manifest, shard, self._cache)
            except ShardCorrupt:
                if self._cache is None:
                    raise
                # A cache refuses a damaged shard whole. Its sound rows are read where it lies, so
                # that the same rows count as damaged as without a cache; if it is gone, this fails.
                self._uncached.add(at)
        return open_shard(manifest, shard)


def _too_damaged(where: str, damaged: list[str]) -> UserError:
    return UserError(
        f"{where}: {len(damaged)} samples in a row are damaged (last: "
        f"{damaged[-1]}); build this data set again"
    )


def _decoded(sample: PairSample, reader: ShardReader, row: int) -> StoredPair:
    """Decode the images of a row of `reader`.

    Raises:
        ShardCorrupt: if one does not decode.
    """
    template = _decode(sample.template, reader, row, f"{sample.key}.template.jpg")
    return StoredPair(
        sample, template, _decode(sample.search, reader, row, f"{sample.key}.search.jpg")
    )


def _decode(image: StoredImage, reader: ShardReader, row: int, name: str) -> Image:
    try:
        pixels = decode(image.jpeg, name)
    except ImageError:
        raise ShardCorrupt(
            f"{reader.where(row)}: {name} does not decode; delete the shard and build again"
        ) from None
    if pixels.shape[1::-1] != image.size:
        raise ShardCorrupt(
            f"{reader.where(row)}: {name} is {pixels.shape[1]}x{pixels.shape[0]}, its JSON says "
            f"{image.size[0]}x{image.size[1]}; delete the shard and build again"
        )
    return pixels


def make_pair(
    stored: StoredPair,
    spec: CropSpec,
    config: AugmentConfig,
    rng: np.random.Generator,
    background: Image | None = None,
) -> TrainingPair | None:
    """Crop, augment and label one stored pair; None where no jittered window shows the object.

    Args:
        stored: the sample and its images.
        spec: crop sizes, area factors and grids.
        config: jitter and augmentation.
        rng: of this pair.
        background: (h, w, 3) uint8; the object of the search crop is put before it.
    """
    sample = stored.sample
    jitter = Jitter(config.scale_jitter, config.translation_jitter)
    window = jitter_window(sample.search.box, spec.search_factor, spec.search_size, rng, jitter)
    if window is None:
        return None
    size = spec.template_size
    nominal = crop_transform(sample.template.box, spec.template_factor, (size, size))
    template, template_box, _ = training_crop(sample.template, stored.template, nominal, size)
    angle = rng.uniform(-np.pi, np.pi) if rng.random() < config.rotation else 0.0
    search, search_box, missing = training_crop(
        sample.search, stored.search, window, spec.search_size, angle
    )
    if background is not None:
        search = swap_background(search, search_box, background, rng)
        missing = 0.0
    crops, boxes = augment_pair((template, search), (template_box, search_box), rng, config)
    labels = make_labels(*boxes, spec)
    return TrainingPair(
        crops[0].transpose(2, 0, 1),
        crops[1].transpose(2, 0, 1),
        labels.template_mask,
        labels.positive,
        labels.box,
        missing,
        sample.key,
    )


def without_object(pair: TrainingPair) -> TrainingPair:
    """Return the pair with the labels of one whose search crop lacks the object."""
    return pair._replace(positive=np.zeros_like(pair.positive), box=np.zeros_like(pair.box))


def training_crop(
    image: StoredImage, pixels: Image, transform: CropTransform, size: int, angle: float = 0.0
) -> tuple[Image, NDArray[np.float64], float]:
    """Sample a square crop from a stored image.

    The crop is turned by `angle` about the object, unless too little of it would be left to see.

    Args:
        image: what is stored of the frame.
        pixels: (h, w, 3) uint8, its decoded JPEG.
        transform: from original frame to crop pixels.
        size: side of the crop.
        angle: radians.

    Returns:
        The (size, size, 3) uint8 crop, the (4,) box in it (not clipped), and the share of pixels
        that the stored window lacked.
    """
    adjusted = adjust(transform, image.frame_size, (size, size))
    window = Window(image.origin, image.window, image.size)
    box = adjusted.transform.apply(np.asarray(image.box))
    if angle:
        turned = turn_box(box, angle)
        seen = clip_boxes(turned, (size, size))
        if ((seen[2:] - seen[:2]) >= MIN_OBJECT).all():
            turn = Turn(angle, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), size)
            crop, missing = sample_turned_crop(
                pixels, window, adjusted, image.frame_size, image.mean, turn
            )
            return crop, turned, missing
    crop, missing = sample_crop(pixels, window, adjusted, size, image.mean)
    return crop, box, missing
