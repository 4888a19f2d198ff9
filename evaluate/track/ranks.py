"""The processes that share an evaluation: one list of sequences, from which each takes the next.

Promise: every sequence of the list is taken by exactly one process, the first in the list first,
and no process is without work while there is some. A process that is lost is noticed by the others
when they meet at the end.

The list is rank 0's. A counter in the processes' common store says what was taken, so a process on
a slow device takes less; nothing is dealt out beforehand.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch.distributed as dist

__all__ = ["Ranks", "share_ranks"]

# Processes end at different times; one that dies is noticed at once.
_PATIENCE = timedelta(hours=24)
_POLL = 0.2  # seconds between two looks at how far the others are
Value = TypeVar("Value")


@dataclass(eq=False, slots=True)
class Ranks:
    """This process among those that evaluate together."""

    rank: int = 0
    size: int = 1
    _store: dist.Store | None = None
    _group: Any = None
    _counts: dict[str, int] = field(default_factory=dict)
    """What stands in for the store where there is one process."""

    @property
    def speaks(self) -> bool:
        """Whether this process prints, and writes what is there once."""
        return self.rank == 0

    def exchange(self, value: Value) -> list[Value]:
        """Return the values of all ranks, in their order; every rank calls it, and waits."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, value, group=self._group)
        return every

    def first(self, value: Value) -> Value:
        """Return rank 0's value; every rank calls it."""
        return self.exchange(value)[0]

    def taken(self, count: int, topic: str) -> Iterator[int]:
        """Yield indices below `count` that no other rank takes, lowest first, until all are taken.

        Args:
            count: how many there are.
            topic: what is counted, the same text on all ranks and a new one for every list.
        """
        while (index := self.add(topic, 1) - 1) < count:
            yield index

    def add(self, topic: str, amount: int) -> int:
        """Add to a number that all ranks have in common, and return the sum so far."""
        if self._store is not None:
            return self._store.add(topic, amount)
        self._counts[topic] = self._counts.get(topic, 0) + amount
        return self._counts[topic]

    def new_topic(self) -> str:
        """Return a text that was not used before, the same on all ranks; every rank calls it."""
        return self.first(uuid.uuid4().hex)

    def exchange_while(self, value: Value, look: Callable[[], None]) -> list[Value]:
        """Do as `exchange`, and call `look` now and then until the others have come."""
        if self.size == 1:
            return [value]
        with ThreadPoolExecutor(1, thread_name_prefix="meet") as pool:
            meeting: Future[list[Value]] = pool.submit(self.exchange, value)
            while not meeting.done():
                look()
                time.sleep(_POLL)
            return meeting.result()


@contextmanager
def share_ranks(rank: int, size: int, store: dist.Store | None) -> Iterator[Ranks]:
    """Let the processes of a process group evaluate together inside the block.

    Args:
        rank: of this process.
        size: number of processes.
        store: that all of them reach; None only where there is one.
    """
    if size == 1:
        yield Ranks()
        return
    import torch.distributed as dist

    group: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        yield Ranks(rank, size, store, group)
    finally:
        dist.destroy_process_group(group)
