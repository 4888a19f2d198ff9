"""Ranks that do not reach one another: a timeout, and one line that says what to check."""

from __future__ import annotations

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

__all__ = ["check_environment", "explain_joining", "explain_parting", "meet", "rank_timeout"]

TIMEOUT = "LORAT_TIMEOUT"
_SECONDS = 600.0
_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
_POLL = 0.05  # seconds between two looks at who has come
_OF_BACKENDS = re.compile(r"gloo|nccl|connection (closed|reset|refused)", re.IGNORECASE)


def rank_timeout() -> timedelta:
    """Return how long a rank waits for the others: ``$LORAT_TIMEOUT`` seconds, else 10 minutes.

    Raises:
        UserError: if the variable holds no positive number.
    """
    text = os.environ.get(TIMEOUT, str(_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise UserError(f"${TIMEOUT} is '{text}'; give a positive number of seconds")
    return timedelta(seconds=seconds)


def check_environment(device: str) -> None:
    """See that the environment says where the ranks meet, and which GPU is this one's.

    Args:
        device: the kind that is trained on.

    Raises:
        UserError: names the missing variables.
    """
    needed = (*_NEEDED, "LOCAL_RANK") if device == "cuda" else _NEEDED
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise UserError(
            f"$WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} not set; start "
            "ranks with torchrun, or unset WORLD_SIZE to work in one process"
        )


def meet(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """Meet the other ranks where the environment says, apart from those that were there before.

    torchrun keeps one store over its restarts. What ranks that are dead wrote there, their
    addresses among it, would be taken for that of the living. So rank 0 draws a name for this
    meeting, tells it to whoever asks, and all go on under that name.

    Returns:
        A store of these ranks alone, this rank, and how many there are.

    Raises:
        RuntimeError: if a rank does not come in time.
    """
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    name = _invite(store, size, timeout) if rank == 0 else _ask(store, rank)
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


def _ask(store: dist.Store, rank: int) -> str:
    """Ask rank 0 for the name of this meeting; the store waits for the answer."""
    question = uuid.uuid4().hex
    store.set(f"asks/{rank}", question)
    name = store.get(f"answer/{question}").decode()
    store.set(f"{name}/has/{rank}", "yes")
    return name


@contextmanager
def explain_joining() -> Iterator[None]:
    """Say in one line why this rank did not meet the others at the start.

    Raises:
        UserError: in the place of what PyTorch raises when a rank is missing.
    """
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"{_who()} did not meet the others at {place} within {_patience()} "
            f"({_reason(error)}); check that every node runs torchrun with the same --nnodes and "
            "--rdzv-endpoint, that the address and its ports can be reached from every node, and, "
            "with several networks, $GLOO_SOCKET_IFNAME or $NCCL_SOCKET_IFNAME"
        ) from None


@contextmanager
def explain_parting() -> Iterator[None]:
    """Say in one line that the other ranks are gone, or silent.

    Raises:
        UserError: in the place of what gloo and NCCL raise then.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or _OF_BACKENDS.search(str(error))):
            raise
        raise UserError(
            f"{_who()} lost the others, or waited {_patience()} for them ({_reason(error)}); see "
            "what they printed, whether one was killed or out of memory, and the network; then "
            "start again, a training with --resume auto (torchrun --max-restarts does so by itself)"
        ) from None


def _who() -> str:
    return f"rank {os.environ.get('RANK', '?')} of {os.environ.get('WORLD_SIZE', '?')}"


def _patience() -> str:
    return f"{rank_timeout().total_seconds():g} s (${TIMEOUT})"


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
