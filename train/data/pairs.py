"""One training pair: read, crop, jitter, augment, label.

Promise: the pair at a place of a run depends on the shards, the recipe, the seed and the place, on nothing else. A pair
that no window shows is replaced by another row of its data set, and so is a damaged one where that is allowed; which
row it is depends on the place and the attempt alone.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import NamedTuple

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
from lorat.shards.sample import PairSample, StoredImage
from lorat.train.data.augment import augment_pair, swap_background
from lorat.train.data.places import CropSpec, Place, Source, shards_in_use

_REPLACEMENTS = 20
_MISFITS = 5000  # pairs whose frames are too far apart, or in the wrong order, in a row
_MOST_OPEN = 64  # shards a process: far below the usual limit on open files


class TrainingPair(NamedTuple):
    """What the network is given of one pair, and what it should answer; as in a `Batch`."""

    template: Image
    search: Image
    template_mask: NDArray[np.bool_]
    positive: NDArray[np.bool_]
    box: NDArray[np.float32]
    missing: float
    key: str
    position: int = 0
    damaged: tuple[str, ...] = ()
    seconds: tuple[float, float] = (0.0, 0.0)


class StoredPair(NamedTuple):
    """A sample with its images decoded."""

    sample: PairSample
    template: Image
    search: Image


class Pairs(Dataset["TrainingPair | UserError"]):
    """Training pairs by their place; an error that a worker would raise gains a traceback."""

    def __init__(self, source: Source) -> None:
        self._source, self._cache = source, ShardCache(source.cache) if source.cache else None
        in_use = shards_in_use(source.manifests, source.window_shards)
        self._most_open = max(1, min(_MOST_OPEN, in_use)) if self._cache else _MOST_OPEN
        self._readers: dict[tuple[int, int], ShardReader] = {}
        self._uncached: set[tuple[int, int]] = set()
        self._read_for = 0.0
        self._damaged: list[str] = []

    def __getitem__(self, place: Place) -> TrainingPair | UserError:
        begin, self._read_for, self._damaged = time.perf_counter(), 0.0, []
        try:
            pair = self._make(place)
        except UserError as error:
            return error
        seconds = self._read_for, time.perf_counter() - begin - self._read_for
        return pair._replace(position=place.position, damaged=tuple(self._damaged), seconds=seconds)

    def _make(self, place: Place) -> TrainingPair:
        source, at = self._source, (self._source.seed, place.epoch, place.position)
        # Draws of its own: all other pairs stay what they are without negative ones.
        negative = source.negatives > 0 and Draws("negative", *at).uniform() < source.negatives
        attempt = misfits = 0
        while attempt - misfits < _REPLACEMENTS and misfits < _MISFITS:
            key, attempt = (*at, attempt), attempt + 1
            shard, row = (place.shard, place.row) if key[-1] == 0 else self._row(place.dataset, Draws("replace", *key))
            reader = self._reader(place.dataset, shard)  # one that is gone is never skipped
            found = self._decoded(reader, row, ["template", "search"], source.suits)
            if found is None:
                continue
            if not found[1]:
                misfits += 1
                continue
            stored = StoredPair(found[0], *found[1])
            rng = np.random.default_rng(key)
            background = None
            if source.augment.background and rng.random() < source.augment.background:
                background = self._background(reader, stored.sample, int(rng.integers(len(reader))), key)
            if negative:
                stored = self._astray(reader, stored, key)
            pair = make_pair(stored, source.spec, source.augment, rng, background)
            if pair is not None and negative:
                return pair._replace(positive=np.zeros_like(pair.positive), box=np.zeros_like(pair.box))
            if pair is not None:
                return pair
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

    def _decoded(
        self, reader: ShardReader, row: int, roles: Sequence[str], suits: Callable[[PairSample], bool]
    ) -> tuple[PairSample, list[Image]] | None:
        """Return a row and its images, none of one that does not suit; None for a damaged row that is skipped."""
        try:
            with self._reading():
                sample = reader.read(row)
            return sample, [_decode(sample, role, reader, row) for role in (roles if suits(sample) else ())]
        except ShardCorrupt as error:
            if not self._source.skip_damaged:
                raise ShardCorrupt(f"{error.message}, or train with --on-bad-sample skip") from None
            self._damaged.append(error.message)
            return None

    def _astray(self, reader: ShardReader, stored: StoredPair, key: tuple[int, ...]) -> StoredPair:
        """Return the pair with the search image of another sequence, from a row of `reader`, which is the pair's own,
        or of another data set.
        """
        sample, draws = stored.sample, Draws("astray", *key)
        for _ in range(_REPLACEMENTS):
            where, row = self._elsewhere(draws) if self._source.negatives_from else (reader, draws.below(len(reader)))
            other, images = self._decoded(where, row, ["search"], _of_others(sample)) or (sample, [])
            if images:
                mixed = replace(sample, key=f"{sample.key}+{other.key}", search=other.search)
                return StoredPair(mixed, stored.template, images[0])
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

    def _background(self, reader: ShardReader, sample: PairSample, first: int, key: tuple[int, ...]) -> Image | None:
        """Return the search image of the first sound row; None if it would show the object again. Rows are of the
        pair's own shard, which is open: on a disk they are near each other.
        """
        for number in range(_REPLACEMENTS):
            row = Draws("background", *key, number).below(len(reader)) if number else first
            found = self._decoded(reader, row, ["search"], _of_others(sample))
            if found is not None:
                return found[1][0] if found[1] else None
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


def _of_others(sample: PairSample) -> Callable[[PairSample], bool]:
    return lambda other: other.sequence != sample.sequence


def _decode(sample: PairSample, role: str, reader: ShardReader, row: int) -> Image:
    image: StoredImage = getattr(sample, role)
    what = "does not decode"
    with suppress(ImageError):
        pixels = decode(image.jpeg)
        height, width = pixels.shape[:2]
        if (width, height) == image.size:
            return pixels
        what = f"is {width}x{height}, its JSON says {image.size[0]}x{image.size[1]}"
    where = f"{reader.where(row)}: {sample.key}.{role}.jpg"
    raise ShardCorrupt(f"{where} {what}; delete the shard and build again")


def make_pair(
    stored: StoredPair, spec: CropSpec, config: AugmentConfig, rng: np.random.Generator, background: Image | None = None
) -> TrainingPair | None:
    """Crop, augment and label one stored pair; None where no jittered window shows the object. The object of the search
    crop is put before `background`, (h, w, 3) uint8, if there is one.
    """
    sample, size = stored.sample, spec.template_size
    jitter = Jitter(config.scale_jitter, config.translation_jitter)
    window = jitter_window(sample.search.box, spec.search_factor, spec.search_size, rng, jitter)
    if window is None:
        return None
    nominal = crop_transform(sample.template.box, spec.template_factor, (size, size))
    template, template_box, _ = training_crop(sample.template, stored.template, nominal, size)
    angle = rng.uniform(-np.pi, np.pi) if rng.random() < config.rotation else 0.0
    search, search_box, missing = training_crop(sample.search, stored.search, window, spec.search_size, angle)
    if background is not None:
        search, missing = swap_background(search, search_box, background, rng), 0.0
    crops, boxes = augment_pair((template, search), (template_box, search_box), rng, config)
    template, search = (crop.transpose(2, 0, 1) for crop in crops)
    return TrainingPair(template, search, *make_labels(*boxes, spec), missing, sample.key)


def make_labels(
    template_box: Box, search_box: Box, spec: CropSpec
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float32]]:
    """Make the labels of a pair from its boxes in crop pixels, (4,) xyxy each.

    These are the (g, g) tokens that the object touches in the template, row-major [y, x]; the (G, G) cells of the
    response map that it touches; and its (4,) xyxy box, cut at the search crop, in units of that crop's side.
    """
    template_box = clip_boxes(template_box, (spec.template_size, spec.template_size))
    search_box = clip_boxes(search_box, (spec.search_size, spec.search_size))
    return (
        box_mask(template_box, spec.template_size, spec.template_grid),
        box_mask(search_box, spec.search_size, spec.search_grid),
        (search_box / spec.search_size).astype(np.float32),
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
