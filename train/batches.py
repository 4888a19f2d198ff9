"""Shards to batches: read, crop, augment, label, stack.

Promise: what stands at a position of an epoch depends on the shards, the recipe, the seed, the
epoch and the position, not on ranks, workers or history. Images stay uint8 until they are on the
device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lorat.configs.schema import AugmentConfig
from lorat.shards.errors import UserError
from lorat.shards.geometry import CropTransform, adjust, clip_boxes, crop_transform
from lorat.shards.jitter import MIN_OBJECT, Jitter, jitter_window
from lorat.shards.jpeg import decode
from lorat.shards.manifest import Manifest
from lorat.shards.order import Pool, batch_positions, epoch_order
from lorat.shards.reader import ShardReader
from lorat.shards.resample import Turn, Window, sample_crop, sample_turned_crop, turn_box
from lorat.shards.rng import Draws
from lorat.shards.sample import PairSample, StoredImage
from lorat.train.augment import augment_pair
from lorat.train.backgrounds import swap_background
from lorat.train.labels import CropSpec, make_labels

__all__ = ["Batch", "Place", "Source", "make_loader", "normalise"]

_REPLACEMENTS = 20
_OPEN_SHARDS = 64  # a process: far below the usual limit on open files


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """B pairs, channels first."""

    template: Tensor
    """(B, 3, h, w) uint8."""
    search: Tensor
    """(B, 3, H, W) uint8."""
    template_mask: Tensor
    """(B, g, g) bool."""
    positive: Tensor
    """(B, G, G) bool."""
    box: Tensor
    """(B, 4) float32, xyxy in units of the search crop."""
    position: Tensor
    """(B,) int64, in the epoch."""
    missing: Tensor
    """(B,) float32, share of the search crop that the stored window lacked."""
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device) -> Batch:
        """Copy the tensors to a device, without waiting for it where memory is pinned."""
        return self._map(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Copy the tensors to pinned memory; the loader calls this where there is a GPU."""
        return self._map(Tensor.pin_memory)

    def split(self, parts: int) -> Iterator[Batch]:
        """Yield `parts` equal micro-batches; the size must be a multiple of `parts`."""
        step, rest = divmod(len(self), parts)
        if rest:
            raise ValueError(f"{parts} micro-batches do not divide {len(self)} pairs")
        for at in range(0, len(self), step):
            cut = slice(at, at + step)
            yield Batch(*(getattr(self, field.name)[cut] for field in fields(self)))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        names = [field.name for field in fields(self) if field.name != "keys"]
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in names}
        return replace(self, **changed)


def normalise(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype
) -> Tensor:
    """Turn (B, 3, H, W) images on 0 … 255 into (value / 255 − mean) / std of `dtype`.

    The arithmetic is float32 on the images' device.
    """
    scale, shift = torch.tensor(std), torch.tensor(mean)
    scale, shift = (1.0 / (255.0 * scale)).view(1, 3, 1, 1), (shift / scale).view(1, 3, 1, 1)
    scale, shift = scale.to(images.device), shift.to(images.device)
    return (images.to(torch.float32) * scale - shift).to(dtype)


class Place(NamedTuple):
    """One position of the run and the row that stands there."""

    epoch: int
    position: int
    dataset: int
    shard: int
    row: int


@dataclass(frozen=True, slots=True)
class Source:
    """Everything that decides the batches of a run."""

    manifests: tuple[Manifest, ...]
    weights: tuple[int, ...]
    spec: CropSpec
    augment: AugmentConfig
    seed: int
    batch_size: int
    pairs_per_epoch: int
    epochs: int
    window_shards: int = 0

    def pools(self) -> list[Pool]:
        """Return what the order needs to know of the data sets."""
        return [
            Pool(m.name, w, tuple(s.rows for s in m.shards))
            for m, w in zip(self.manifests, self.weights, strict=True)
        ]

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch."""
        return self.pairs_per_epoch // self.batch_size


class _Steps(Sampler[list[Place]]):
    """Yields this rank's places of every step from a given one to the end of the run."""

    def __init__(self, source: Source, first_step: int, rank: int, world: int) -> None:
        self._source, self._first_step = source, first_step
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return self._source.epochs * self._source.steps_per_epoch - self._first_step

    def __iter__(self) -> Iterator[list[Place]]:
        source = self._source
        epoch, step = divmod(self._first_step, source.steps_per_epoch)
        for number in range(epoch, source.epochs):
            order = epoch_order(
                source.pools(), source.seed, number, source.pairs_per_epoch, source.window_shards
            )
            for at in range(step, source.steps_per_epoch):
                positions = batch_positions(at, source.batch_size, self._rank, self._world)
                yield [Place(number, p, *(int(v) for v in order[p])) for p in positions]
            step = 0


class _Failure(NamedTuple):
    """A user's error on its way from a worker: raised there it would gain a traceback."""

    message: str


