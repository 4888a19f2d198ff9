"""``lorat-train --profile``: what a variant costs, before any data or weights are there.

Parameters, operations and memory are computed for any variant on any machine; time and a second figure for memory are
measured, and told apart, where the device is here and large enough, if need be with fewer pairs.
"""

import math
import os
from collections.abc import Iterable
from statistics import median

import torch
from rich.table import Table

from lorat.configs.schema import RecipeConfig, VariantConfig
from lorat.shards.base.console import OUT, plain_table, progress_bar, say
from lorat.shards.base.errors import UserError
from lorat.train.network.deploy.devices import pick_device, pick_dtype
from lorat.train.network.variants import empty_network
from lorat.train.profile.count import Setting, count_frame, count_parameters, count_step
from lorat.train.profile.measure import Measured, free_memory, measure_apart, product_rate

GIB = 2**30
_USABLE, _USABLE_CPU = 0.9, 0.7
"""Share of a device's memory that is filled; the rest is for what is not counted, which on a processor is much: a
process was seen to hold up to 1.34 times what is counted."""
_SIZES = (24 * GIB, 40 * GIB, 80 * GIB)  # of common GPUs, for those that are not here
_PATIENCE = 15.0  # seconds that a measured step may take
_SHARE = 0.3  # of a product's rate that a step is expected to reach, before it is measured


_WHOLE = {"loratv2": "all frames of a sample, merged"}


