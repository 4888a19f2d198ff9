"""The processes that share an evaluation: one list of sequences, from which each takes the next.

Promise: every sequence of rank 0's list is taken by exactly one process, the first first, by a counter in their common
store: none is without work while there is some. A process that is lost is noticed when the others meet at the end.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch.distributed as dist

from lorat.shards.base.errors import UserError
from lorat.shards.base.waiting import fulfil, waiting

_PATIENCE = timedelta(hours=24)  # processes end at different times; one that dies is noticed at once
_POLL = 0.2  # seconds between two looks at how far the others are
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False, slots=True)
class Ranks:
    """This process among those that evaluate together."""

    rank: int = 0
    size: int = 1
    store: dist.Store = field(default_factory=dist.HashStore)  # which all of them reach
    group: Any = None

    @property
    def speaks(self) -> bool:
        """Whether this process prints, and writes what is there once."""
        return self.rank == 0

    def exchange(self, value: Value, look: Callable[[], None] = lambda: None) -> list[Value]:
        """Return the values of all ranks; every rank calls it, and looks around while it waits."""
        if self.size == 1:
            return [value]
        every: list[Any] = [None] * self.size
        meet = partial(dist.all_gather_object, every, value, group=self.group)
        meeting = Future[None]()
        # Not of a pool, which would wait for it however this is ended.
        threading.Thread(target=fulfil, args=(meet, meeting), name="lorat-meet", daemon=True).start()
        with waiting("other ranks, which have sequences to track"):
            while wait([meeting], timeout=_POLL).not_done:
                look()
        meeting.result()
        return every

    def first(self, value: Value) -> Value:
        """Return rank 0's value; every rank calls it."""
        return self.exchange(value)[0]

    def together(self, work: Callable[[], Value], look: Callable[[], None] = lambda: None) -> Value:
        """Return what `work` gives here, once all have done theirs; one's `UserError` is all's."""
        reason = ""
        try:
            value = work()
        except UserError as error:
            reason = error.message
        for rank, why in enumerate(self.exchange(reason, look)):
            if why:
                raise UserError(f"rank {rank}: {why}" if self.size > 1 else why)
        return value

    def taken(self, count: int, topic: str) -> Iterator[int]:
        """Yield indices below `count` that no other rank takes, lowest first; `topic` is one text for every list."""
        while (index := self.add(topic, 1) - 1) < count:
            yield index

    def add(self, topic: str, amount: int) -> int:
        """Add to a number that all ranks have in common, and return the sum so far."""
        return self.store.add(topic, amount)


@contextmanager
def share_ranks(rank: int, size: int, store: dist.Store | None) -> Iterator[Ranks]:
    """Let `size` processes evaluate together inside the block, by a store that all reach."""
    if size == 1 or store is None:
        yield Ranks()
        return
    group: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        yield Ranks(rank, size, store, group)
    finally:
        dist.destroy_process_group(group)
