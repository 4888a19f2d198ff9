"""Samples to batches: stack, and hand over from worker processes.

Promise: what stands at a position of an epoch depends on the shards, the recipe, the seed, the epoch and the position,
not on ranks, workers or history. Images stay uint8 until they are on the device.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from lorat.shards.base.errors import UserError
from lorat.shards.base.process import settle_worker
from lorat.shards.base.signals import outlive_signals, sigterm_held
from lorat.shards.base.waiting import POLL, made_one
from lorat.train.data.handover import Apart, Notes, is_late, place
from lorat.train.data.places import Source, Steps
from lorat.train.data.samples import Samples, TrainingSample

_TYPES = {
    **{"template": torch.uint8, "search": torch.uint8, "template_mask": torch.bool, "positive": torch.bool},
    **{"box": torch.float32, "position": torch.int64, "missing": torch.float32, "reference": torch.uint8},
}
"""Of a batch's tensors, in the order of its fields; a reference is not always there."""
_ALIGNED = 64  # bytes that a tensor begins at a multiple of


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """B samples of T templates and S search crops, channels first."""

    template: Tensor  # (B, T, 3, h, w) uint8
    search: Tensor  # (B, S, 3, H, W) uint8
    template_mask: Tensor  # (B, T, g, g) bool
    positive: Tensor  # (B, S, G, G) bool
    box: Tensor  # (B, S, 4) float32, xyxy in units of the search crop
    position: Tensor  # (B,) int64, in the epoch
    missing: Tensor  # (B,) float32, share of the jittered crops that the stored windows lacked
    reference: Tensor | None  # (B, 3, r, r) uint8, LoRATv2's dynamic reference frame, where the variant has one
    keys: tuple[str, ...]
    damaged: tuple[tuple[str, ...], ...]  # damaged samples that were read before one was found; most often none
    seconds: NDArray[np.float32]  # (B, 2) that a worker took for a sample: reading stored bytes; decoding and the rest

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor]:
        """What `Objective` takes of them."""
        return self.template, self.template_mask, self.search, self.reference, self.positive, self.box

    def to(self, device: torch.device) -> "Batch":
        """Copy the tensors to a device, without waiting for it where memory is pinned."""
        return self._map(lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Copy the tensors to pinned memory; the loader calls this where a GPU trains."""
        return self._map(Tensor.pin_memory)

    def shared(self) -> "Batch":
        """Move the tensors to shared memory; a `UserError` where it is full."""
        return self._map(partial(place, batch=sum(v.nbytes for v in self._values() if isinstance(v, Tensor))))

    def split(self, parts: int) -> "Iterator[Batch]":
        """Yield `parts` equal micro-batches; the size must be a multiple of `parts`."""
        step, rest = divmod(len(self), parts)
        if rest:
            raise ValueError(f"{parts} micro-batches do not divide {len(self)} samples")
        for at in range(0, len(self), step):
            values: list[Any] = [value if value is None else value[at : at + step] for value in self._values()]
            yield Batch(*values)

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross to another process as one tensor where all lie in one piece of memory, as `_collate` lays them: each
        that crosses costs a file in shared memory, opened and mapped on the other side.
        """
        values = self._values()
        parts = [value for value in values if isinstance(value, Tensor)]
        storage = parts[0].untyped_storage()
        if any(part.untyped_storage().data_ptr() != storage.data_ptr() for part in parts):
            return Batch, tuple(values)
        places = [_Place(p.dtype, p.shape, int(p.storage_offset()) * p.itemsize) for p in parts]
        rest = [value for value in values if not isinstance(value, Tensor)]
        return _unpacked, (torch.empty(0, dtype=torch.uint8).set_(storage), places, rest)

    def _values(self) -> list[Any]:
        return [getattr(self, field.name) for field in fields(self)]

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        values: list[Any] = [change(v) if isinstance(v, Tensor) else v for v in self._values()]
        return Batch(*values)


class _Place(NamedTuple):
    """Where a contiguous tensor lies among the bytes of a batch."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    def of(self, whole: Tensor) -> Tensor:
        """Return the tensor in the batch's bytes, (n,) uint8."""
        stop = self.start + math.prod(self.shape) * self.dtype.itemsize
        return whole[self.start : stop].view(self.dtype).view(self.shape)


def _unpacked(whole: Tensor, places: list[_Place], rest: list[Any]) -> Batch:
    values: list[Any] = [*(place.of(whole) for place in places), *rest]
    return Batch(*values)


def make_loader(
    source: Source,
    first_step: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    prefetch: int = 4,
    *,
    pin: bool = False,
) -> Generator[Batch, None, None]:
    """Yield this rank's batches from `first_step` of the run to its end; `world` processes must divide the batch size.

    Without workers, of which each prepares `prefetch` batches ahead, they are made here. From pinned memory a GPU
    fetches them by itself. A damaged shard, or a sample that cannot be made, is a `UserError`.
    """
    with closing(poll_batches(source, first_step, rank, world, workers, prefetch, pin=pin)) as batches:
        yield from (batch for batch in batches if isinstance(batch, Batch))


def poll_batches(
    source: Source, first_step: int, rank: int, world: int, workers: int, prefetch: int, *, pin: bool
) -> Generator[Batch | str, None, None]:
    """Yield the batches of `make_loader`, and every half second without one what it waits for, empty where nobody
    knows. Closed, it ends its workers at once.
    """
    if workers:
        # Their processes are forked, and OpenCV's threads, once used here, do not survive that: a worker would wait for
        # them for ever.
        cv2.setNumThreads(1)
    notes = Notes(workers)
    loader = DataLoader(
        Samples(source),
        batch_sampler=Steps(source, first_step, rank, world),
        num_workers=workers,
        collate_fn=_hand_over if workers else _collate,
        worker_init_fn=partial(_begin_worker, notes),
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin,
        timeout=POLL if workers else 0,
    )
    with sigterm_held():
        batches: Iterator[Batch | UserError] = iter(loader) if workers else Apart(iter(loader), notes)
    number = 0
    try:
        while True:
            try:
                batch = next(batches, None)
            except (OSError, EOFError, RuntimeError) as error:
                if is_late(error):
                    yield notes.blocker(number)
                    continue
                # A batch that a lost worker announced cannot be had. What ended the worker is raised by PyTorch here,
                # in the place of that, as soon as the system says so.
                time.sleep(1.0 if workers else 0.0)
                raise
            if batch is None:
                return
            if isinstance(batch, UserError):
                raise batch from None
            yield batch
            number += 1
    finally:
        notes.end_waiting()
        del batches  # with them goes what would keep the workers


def _collate(samples: list[TrainingSample | UserError]) -> Batch | UserError:
    made = [sample for sample in samples if not isinstance(sample, UserError)]
    for error in samples:
        if isinstance(error, UserError):
            return error
    columns = dict(zip(TrainingSample._fields, zip(*made, strict=True), strict=True))
    stacked = [name for name in _TYPES if columns[name][0] is not None]
    places, size = list[_Place](), 0
    for name in stacked:
        places.append(_Place(_TYPES[name], (len(made), *np.shape(columns[name][0])), size))
        size += -(-math.prod(places[-1].shape) * _TYPES[name].itemsize // _ALIGNED) * _ALIGNED
    whole = torch.empty(size, dtype=torch.uint8)
    for name, spot in zip(stacked, places, strict=True):
        np.stack(columns[name], out=spot.of(whole).numpy(), casting="same_kind")
    rest = [columns["key"], columns["damaged"], np.array(columns["seconds"], np.float32)]
    return _unpacked(whole, places, [None] * (len(_TYPES) - len(stacked)) + rest)


def _hand_over(samples: list[TrainingSample | UserError]) -> Batch | UserError:
    """Make a batch in a worker, and place it where the training finds it."""
    batch = _collate(samples)
    if isinstance(batch, Batch):
        try:
            batch = batch.shared()
        except UserError as error:
            batch = error
    made_one()
    return batch


def _begin_worker(notes: Notes, number: int) -> None:
    outlive_signals()
    settle_worker()
    torch.set_num_threads(1)
    notes.take(number)
