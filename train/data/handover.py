"""From loader workers to the process that trains: batches through shared memory, and word of what keeps them.

Promise: who waits for a batch looks up every half second, however the batch is made. A batch that does not fit into
/dev/shm, or is lost on its way, is a `UserError`: PyTorch's own hand-over would print it in a worker and wait for ever.
"""

import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from lorat.configs.schema import DataConfig
from lorat.shards.base.errors import UserError
from lorat.shards.base.waiting import POLL, Note, fulfil
from lorat.train.data.places import Source

_SHARED = Path("/dev/shm")
_LATE = "DataLoader timed out after"
_ROUNDED = 2 * 4096  # what a batch takes more: gaps between its tensors, and its one file ends with a page
_LOST_AFTER = 10.0  # seconds that a batch may be on its way
_REMEDY = "give it more (docker run --shm-size=8g), lower data.prefetch, or hand nothing over: --set data.workers=0"

Made = TypeVar("Made")


class Late(RuntimeError):
    """There is no batch yet."""


def is_late(error: Exception) -> bool:
    """Return whether an error says that a batch has not come within `POLL`; PyTorch's has no type of its own."""
    return isinstance(error, Late) or _LATE in str(error)


def batch_bytes(source: Source, ranks: int) -> int:
    """Return what a rank's batch takes of shared memory."""
    spec = source.spec
    images = 3 * sum(side**2 for side, _ in spec.views)
    labels = spec.templates * spec.template_grid**2 + spec.searches * (spec.search_grid**2 + 4 * 4)
    return source.batch_size // ranks * (images + labels + 8 + 4) + _ROUNDED


def check_shared_memory(
    source: Source, data: DataConfig, ranks: int, *, validates: bool, shared: Path = _SHARED
) -> None:
    """Raise a `UserError` where the batches that wait for this machine's ranks do not fit into shared memory."""
    if not (data.workers and shared.is_dir()):
        return
    loaders = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) * (1 + validates)
    size, ahead = batch_bytes(source, ranks), data.workers * data.prefetch + 1
    if (needed := loaders * ahead * size) > shutil.disk_usage(shared).free:
        each = f"{loaders} times " if loaders > 1 else ""
        raise UserError(
            f"{_room(shared)}, but batches need {needed / 1e6:,.1f} MB of it: {each}{ahead} (data.workers "
            f"{data.workers} x data.prefetch {data.prefetch} + 1) of {size / 1e6:,.1f} MB each; {_REMEDY}"
        )


def _room(shared: Path) -> str:
    usage = shutil.disk_usage(shared)
    return f"{shared}: {usage.free / 1e6:,.1f} MB of {usage.total / 1e6:,.1f} MB are free"


def place(tensor: Tensor, batch: int) -> Tensor:
    """Move a tensor of a batch of so many bytes to shared memory. PyTorch would do so in a thread of its own, where an
    error is lost.
    """
    try:
        return tensor.share_memory_()
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        what = f"a loader worker cannot place a batch, of {batch / 1e6:,.1f} MB ({reason})"
        raise UserError(f"{_room(_SHARED)}: {what}; {_REMEDY}") from None


class Notes:
    """What keeps the makers of batches: workers, of which each makes every n-th, or without any a thread."""

    def __init__(self, workers: int) -> None:
        """Make it before the fork."""
        self._workers, self._notes = workers, [Note() for _ in range(max(workers, 1))]
        self._made = -1, 0.0  # a batch that is made and not here, and since when

    def take(self, number: int = 0) -> None:
        """Let this worker, or thread, leave word of what it waits for."""
        self._notes[number].take()

    def blocker(self, batch: int) -> str:
        """Return what a batch, counted from the first, waits for; a `UserError` if a worker made it and it is lost."""
        note, now = self._notes[batch % len(self._notes)], time.monotonic()
        if note.made <= batch // len(self._notes):
            return note.text
        if self._made[0] != batch:
            self._made = batch, now
        if now - self._made[1] < _LOST_AFTER:
            return ""
        who = f"loader worker {batch % len(self._notes)} (process {note.process})"
        raise UserError(f"{who} made a batch that never came; see what stands above, or --set data.workers=0")

    def end_waiting(self) -> None:
        """End the workers that wait; the loader would give each of them seconds to come back."""
        for note in self._notes[: self._workers]:
            if note.text:
                with suppress(ProcessLookupError):
                    os.kill(note.process, signal.SIGTERM)


class Apart(Generic[Made], Iterator[Made]):
    """Takes things from an iterator in a thread of its own, each when it is asked for; `Late` while one is made."""

    def __init__(self, things: Iterator[Made], notes: Notes) -> None:
        self._orders = queue.SimpleQueue[Future[Made] | None]()
        self._coming: Future[Made] | None = None
        about = self._orders, things, notes
        threading.Thread(target=_take, args=about, name="lorat-batches", daemon=True).start()

    def __next__(self) -> Made:
        if self._coming is None:
            self._coming = Future()
            self._orders.put(self._coming)
        with suppress(TimeoutError):
            self._coming.exception(POLL)
        if not self._coming.done():
            raise Late
        thing, self._coming = self._coming, None
        return thing.result()

    def __del__(self) -> None:
        self._orders.put(None)  # the thread ends, once it has made what it is at


def _take(orders: "queue.SimpleQueue[Future[Made] | None]", things: Iterator[Made], notes: Notes) -> None:
    notes.take()
    for order in iter(orders.get, None):
        fulfil(partial(next, things), order)