class Profile:
    """All that is known of a variant under a recipe: counted, and measured where it can be."""

    def __init__(self, variant: VariantConfig, recipe: RecipeConfig, device: str) -> None:
        """Count, and measure what this machine can; no weights are needed. The device is as `pick_device` takes it, but
        CUDA and MPS need not be here. A ``UserError`` says that the variant cannot be built, the device's name is
        unknown, or torchrun has started several processes.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("--profile: is for one process; leave torchrun out")
        here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        self.is_here = here.get(device, True)
        place, asked = pick_device(device) if self.is_here else torch.device(device), recipe.train.dtype
        if asked == "auto" and not self.is_here:  # what `pick_dtype` takes on the usual devices of that kind
            asked = "bfloat16" if device == "cuda" else "float32"
        empty = empty_network(variant)
        dtype = pick_dtype(asked, place, empty, training=True) if self.is_here else getattr(torch, asked)
        self.setting = Setting(variant, recipe.train, place, dtype)
        self.usable = _USABLE_CPU if place.type == "cpu" else _USABLE
        self.measured: Measured | None = None
        self.notes: list[str] = []  # why nothing was measured, or less than the recipe asks for
        with progress_bar("profile") as update:
            self.parts, self.frame = count_parameters(variant, recipe.train.frozen_blocks), count_frame(variant)
            update(1, 4)
            self.step = count_step(self.setting)
            wider = count_step(self.setting.with_pairs(2 * self.setting.pairs))
            self.pair = (wider.peak - self.step.peak) / self.setting.pairs  # bytes that one more pair takes
            update(2, 4)
            rooms = (free_memory(self.setting.device),) if self.is_here else _SIZES
            # Bytes of a device, and the pairs that the usable share of it holds at once.
            self.largest = [(room, self._pairs_in(room)) for room in rooms]
            update(3, 4)
            if self.is_here:
                self._measure(*self.largest[0])
            else:
                self.notes = [f"time is not given: there is no {device} device here"]
            update(4, 4)

    def _pairs_in(self, room: int) -> int:
        """Return how many pairs at once a device of `room` bytes holds, counted for that number."""
        usable = room * self.usable
        pairs = self.setting.pairs + int((usable - self.step.peak) // self.pair)
        while pairs > 0 and (excess := count_step(self.setting.with_pairs(pairs)).peak - usable) > 0:
            pairs -= max(1, math.ceil(excess / self.pair))
        return max(pairs, 0)

    def _measure(self, room: int, most: int) -> None:
        """Measure a step, its pairs halved until they fit (`most`, into `room` free bytes) and are quick."""
        setting, pairs = self.setting, self.setting.pairs
        rate = product_rate(setting.device, setting.dtype)
        expected = self.step.operations / (rate * _SHARE)
        if pairs > most:
            self.notes.append(f"{pairs} pairs at once do not fit into the {room / GIB:.1f} GiB free here")
        elif expected > _PATIENCE:
            self.notes.append(f"{pairs} pairs at once would take about {expected:.0f} s a step here")
        while pairs > min(most, setting.pairs * _PATIENCE / expected):
            pairs //= 2
        if not pairs:
            self.notes.append("time is not given: not even one pair is small or quick enough here")
        elif (measured := measure_apart(setting.with_pairs(pairs))) is None:
            self.notes.append(f"time is not given: {pairs} pairs at once ran out of memory")
        else:
            # Of two rates the higher one was disturbed less.
            self.measured = measured._replace(rate=max(rate, measured.rate))

    def print(self) -> None:
        """Print tables of at most 80 columns on stdout, each computed or measured."""
        setting, train = self.setting, self.setting.train
        extras = {
            f"{train.accumulate} micro-batches": train.accumulate > 1,
            "activations checkpointed": train.checkpoint_activations,
            "compiled": train.compile,
        }
        head = f"{setting.variant.name}: {train.batch_size} pairs a step", str(setting.dtype).removeprefix("torch.")
        say(", ".join((*head, setting.device.type, *(text for text, holds in extras.items() if holds))))
        tables = [self._parameters(), self._operations(), self._memory()]
        for table in [*tables, _measured(self.measured)] if self.measured else tables:
            say("")
            OUT.print(table)
        for note in self.notes:
            say(note)

    def _parameters(self) -> Table:
        totals = map(sum, zip(*self.parts.values(), strict=True))
        parts = {name: numbers for name, numbers in self.parts.items() if numbers[0]} | {"together": totals}
        rows = ((name, *(f"{number:,}" for number in numbers)) for name, numbers in parts.items())
        return _table(("parameters", "all", "trained"), rows)

    def _operations(self) -> Table:
        frame, variant, pairs = self.frame, self.setting.variant, self.setting.train.batch_size
        merged = ", LoRA merged" * (variant.lora is not None and not variant.lora.experts)
        several = f"{variant.templates} templates, where they change"
        rows = {
            f"a tracked frame{merged}": frame.track,
            "a template, once a sequence" if variant.templates == 1 else several: frame.template,
            "a reference, where it changes": frame.reference,
            _WHOLE.get(variant.method, f"template and search{merged and ', merged'}, last block whole"): frame.whole,
            "the same with LoRA beside its layers": frame.beside * (frame.beside > frame.whole),
            "training, a pair forward": self.step.forward / pairs,
            "training, a pair forward and backward": self.step.operations / pairs,
        }
        numbers = ((name, _giga(value)) for name, value in rows.items() if value)
        return _table(("operations, computed (2 a multiply-add)", "GFLOP"), numbers)

    def _memory(self) -> Table:
        step = self.step
        unit, size = ("GiB", GIB) if step.peak >= GIB else ("MiB", 2**20)
        values = {
            "weights": step.weights,
            "optimiser": step.optimiser,
            "gradients": step.gradients,
            "activations kept for the backward pass": step.activations,
            "most at a time": step.peak,
            "each pair more": self.pair,
        }
        rows = {name: f"{value / size:,.2f}" for name, value in values.items()}
        here = " free here" if self.is_here else ""
        for room, pairs in self.largest:
            rows[f"pairs at once that fit {self.usable:.0%} of {room / GIB:.1f} GiB{here}"] = f"{pairs:,}"
        return _table((f"memory of a step, computed ({_at_once(self.setting.pairs)})", unit), rows.items())


def _measured(measured: Measured) -> Table:
    setting, seconds = measured.setting, median(measured.seconds)
    step = count_step(setting)
    share = step.operations / seconds / measured.rate
    rows = {
        f"a step, median of {len(measured.seconds)}, ms": f"{seconds * 1e3:,.1f}",
        "pairs a second": f"{setting.train.batch_size / seconds:,.2f}",
        f"share of a matrix product's rate ({_giga(measured.rate)} GFLOP/s)": f"{share:.0%}",
    }
    if measured.peak is not None:
        what = "of the process, GiB" if setting.device.type == "cpu" else "of tensors, GiB"
        rows[f"most memory {what}"] = f"{measured.peak / GIB:,.2f}"
        if measured.before:
            rows["of it before the network, GiB"] = f"{measured.before / GIB:,.2f}"
        rows["computed for these pairs, GiB"] = f"{step.peak / GIB:,.2f}"
    return _table((f"measured on {setting.device} ({_at_once(setting.pairs)})", ""), rows.items())


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    table = plain_table(columns)
    for row in rows:
        table.add_row(*row)
    return table


def _at_once(pairs: int) -> str:
    return f"{pairs} pair{'s' * (pairs > 1)} at once"


def _giga(operations: float) -> str:
    value = operations / 1e9
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"
