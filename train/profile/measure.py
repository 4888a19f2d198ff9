"""What a training step takes on this machine, measured: time, peak memory, a product's rate.

A step is measured in a process of its own, so that its peak is its own, and a step that the system ends for lack of
memory ends nothing else.
"""

import re
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch

from lorat.shards.base.machine import memory_left
from lorat.train.network.deploy.devices import catch_up
from lorat.train.network.variants import empty_network
from lorat.train.profile.count import Setting, made_up_batch, materialise, step_engine
from lorat.train.step.step import update

_STATUS = Path("/proc/self/status")
_LEAST_STEPS, _MOST_STEPS, _ENOUGH = 2, 5, 10.0  # seconds after which no more steps begin
_SIDES, _PRODUCTS = {"cuda": 8192, "mps": 4096, "cpu": 2048}, 5


class Measured(NamedTuple):
    """A training step here."""

    setting: Setting
    seconds: tuple[float, ...]  # of each step, after one that warms up
    peak: int | None  # bytes: of the process (CPU), of all tensors (CUDA); None where the device does not tell
    before: int  # the part of it that was there before the network
    rate: float  # operations a second of a matrix product, measured right before and after the steps


def measure_apart(setting: Setting) -> Measured | None:
    """Measure a setting's training step in a process of its own; None if memory did not suffice."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, setting, torch.get_num_threads()).result()
        except (torch.OutOfMemoryError, BrokenProcessPool):
            return None


def _measure(setting: Setting, threads: int) -> Measured:
    torch.set_num_threads(threads)
    device, peak = setting.device, None
    before = _resident("VmRSS") if device.type == "cpu" else 0
    network = materialise(empty_network(setting.variant, setting.dtype), device)
    engine, batch = step_engine(network, setting), made_up_batch(setting, network)
    if setting.train.compile:
        engine.objective.compile_whole(device, setting.train.compile_mode)
    seconds: list[float] = []
    for step in range(1 + _MOST_STEPS):
        if step > _LEAST_STEPS and sum(seconds[1:]) > _ENOUGH:
            break
        seconds.append(seconds_of(partial(update, engine, setting.train, batch, step), device))
    if device.type == "cpu":
        peak = _resident("VmHWM")
    elif device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    return Measured(setting, tuple(seconds[1:]), peak, before, product_rate(device, setting.dtype))


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return operations a second of a product of large square matrices, the best of a few."""
    side = _SIDES[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / min(seconds_of(lambda: left @ right, device) for _ in range(_PRODUCTS + 1))


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return how long work on a device takes until it is done."""
    catch_up(device)
    begin = time.perf_counter()
    work()
    catch_up(device)
    return time.perf_counter() - begin


def free_memory(device: torch.device) -> int:
    """Return the bytes that a training could still take on a device that is here."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return memory_left()


def _resident(name: str) -> int:
    """Return this process's memory by its name in Linux; elsewhere its peak so far."""
    if _STATUS.is_file():
        return _kilobytes(_STATUS, name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _kilobytes(file: Path, name: str) -> int:
    """Return the bytes that a line such as ``VmRSS:  1234 kB`` says."""
    found = re.search(rf"^{name}:\s*(\d+)", file.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{file}: has no line {name}")
    return int(found[1]) * 1024
