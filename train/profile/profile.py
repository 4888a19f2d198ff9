"""``lorat-train --profile``: what a variant costs, before any data or weights are there.

Promise: what is measured and what is computed is told apart. Parameters, operations and memory are computed for any
variant on any machine; time and a second figure for memory are measured where the device is here and large enough, if
need be with fewer pairs.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import torch
from rich.table import Table

from lorat.configs.schema import RecipeConfig, VariantConfig
from lorat.shards.base.console import OUT, plain_table, progress_bar, say
from lorat.shards.base.errors import UserError
from lorat.train.network.deploy.devices import pick_device, pick_dtype
from lorat.train.profile.count import Part, Setting, count_frame, count_memory, count_operations, count_parameters
from lorat.train.profile.measure import Measured, free_memory, measure_apart, product_rate

GIB = 2**30
_USABLE, _USABLE_CPU = 0.9, 0.7
"""Share of a device's memory that is filled; the rest is for what is not counted, which on a processor is much: a
process was seen to hold up to 1.34 times what is counted."""
_SIZES = (24 * GIB, 40 * GIB, 80 * GIB)
"""Of common GPUs, for those that are not here."""
_PATIENCE = 15.0
"""Seconds that a measured step may take."""
_SHARE = 0.3
"""Of a product's rate that a step is expected to reach, before it is measured."""


class Profile:
    """All that is known of a variant under a recipe: counted, and measured where it can be."""

    def __init__(self, variant: VariantConfig, recipe: RecipeConfig, device: str) -> None:
        """Count, and measure what this machine can; no weights are needed.

        The device is as `pick_device` takes it, but CUDA and MPS need not be here.

        Raises:
            UserError: if the variant cannot be built, the device's name is unknown, or torchrun has started several
                processes.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("--profile: is for one process; leave torchrun out")
        self.setting, self.is_here = _setting(variant, recipe, device)
        self.measured: Measured | None = None
        self.notes: list[str] = []
        """Why nothing was measured, or less than the recipe asks for."""
        with progress_bar("profile") as update:
            self.parts, self.frame = count_parameters(variant), count_frame(variant)
            update(1, 4)
            self.operations = count_operations(self.setting)
            self.memory = count_memory(self.setting)
            wider = count_memory(self.setting.with_pairs(2 * self.memory.pairs))
            self.pair = (wider.peak - self.memory.peak) / self.memory.pairs
            """Bytes that one more pair takes."""
            update(2, 4)
            rooms = (free_memory(self.setting.device),) if self.is_here else _SIZES
            self.largest = [(room, self._pairs_in(room)) for room in rooms]
            """Bytes of a device, and the pairs that the usable share of it holds at once."""
            update(3, 4)
            if self.is_here:
                self._measure(*self.largest[0])
            else:
                self.notes = [f"time is not given: there is no {device} device here"]
            update(4, 4)

    def _pairs_in(self, room: int) -> int:
        """Return how many pairs at once a device of `room` bytes holds, counted for that number."""
        usable = room * _usable(self.setting.device)
        pairs = self.memory.pairs + int((usable - self.memory.peak) // self.pair)
        while pairs > 0:
            excess = count_memory(self.setting.with_pairs(pairs)).peak - usable
            if excess <= 0:
                return pairs
            pairs -= max(1, math.ceil(excess / self.pair))
        return 0

    def _measure(self, room: int, most: int) -> None:
        """Measure a step of the recipe, its pairs halved until they fit and are quick.

        There are `room` free bytes, into which `most` pairs fit.
        """
        setting, pairs = self.setting, self.setting.pairs
        rate = product_rate(setting.device, setting.dtype)
        expected = self.operations.every / (rate * _SHARE)
        if pairs > most:
            free = f"{room / GIB:.1f} GiB free here"
            self.notes.append(f"{pairs} pairs at once do not fit into the {free}")
        elif expected > _PATIENCE:
            slow = f"{expected:.0f} s a step here"
            self.notes.append(f"{pairs} pairs at once would take about {slow}")
        while pairs > min(most, setting.pairs * _PATIENCE / expected):
            pairs //= 2
        measured = measure_apart(setting.with_pairs(pairs)) if pairs else None
        if measured is not None:
            # Of two rates the higher one was disturbed less.
            self.measured = replace(measured, rate=max(rate, measured.rate))
            return
        why = f"{pairs} pairs at once ran out of memory"
        if not pairs:
            why = "not even one pair is small or quick enough here"
        self.notes.append(f"time is not given: {why}")

    def print(self) -> None:
        """Print tables of at most 80 columns on stdout, each computed or measured."""
        setting, train = self.setting, self.setting.train
        extras = {
            f"{train.accumulate} micro-batches": train.accumulate > 1,
            "activations checkpointed": train.checkpoint_activations,
            "compiled": train.compile,
        }
        head = [f"{setting.variant.name}: {train.batch_size} pairs a step"]
        head += [str(setting.dtype).removeprefix("torch."), setting.device.type]
        say(", ".join([*head, *(text for text, holds in extras.items() if holds)]))
        tables = [self._parameters(), self._operations(), self._memory()]
        if self.measured is not None:
            tables.append(_measured(self.measured))
        for table in tables:
            say("")
            OUT.print(table)
        for note in self.notes:
            say(note)

    def _parameters(self) -> Table:
        totals = [sum(getattr(part, n) for part in self.parts) for n in ("every", "trained")]
        rows = [*(part for part in self.parts if part.every), Part("together", *totals)]
        numbers = [(row.name, f"{row.every:,}", f"{row.trained:,}") for row in rows]
        return _table(("parameters", "all", "trained"), numbers)

    def _operations(self) -> Table:
        frame, step, pairs = self.frame, self.operations, self.setting.train.batch_size
        # Each token meets each number of a pair once.
        lora = sum(part.every for part in self.parts if part.name == "LoRA")
        rows = {
            "a tracked frame, LoRA merged": frame.track,
            "a template, once a sequence": frame.template,
            "template and search, merged, last block whole": frame.whole,
            "the same with LoRA beside its layers": frame.whole + 2 * frame.tokens * lora,
            "training, a pair forward": step.forward / pairs,
            "training, a pair forward and backward": step.every / pairs,
        }
        if not lora:
            del rows["the same with LoRA beside its layers"]
        columns = "operations, computed (2 a multiply-add)", "GFLOP"
        return _table(columns, [(name, _giga(value)) for name, value in rows.items()])

    def _memory(self) -> Table:
        memory = self.memory
        unit, size = ("GiB", GIB) if memory.peak >= GIB else ("MiB", 2**20)
        values = {
            "weights": memory.weights,
            "optimiser": memory.optimiser,
            "gradients": memory.gradients,
            "activations kept for the backward pass": memory.activations,
            "most at a time": memory.peak,
            "each pair more": self.pair,
        }
        rows = [(name, f"{value / size:,.2f}") for name, value in values.items()]
        here = " free here" if self.is_here else ""
        share = f"{_usable(self.setting.device):.0%}"
        for room, pairs in self.largest:
            text = f"pairs at once that fit {share} of {room / GIB:.1f} GiB{here}"
            rows.append((text, f"{pairs:,}"))
        return _table((f"memory of a step, computed ({_at_once(memory.pairs)})", unit), rows)


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


def _table(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    table = plain_table(columns)
    for row in rows:
        table.add_row(*row)
    return table


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
