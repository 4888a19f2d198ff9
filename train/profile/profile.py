"""``lorat-train --profile``: what a variant costs, before any data or weights are there.

Promise: what is measured and what is computed is told apart. Parameters, operations and memory are
computed for any variant on any machine; time and a second figure for memory are measured where the
device is here and large enough, if need be with fewer pairs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from rich.table import Table

from lorat.configs.schema import RecipeConfig, VariantConfig
from lorat.shards.base.console import OUT, plain_table, progress_bar, say
from lorat.shards.base.errors import UserError
from lorat.train.network.deploy.devices import pick_device, pick_dtype
from lorat.train.profile.count import (
    FrameCost,
    Part,
    Setting,
    StepMemory,
    StepOperations,
    count_frame,
    count_memory,
    count_operations,
    count_parameters,
)
from lorat.train.profile.measure import Measured, free_memory, measure_apart, product_rate

MIB, GIB = 2**20, 2**30
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
class Profile:
    """All that is known of a variant under a recipe."""

    setting: Setting
    parts: tuple[Part, ...]
    frame: FrameCost
    operations: StepOperations
    memory: StepMemory
    pair: float
    """Bytes that one more pair takes."""
    largest: tuple[tuple[int, int], ...]
    """Bytes of a device, and the pairs that the usable share of it holds at once."""
    is_here: bool
    """Whether the device is; then the bytes are what is free on it."""
    measured: Measured | None
    notes: tuple[str, ...]
    """Why nothing was measured, or less than the recipe asks for."""

    @property
    def beside(self) -> int:
        """`frame.whole` with each LoRA pair as two thin products of its own, as papers train."""
        pairs = sum(part.every for part in self.parts if part.name == "LoRA")
        return self.frame.whole + 2 * self.frame.tokens * pairs  # each token meets each number once


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
        operations, memory = count_operations(setting), count_memory(setting)
        wider = count_memory(setting.with_pairs(2 * memory.pairs))
        pair = (wider.peak - memory.peak) / memory.pairs
        update(2, 4)
        rooms = (free_memory(setting.device),) if is_here else _SIZES
        largest = tuple((room, _largest(setting, memory, pair, room)) for room in rooms)
        update(3, 4)
        if is_here:
            measured, notes = _measure(setting, operations.every, *largest[0])
        else:
            measured, notes = None, [f"time is not given: there is no {device} device here"]
        update(4, 4)
    found = parts, frame, operations, memory, pair, largest, is_here, measured, tuple(notes)
    return Profile(setting, *found)


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


def _usable(device: torch.device) -> float:
    return _USABLE_CPU if device.type == "cpu" else _USABLE


def _largest(setting: Setting, memory: StepMemory, pair: float, room: int) -> int:
    """Return how many pairs at once a device of `room` bytes holds, counted for that number."""
    usable = room * _usable(setting.device)
    pairs = memory.pairs + int((usable - memory.peak) // pair)
    while pairs > 0:
        excess = count_memory(setting.with_pairs(pairs)).peak - usable
        if excess <= 0:
            return pairs
        pairs -= max(1, math.ceil(excess / pair))
    return 0


def _measure(
    setting: Setting, operations: int, room: int, most: int
) -> tuple[Measured | None, list[str]]:
    """Measure a step of the recipe, or of as many halves of its pairs as fit and are quick enough.

    Args:
        setting: what to measure.
        operations: of its step.
        room: free bytes.
        most: pairs that fit in there.
    """
    rate = product_rate(setting.device, setting.dtype)
    expected = operations / (rate * _SHARE)
    pairs, notes = setting.pairs, []
    if pairs > most:
        notes.append(f"{pairs} pairs at once do not fit into the {room / GIB:.1f} GiB free here")
    elif expected > _PATIENCE:
        notes.append(f"{pairs} pairs at once would take about {expected:.0f} s a step here")
    while pairs > min(most, setting.pairs * _PATIENCE / expected):
        pairs //= 2
    if pairs == 0:
        return None, [*notes, "time is not given: not even one pair is small or quick enough here"]
    measured = measure_apart(setting.with_pairs(pairs))
    if measured is None:
        return None, [*notes, f"time is not given: {pairs} pairs at once ran out of memory"]
    # Of two rates the higher one was disturbed less.
    return replace(measured, rate=max(rate, measured.rate)), notes


def print_profile(profile: Profile) -> None:
    """Print a profile on stdout as tables of at most 80 columns, each computed or measured."""
    setting, train = profile.setting, profile.setting.train
    number_type = str(setting.dtype).removeprefix("torch.")
    extras = {
        f"{train.accumulate} micro-batches": train.accumulate > 1,
        "activations checkpointed": train.checkpoint_activations,
        "compiled": train.compile,
    }
    head = [f"{setting.variant.name}: {train.batch_size} pairs a step", number_type]
    say(", ".join([*head, setting.device.type, *(text for text, holds in extras.items() if holds)]))
    parts = [(p.name, f"{p.every:,}", f"{p.trained:,}") for p in profile.parts if p.every]
    every, trained = (sum(getattr(p, n) for p in profile.parts) for n in ("every", "trained"))
    parts.append(("together", f"{every:,}", f"{trained:,}"))
    tables = [_table(("parameters", "all", "trained"), parts)]
    tables += [_operations(profile), _memory(profile)]
    if profile.measured is not None:
        tables.append(_measured(profile.measured))
    for table in tables:
        say("")
        OUT.print(table)
    for note in profile.notes:
        say(note)


def _table(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    table = plain_table(columns)
    for row in rows:
        table.add_row(*row)
    return table


def _operations(profile: Profile) -> Table:
    frame, step, pairs = profile.frame, profile.operations, profile.setting.train.batch_size
    rows = {
        "a tracked frame, LoRA merged": frame.track,
        "a template, once a sequence": frame.template,
        "template and search, merged, last block whole": frame.whole,
        "the same with LoRA beside its layers": profile.beside,
        "training, a pair forward": step.forward / pairs,
        "training, a pair forward and backward": step.every / pairs,
    }
    if profile.beside == frame.whole:
        del rows["the same with LoRA beside its layers"]
    columns = "operations, computed (2 a multiply-add)", "GFLOP"
    return _table(columns, [(name, _giga(value)) for name, value in rows.items()])


def _memory(profile: Profile) -> Table:
    memory = profile.memory
    unit, size = ("GiB", GIB) if memory.peak >= GIB else ("MiB", MIB)
    values = {
        "weights": memory.weights,
        "optimiser": memory.optimiser,
        "gradients": memory.gradients,
        "activations kept for the backward pass": memory.activations,
        "most at a time": memory.peak,
        "each pair more": profile.pair,
    }
    rows = [(name, f"{value / size:,.2f}") for name, value in values.items()]
    here = " free here" if profile.is_here else ""
    share = f"{_usable(profile.setting.device):.0%}"
    for room, pairs in profile.largest:
        text = f"pairs at once that fit {share} of {room / GIB:.1f} GiB{here}"
        rows.append((text, f"{pairs:,}"))
    return _table((f"memory of a step, computed ({_at_once(memory.pairs)})", unit), rows)


def _measured(measured: Measured) -> Table:
    setting, seconds = measured.setting, median(measured.seconds)
    share = count_operations(setting).every / seconds / measured.rate
    rows = [
        (f"a step, median of {len(measured.seconds)}, ms", f"{seconds * 1e3:,.1f}"),
        ("pairs a second", f"{setting.train.batch_size / seconds:,.2f}"),
        (f"share of a matrix product's rate ({_giga(measured.rate)} GFLOP/s)", f"{share:.0%}"),
    ]
    if measured.peak is not None:
        what = "of the process, GiB" if setting.device.type == "cpu" else "of tensors, GiB"
        rows.append((f"most memory {what}", f"{measured.peak / GIB:,.2f}"))
        if measured.before:
            rows.append(("of it before the network, GiB", f"{measured.before / GIB:,.2f}"))
        rows.append(("computed for these pairs, GiB", f"{count_memory(setting).peak / GIB:,.2f}"))
    return _table((f"measured on {setting.device} ({_at_once(setting.pairs)})", ""), rows)


def _at_once(pairs: int) -> str:
    return f"{pairs} pair{'s' * (pairs > 1)} at once"


def _giga(operations: float) -> str:
    value = operations / 1e9
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"
