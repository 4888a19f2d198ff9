"""How a network computes on a processor: its number type, by measurement, and its threads.

What a processor says it has does not tell what is fast: with AVX512-BF16 but without AMX, products in bfloat16 were
measured at half the rate of float32 on one make and at more than twice it on another.
"""

import hashlib
import logging
import math
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ValidationError

from lorat.shards.base.errors import UserError
from lorat.shards.base.machine import CoreWatch, cores_a_rank, free_cores, processor_name, usable_cores
from lorat.shards.base.storage import atomic_file, cache_folder
from lorat.train.network.blocks.lorat import OneStream

_MARGIN = 1.15  # bfloat16 has to be so much faster: it is less exact, and has casts around its products
_MOST_ROWS, _MOST_WEIGHTS = 128, 1 << 21  # of a product that is timed; more take longer and tell the same
_LEAST_ROUNDS, _MOST_ROUNDS, _SECONDS = 5, 50, 0.05
_CLEAR = 0.75  # share of rounds that agree with the median; with fewer, the next process measures again
_SMALL = 2e9  # operations of a call, below which threads wait for each other longer than they compute
_WATCHED, _UNWATCHED = 0.5, 2.0  # seconds, in turn; to look costs tenths of a millisecond, more on many cores
_CHOSEN_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_LOG = logging.getLogger("lorat")


class Product(NamedTuple):
    """A product of a network's own: (rows, inner) · (inner, outer)."""

    rows: int
    inner: int
    outer: int

    @classmethod
    def of(cls, network: OneStream) -> "Product":
        """Return that of the widest layer in a block, or of as much of it as tells; on the meta device too."""
        matrices = [p for p in network.blocks[0].parameters() if p.dim() == 2]
        outer, inner = max((tuple(matrix.shape) for matrix in matrices), key=math.prod)
        return cls(min(network.tokens, _MOST_ROWS), inner, min(outer, _MOST_WEIGHTS // inner))


class Measured(BaseModel, frozen=True, extra="forbid"):
    """Both number types on one machine."""

    float32_ms: float
    bfloat16_ms: float
    speedup: float  # of bfloat16, the median over the rounds
    clear: bool  # whether nearly all rounds agree which is to be taken

    @property
    def dtype(self) -> torch.dtype:
        """The type to compute in; one that is hardly faster is not worth its rounding."""
        return torch.bfloat16 if self.speedup >= _MARGIN else torch.float32

    @classmethod
    def of(cls, rounds: Sequence[tuple[float, float]]) -> "Measured":
        """Judge seconds in float32 and in bfloat16, a pair a round."""
        float32, bfloat16 = (statistics.median(times) for times in zip(*rounds, strict=True))
        ratios = [a / b for a, b in rounds]
        speedup = statistics.median(ratios)
        agree = sum((ratio >= _MARGIN) == (speedup >= _MARGIN) for ratio in ratios)
        return cls(
            float32_ms=1e3 * float32, bfloat16_ms=1e3 * bfloat16, speedup=speedup, clear=agree >= _CLEAR * len(rounds)
        )


@lru_cache
def fast_dtype(product: Product) -> torch.dtype:
    """Return the number type that is fast here, decided and said in a line once a process."""
    found, when = measured(product)
    name, faster = str(found.dtype).removeprefix("torch."), f"{found.speedup:.2g} x as fast"
    _LOG.info("number type: %s, since bfloat16 is %s as float32 here (%s)", name, faster, when)
    return found.dtype


def measured(product: Product) -> tuple[Measured, str]:
    """Return how fast both types are here, and whether that was measured now or before: it is timed, some tens of
    milliseconds, where the user's cache does not hold it for this processor, PyTorch and product.
    """
    key = f"{processor_name()}|{platform.machine()}|{torch.__version__}|{product}"
    file = cache_folder() / "number-types" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    when = "measured before"
    try:
        found = Measured.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):  # not there, or not whole
        found, when = Measured.of(time_product(product)), "measured now"
        if found.clear:
            try:
                with atomic_file(file) as out:
                    out.write(found.model_dump_json().encode())
            except UserError as error:
                when += f", and not kept: {error.message}"
    return found, when


def time_product(product: Product) -> list[tuple[float, float]]:
    """Return the seconds of a layer in float32 and in bfloat16, in turn: what comes in and goes out is float32. It is
    processor time of one thread, in which waits for other work, and for other threads, do not count.
    """
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, product.inner, generator=draw) for n in (product.rows, product.outer))
    narrow = weight.to(torch.bfloat16)

    def seconds(matrix: torch.Tensor) -> float:
        begin = time.thread_time()
        F.linear(x.to(matrix.dtype), matrix).float()
        return time.thread_time() - begin

    rounds, threads = list[tuple[float, float]](), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            seconds(weight), seconds(narrow)  # the first of each prepares its kernel
            while len(rounds) < _LEAST_ROUNDS or (sum(map(sum, rounds)) < _SECONDS and len(rounds) < _MOST_ROUNDS):
                rounds.append((seconds(weight), seconds(narrow)))
    finally:
        torch.set_num_threads(threads)
    return rounds


class Threads:
    """This process's threads, up to `most`: as many as there are cores that other work leaves free, as it comes and
    goes. With 0 they stay as they are.
    """

    def __init__(self, most: int = 0) -> None:
        self._most, self._watch, self._due = most, CoreWatch(), 0.0

    def take(self, free: float) -> int:
        """Take and return as many as fit on so many cores, one at least."""
        threads = max(1, min(self._most, math.floor(free + 0.5)))
        torch.set_num_threads(threads)
        return threads

    @contextmanager
    def following(self) -> Iterator[None]:
        """Do the network's work in the block, from now on with what was free in such blocks: every few seconds they are
        watched, until that is half a second.
        """
        if not self._most or time.monotonic() < self._due:
            yield
            return
        with self._watch.watching():
            yield
        if self._watch.seconds >= _WATCHED:
            self.take(self._watch.mean())
            self._watch, self._due = CoreWatch(), time.monotonic() + _UNWATCHED


def settle_threads(network: OneStream, samples: int) -> Threads:
    """Give this process as many threads as are good for a network's work on so many samples at once: one where that is
    little, else one a core that other work leaves, of those that affinity, quota and the other ranks leave it. Returns
    what can follow that later. A number in the environment (OMP_NUM_THREADS, which torchrun sets too) is kept.
    """
    if any(name in os.environ for name in _CHOSEN_BY_USER):
        return Threads()
    cores = cores_a_rank()
    if is_small(network, samples) or cores == 1:
        torch.set_num_threads(1)
        return Threads()
    found, free = Threads(cores), free_cores()
    if (threads := found.take(free)) < cores:
        what = f"other work leaves {free:.1f} of {usable_cores()} cores free, so this takes {threads}"
        _LOG.warning("processor: %s; OMP_NUM_THREADS=%d takes more", what, cores)
    return found


@contextmanager
def all_cores() -> Iterator[None]:
    """Let large work inside the block have a thread for each core of this rank; a number in the environment is kept."""
    before = torch.get_num_threads()
    if not any(name in os.environ for name in _CHOSEN_BY_USER):
        torch.set_num_threads(cores_a_rank())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_small(network: OneStream, samples: int) -> bool:
    """Return whether a forward pass of so many samples is too little for threads; toy's, of a few, is."""
    weights = sum(p.numel() for p in network.blocks.parameters() if p.dim() == 2)
    return 2.0 * weights * network.tokens * samples < _SMALL
