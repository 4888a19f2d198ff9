"""Ranks that do not reach one another: a timeout, and one line that says what to check."""

import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from lorat.shards.base.errors import UserError
from lorat.shards.base.waiting import seconds_in

TIMEOUT = "LORAT_TIMEOUT"
_POLL = 0.05  # seconds between two looks at who has come
_OF_BACKENDS = re.compile(r"gloo|nccl|connection (closed|reset|refused)", re.IGNORECASE)
_LOST = (
    "see what they printed, whether one was killed or out of memory, and the network; then start again, a training "
    "with --resume auto (torchrun --max-restarts does so by itself)"
)
_NOT_MET = (
    "check that every node runs torchrun with the same --nnodes and --rdzv-endpoint, that the address and its ports "
    "can be reached from every node, and, with several networks, $GLOO_SOCKET_IFNAME or $NCCL_SOCKET_IFNAME"
)


def rank_timeout() -> timedelta:
    """Return how long ranks wait for one another: ``$LORAT_TIMEOUT`` seconds, else 10 minutes."""
    return timedelta(seconds=seconds_in(TIMEOUT, 600.0))


def meet(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """Meet the other ranks where the environment says, apart from those that were there before. torchrun keeps one
    store over its restarts; what dead ranks wrote there would be taken for that of the living. So rank 0 draws a name
    for this meeting, tells it to whoever asks, and all go on under it. Returned are a store of these ranks alone, this
    rank, and how many there are; a RuntimeError if a rank does not come in time.
    """
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    if rank == 0:
        name = _invite(store, size, timeout)
    else:
        question = uuid.uuid4().hex
        store.set(f"asks/{rank}", question)
        name = store.get(f"answer/{question}").decode()  # waits for it
        store.set(f"{name}/has/{rank}", "yes")
    return dist.PrefixStore(name, store), rank, size


def _invite(store: dist.Store, size: int, timeout: timedelta) -> str:
    """Tell every other rank the name of this meeting, until all have it."""
    name, until = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    missing = set(range(1, size))
    while missing:
        for rank in sorted(missing):
            if store.check([f"asks/{rank}"]):
                question = store.get(f"asks/{rank}").decode()  # perhaps a dead rank's
                store.set(f"answer/{question}", name)
            if store.check([f"{name}/has/{rank}"]):
                missing.discard(rank)
        if time.monotonic() > until:
            raise RuntimeError(f"no word of rank {', '.join(map(str, sorted(missing)))}")
        time.sleep(_POLL if missing else 0.0)
    return name


def is_lost(error: RuntimeError) -> bool:
    """Return whether PyTorch raised an error because other ranks are gone or silent."""
    return isinstance(error, dist.DistError) or bool(_OF_BACKENDS.search(str(error)))


@contextmanager
def explain_ranks(*, met: bool) -> Iterator[None]:
    """Raise a `UserError` for what PyTorch raises when a rank does not come or, once they `met`, is gone or silent."""
    try:
        yield
    except RuntimeError as error:  # a DistError is one
        if met and not is_lost(error):
            raise
        patience = f"{rank_timeout().total_seconds():g} s (${TIMEOUT})"
        what, remedy = f"lost the others, or waited {patience} for them", _LOST
        if not met:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            what, remedy = f"did not meet the others at {place} within {patience}", _NOT_MET
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        who = f"rank {os.environ.get('RANK', '?')} of {os.environ.get('WORLD_SIZE', '?')}"
        raise UserError(f"{who} {what} ({reason}); {remedy}") from None
