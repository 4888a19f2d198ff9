"""Which rank is waited for: ranks that wait tell the others where, over the store by which they met.

A rank that came to an exchange of all ranks and waits there leaves word after a third of the time for which a wait is
silent; so where the first one tells of its wait, those without such a word are the ones that are waited for. What
others said of another place is told with them. Nobody sends anything while a training makes its steps.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import torch.distributed as dist

from lorat.shards.base.errors import some
from lorat.shards.base.waiting import fulfil, waiting

Answer = TypeVar("Answer")
_ANSWER = 2.0  # seconds that the store may take: the process that keeps it may be the silent one


class Roll:
    """What a rank knows of where the others wait."""

    def __init__(self, store: dist.Store, rank: int, size: int) -> None:
        """Take a store that all ranks reach; it is asked by other threads than the one that trains."""
        self._store, self._rank, self._size = store.clone(), rank, size
        self._places = 0  # where all ranks were to meet so far, the same on all of them

    @contextmanager
    def call(self, what: str, longer: float = 0.0) -> Iterator[None]:
        """Wait inside the block, as `waiting` has it, for what needs all ranks; every rank has to come here."""
        self._places += 1
        place = f"{self._places} {what}"
        early = partial(self._ask, partial(self._store.set, f"waits/{self._rank}", place))
        with waiting(partial(self._absent, place, what), longer=longer, early=early):
            yield

    def _absent(self, place: str, what: str) -> str:
        others = [rank for rank in range(self._size) if rank != self._rank]
        told = self._ask(lambda: [self._word_of(rank) for rank in others])
        if told is None:
            return f"{what}; the process that keeps the ranks' store (rank 0's, or torchrun) does not answer either"
        absent = [str(rank) for rank, word in zip(others, told, strict=True) if word != place]
        return f"rank{'s' * (len(absent) > 1)} {some(absent)} in {what}" if absent else f"{what}, where all ranks are"

    def _word_of(self, rank: int) -> str:
        key = f"waits/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else ""

    def _ask(self, work: Callable[[], Answer]) -> Answer | None:
        coming = Future[Answer]()
        threading.Thread(target=fulfil, args=(work, coming), name="lorat-roll", daemon=True).start()
        with suppress(TimeoutError, RuntimeError):  # a store's errors are of the second kind
            return coming.result(_ANSWER)
        return None
