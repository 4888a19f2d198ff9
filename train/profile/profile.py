"""``lorat-train --profile``: what a variant costs, before any data or weights are there.

Promise: what is measured and what is computed is told apart. Parameters, operations and memory are
computed for any variant on any machine; time and a second figure for memory are measured where the
device is here and large enough, if need be with fewer pairs.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch

from lorat.configs.schema import RecipeConfig, VariantConfig
from lorat.shards.base.console import progress_bar
from lorat.shards.base.errors import UserError
from lorat.train.network.deploy.devices import pick_device, pick_dtype
from lorat.train.profile.count import (
    FrameCost,
    Part,
    Setting,
    StepCost,
    count_frame,
    count_parameters,
    count_step,
)
from lorat.train.profile.measure import Measured, free_memory, measure_apart, product_rate

__all__ = ["GIB", "Profile", "Trial", "profile_variant", "usable_share"]

GIB = 2**30
_USABLE, _USABLE_CPU = 0.9, 0.7
"""Share of a device's memory that is filled; the rest is for what is not counted, which on a
processor is much: a process was seen to hold up to 1.34 times what is counted."""
_SIZES = (24 * GIB, 40 * GIB, 80 * GIB)
"""Of common GPUs, for those that are not here."""
_PATIENCE = 15.0
"""Seconds that a measured step may take."""
_SHARE = 0.3
"""Of a product's rate that a step is expected to reach, before it is measured."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A step that was measured, and the product that it is compared with."""

    setting: Setting
    cost: StepCost
    measured: Measured
    rate: float
    """Operations a second of a matrix product."""


@dataclass(frozen=True, slots=True)
class Profile:
    """All that is known of a variant under a recipe."""

    setting: Setting
    parts: tuple[Part, ...]
    frame: FrameCost
    beside: int
    """`frame.whole` with each LoRA pair as two thin products of its own, as papers train."""
    step: StepCost
    pair: float
    """Bytes that one more pair takes."""
    largest: tuple[tuple[int, int], ...]
    """Bytes of a device, and the pairs that the usable share of it holds at once."""
    is_here: bool
    """Whether the device is; then the bytes are what is free on it."""
    trial: Trial | None
    notes: tuple[str, ...]
    """Why nothing was measured, or less than the recipe asks for."""


def profile_variant(variant: VariantConfig, recipe: RecipeConfig, device: str) -> Profile:
    """Count, and measure what this machine can.

    Args:
        variant: any; its weights are not needed.
        recipe: gives batch, number type, accumulation and checkpointing.
        device: as `pick_device` takes it; CUDA and MPS need not be here.

    Raises:
        UserError: if the variant cannot be built, the device's name is unknown, or torchrun has
            started several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--profile: is for one process; leave torchrun out")
    setting, is_here = _setting(variant, recipe, device)
    with progress_bar("profile") as update:
        parts, frame = count_parameters(variant), count_frame(variant)
        update(1, 4)
        step = count_step(setting)
        wider = count_step(setting.with_pairs(2 * step.pairs))
        pair = (wider.peak - step.peak) / step.pairs
        update(2, 4)
        rooms = (free_memory(setting.device),) if is_here else _SIZES
        largest = tuple((room, _largest(setting, step, pair, room)) for room in rooms)
        update(3, 4)
        if is_here:
            trial, notes = _measure(setting, step, *largest[0])
        else:
            trial, notes = None, (f"time is not given: there is no {device} device here",)
        update(4, 4)
    return Profile(
        setting=setting,
        parts=tuple(parts),
        frame=frame,
        beside=frame.whole + 2 * frame.tokens * _pairs(parts),
        step=step,
        pair=pair,
        largest=largest,
        is_here=is_here,
        trial=trial,
        notes=notes,
    )


def _pairs(parts: list[Part]) -> int:
    """Return the numbers in LoRA's pairs; each token meets each of them once."""
    return sum(part.every for part in parts if part.name == "LoRA")


def _setting(variant: VariantConfig, recipe: RecipeConfig, name: str) -> tuple[Setting, bool]:
    """Return what would be trained, and whether its device is here."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    asked = recipe.train.dtype
    if here.get(name, True):
        device = pick_device(name)
        dtype = pick_dtype(asked, device, training=True)
        return Setting(variant, recipe.train, device, dtype), True
    # What `pick_dtype` takes on the usual devices of that kind.
    if asked == "auto":
        asked = "bfloat16" if name == "cuda" else "float32"
    return Setting(variant, recipe.train, torch.device(name), getattr(torch, asked)), False


def usable_share(device: torch.device) -> float:
    """Return the share of free memory that what is counted may fill."""
    return _USABLE_CPU if device.type == "cpu" else _USABLE


def _largest(setting: Setting, step: StepCost, pair: float, room: int) -> int:
    """Return how many pairs at once a device of `room` bytes holds, counted for that number."""
    usable = room * usable_share(setting.device)
    pairs = step.pairs + int((usable - step.peak) // pair)
    while pairs > 0:
        excess = count_step(setting.with_pairs(pairs)).peak - usable
        if excess <= 0:
            return pairs
        pairs -= max(1, math.ceil(excess / pair))
    return 0


def _measure(
    setting: Setting, step: StepCost, room: int, most: int
) -> tuple[Trial | None, tuple[str, ...]]:
    """Measure a step of the recipe, or of as many halves of its pairs as this machine can do.

    Args:
        setting: what to measure.
        step: what it costs, counted.
        room: free bytes.
        most: pairs that fit in there.
    """
    rate = product_rate(setting.device, setting.dtype)
    expected = step.flops / (rate * _SHARE)
    pairs, notes = step.pairs, []
    if pairs > most:
        notes.append(f"{pairs} pairs at once do not fit into the {room / GIB:.1f} GiB free here")
    elif expected > _PATIENCE:
        notes.append(f"{pairs} pairs at once would take about {expected:.0f} s a step here")
    while pairs > min(most, step.pairs * _PATIENCE / expected):
        pairs //= 2
    if pairs == 0:
        return None, (*notes, "time is not given: not even one pair is small or quick enough here")
    smaller = setting.with_pairs(pairs)
    measured = measure_apart(smaller)
    if measured is None:
        return None, (*notes, f"time is not given: {pairs} pairs at once ran out of memory")
    rate = max(rate, measured.rate)  # the higher one was disturbed less
    return Trial(smaller, count_step(smaller), measured, rate), tuple(notes)