class _Pairs(Dataset["_Pair | _Failure"]):
    """Training pairs by their place."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._readers: dict[Path, ShardReader] = {}

    def __getitem__(self, place: Place) -> _Pair | _Failure:
        try:
            return self._make(place)
        except UserError as error:
            return _Failure(error.message)

    def _make(self, place: Place) -> _Pair:
        source = self._source
        manifest = source.manifests[place.dataset]
        shard, row = place.shard, place.row
        for attempt in range(_REPLACEMENTS):
            if attempt:
                shard, row = self._replacement(place, attempt)
            reader = self._reader(manifest.folder / manifest.shards[shard].shard)
            rng = np.random.default_rng((source.seed, place.epoch, place.position, attempt))
            other = None
            if source.augment.background and rng.random() < source.augment.background:
                # From the same shard: it is open, and on a disk the rows are near each other.
                other = reader.read(int(rng.integers(manifest.shards[shard].rows)))
            sample = reader.read(row)
            pair = _make_pair(sample, source.spec, source.augment, rng, place.position, other)
            if pair is not None:
                return pair
        raise UserError(
            f"{manifest.folder}: {_REPLACEMENTS} pairs in a row show too little of their object "
            f"(last: {sample.key}); check the boxes of this data set"
        )

    def _replacement(self, place: Place, attempt: int) -> tuple[int, int]:
        """Return another row of the same data set for a pair that has no accepted window."""
        rows = [s.rows for s in self._source.manifests[place.dataset].shards]
        draws = Draws("replace", self._source.seed, place.epoch, place.position, attempt)
        number = draws.below(sum(rows))
        ends = np.cumsum(rows)
        shard = int(np.searchsorted(ends, number, side="right"))
        return shard, number - int(ends[shard] - rows[shard])

    def _reader(self, path: Path) -> ShardReader:
        reader = self._readers.pop(path, None) or ShardReader(path)
        self._readers[path] = reader  # last used, last in the table
        if len(self._readers) > _OPEN_SHARDS:
            self._readers.pop(next(iter(self._readers))).close()
        return reader


class _Pair(NamedTuple):
    template: NDArray[np.uint8]
    search: NDArray[np.uint8]
    template_mask: NDArray[np.bool_]
    positive: NDArray[np.bool_]
    box: NDArray[np.float32]
    position: int
    missing: float
    key: str


def _make_pair(
    sample: PairSample,
    spec: CropSpec,
    config: AugmentConfig,
    rng: np.random.Generator,
    position: int,
    other: PairSample | None = None,
) -> _Pair | None:
    """Crop, augment and label one stored pair; None where no jittered window shows the object.

    The object of the search crop is put before the search image of `other`, if there is one.
    """
    jitter = Jitter(config.scale_jitter, config.translation_jitter)
    window = jitter_window(sample.search.box, spec.search_factor, spec.search_size, rng, jitter)
    if window is None:
        return None
    size = spec.template_size
    nominal = crop_transform(sample.template.box, spec.template_factor, (size, size))
    template, template_box, _ = _crop(sample.template, nominal, size, sample.key)
    angle = rng.uniform(-np.pi, np.pi) if rng.random() < config.rotation else 0.0
    search, search_box, missing = _crop(sample.search, window, spec.search_size, sample.key, angle)
    if other is not None and other.sequence != sample.sequence:  # else it would show the object
        background = decode(other.search.jpeg, other.key)
        search = swap_background(search, search_box, background, rng)
        missing = 0.0
    crops, boxes = augment_pair((template, search), (template_box, search_box), rng, config)
    labels = make_labels(*boxes, spec)
    return _Pair(
        crops[0].transpose(2, 0, 1),
        crops[1].transpose(2, 0, 1),
        labels.template_mask,
        labels.positive,
        labels.box,
        position,
        missing,
        sample.key,
    )


def _crop(
    image: StoredImage, transform: CropTransform, size: int, key: str, angle: float = 0.0
) -> tuple[NDArray[np.uint8], NDArray[np.float64], float]:
    """Return the crop, the box in it, and the share of pixels that the stored window lacked.

    The crop is turned by `angle` about the object, unless too little of it would be left to see.
    """
    adjusted = adjust(transform, image.frame_size, (size, size))
    window = Window(image.origin, image.window, image.size)
    stored = decode(image.jpeg, key)
    box = adjusted.transform.apply(np.asarray(image.box))
    if angle:
        turned = turn_box(box, angle)
        seen = clip_boxes(turned, (size, size))
        if ((seen[2:] - seen[:2]) >= MIN_OBJECT).all():
            turn = Turn(angle, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), size)
            crop, missing = sample_turned_crop(
                stored, window, adjusted, image.frame_size, image.mean, turn
            )
            return crop, turned, missing
    crop, missing = sample_crop(stored, window, adjusted, size, image.mean)
    return crop, box, missing


def _collate(pairs: list[_Pair | _Failure]) -> Batch | _Failure:
    made: list[_Pair] = []
    for pair in pairs:
        if isinstance(pair, _Failure):
            return pair
        made.append(pair)

    def stack(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(pair, name) for pair in made]))

    return Batch(
        template=stack("template"),
        search=stack("search"),
        template_mask=stack("template_mask"),
        positive=stack("positive"),
        box=stack("box"),
        position=torch.tensor([pair.position for pair in made]),
        missing=torch.tensor([pair.missing for pair in made], dtype=torch.float32),
        keys=tuple(pair.key for pair in made),
    )


def _one_thread(_: int) -> None:
    cv2.setNumThreads(1)  # the workers are the parallelism
    torch.set_num_threads(1)


def make_loader(
    source: Source,
    first_step: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """Yield this rank's batches from `first_step` of the run to its end.

    Args:
        source: what decides the batches.
        first_step: counted from the start of the run.
        rank: of this process.
        world: number of processes; must divide the batch size.
        workers: loader processes; 0 makes the batches here.
        prefetch: batches that each worker prepares ahead.

    Raises:
        UserError: if a shard is damaged or a pair cannot be made.
    """
    loader = DataLoader(
        _Pairs(source),
        batch_sampler=_Steps(source, first_step, rank, world),
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_one_thread,
        prefetch_factor=prefetch if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, _Failure):
            raise UserError(batch.message)
        yield batch
