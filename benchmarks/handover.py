"""What it costs to hand a batch of 128 pairs over from a loader worker to the process that trains.

A process makes a batch anew, says so, and when told to sends it as a loader's worker does: through PyTorch's queue and
shared memory. Timed is from there until the batch is here and the first and last byte of each tensor are read. The
other side is the same batch whose tensors cross one by one.
"""

import time
from dataclasses import fields, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
import torch.multiprocessing
from torch import Tensor

from benchmarks.timing import Times
from lorat.train.data.batches import Batch, _collate
from lorat.train.data.samples import TrainingSample

__all__ = ["run"]

_PAIRS, _ROUNDS = 128, 60


def run(quick: bool) -> dict[str, float | str]:
    """Measure both sides.

    Args:
        quick: four pairs, two rounds.

    Returns:
        Milliseconds a batch, together and apart, and their ratio.
    """
    context = torch.multiprocessing.get_context("fork")
    here, there = context.Pipe()
    queue = context.SimpleQueue()
    process = context.Process(target=_send, args=(there, queue, 4 if quick else _PAIRS), daemon=True)
    process.start()
    try:
        times = _times(here, queue, 2 if quick else _ROUNDS)
    finally:
        here.send("")
        process.join()
    return {
        "handover_ms": round(times.median("together") * 1e3, 2),
        "handover_apart_ms": round(times.median("apart") * 1e3, 2),
        "handover_speedup": round(times.ratio("apart", "together"), 3),
    }


def _times(here: Connection, queue: Any, rounds: int) -> Times:
    seconds: dict[str, list[float]] = {"together": [], "apart": []}
    for number in range(rounds + 1):
        for side, taken in seconds.items():
            here.send(side)
            here.recv()  # it is made
            begin = time.perf_counter()
            here.send("go")
            batch = queue.get()
            for tensor in _tensors(batch).values():
                flat = tensor.flatten()
                flat[0].item(), flat[-1].item()
            if number:
                taken.append(time.perf_counter() - begin)
    return Times(seconds, {})


def _send(there: Connection, queue: Any, pairs: int) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (3, 224, 224), dtype=np.uint8)
    grid = np.zeros((16, 16), dtype=np.bool_)
    crops, cells = (image[None, :, :112, :112], image[None]), (grid[None, :8, :8], grid[None])
    pair = TrainingSample(*crops, *cells, np.zeros((1, 4), np.float32), 0.0, None, "key")
    while side := there.recv():
        batch = _collate([pair] * pairs)
        assert isinstance(batch, Batch)
        if side == "apart":
            copies: dict[str, Any] = {name: tensor.clone() for name, tensor in _tensors(batch).items()}
            batch = replace(batch, **copies)
        there.send("made")
        there.recv()
        queue.put(batch)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}
