"""``lorat-train --replay``: a step that was not finite, once more, to see where that begins.

Promise: batch, weights, number type and drop path are those of the step, without DDP, FSDP and ``torch.compile``. On
another device rounding differs, and drop path draws other samples.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lorat.shards.base.console import OUT, plain_table, say
from lorat.shards.base.errors import UserError, some
from lorat.train.data.batches import Batch
from lorat.train.network.blocks.lorat import Prediction
from lorat.train.network.deploy.devices import pick_device
from lorat.train.network.trained import load_weights
from lorat.train.network.variants import build_network
from lorat.train.network.weights.containers import read_tensors
from lorat.train.step.faults import DUMP, TENSORS, FaultRecord
from lorat.train.step.loss import Objective, losses_of
from lorat.train.step.optimizer import box_weight
from lorat.train.step.step import step_seed

_SHOWN = 20  # samples in the table, those that are not finite and the largest losses first


class Sample(NamedTuple):
    """What a sample adds to the loss of its rank."""

    key: str
    rank: int
    score: float
    box: float

    @property
    def finite(self) -> bool:
        """Whether both parts are."""
        return math.isfinite(self.score + self.box)


class Dump(NamedTuple):
    """A step that was kept, read."""

    folder: Path
    record: FaultRecord
    batch: Batch  # of all ranks


@dataclass(slots=True)
class Replay:
    """What was seen when a step was done again."""

    weights: list[str]  # names of parameters that were not finite before the step
    samples: list[Sample] = field(default_factory=list)
    module: str = ""  # the first module whose output was not finite, and whether its input was
    gradient: str = ""  # the parameter that first got a gradient that was not finite


def load_dump(folder: Path) -> Dump:
    """Read a folder of `write_dump`; a `UserError` if it is none, is damaged, or is of another release."""
    try:
        record = FaultRecord.model_validate_json((folder / DUMP).read_bytes())
        tensors, _ = read_tensors(folder / "batch.safetensors")
        values: dict[str, Any] = {"reference": None, **{name: tensors[name] for name in TENSORS if name in tensors}}
        batch = Batch(
            **values,
            keys=record.keys,
            damaged=((),) * len(record.keys),
            seconds=np.zeros((len(record.keys), 2), dtype=np.float32),
        )
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder / DUMP}: no step that a training kept, damaged, or of another release ({type(error).__name__}); "
            "name a folder such as runs/<run>/faults/step_00001234"
        ) from None
    return Dump(folder, record, batch)


def replay(dump: Dump, device: str, backbone: Path | None) -> Replay:
    """Do a dump's step again, for each rank that may have caused it; a `UserError` if device or files do not fit."""
    where, record = pick_device(device), dump.record
    dtype = getattr(torch, record.dtype)
    network = build_network(record.variant, backbone=backbone, dtype_frozen=dtype)
    load_weights(dump.folder / "model.safetensors", network)
    network.to(where).train()
    objective = Objective(network, record.variant, dtype)
    seen = Replay([n for n, p in network.named_parameters() if not _finite(p)])
    _watch(network, seen)
    ranks = list(dump.batch.split(record.ranks))
    positives = dump.batch.positive.sum((0, 2, 3), dtype=torch.float32) / len(ranks)
    divisors = positives.clamp(min=1.0 / len(ranks)).to(where)
    weight = torch.tensor(box_weight(record.step, record.recipe.train), device=where)
    for rank in record.suspects:
        torch.manual_seed(step_seed(record.seed, record.step, rank))
        for part in ranks[rank].to(where).split(record.recipe.train.accumulate):
            predictions = objective.predict(part.template, part.template_mask, part.search, part.reference)
            losses_of(predictions, part.positive, part.box, divisors, weight).total.backward()
            for i, key in enumerate(part.keys):
                own = [Prediction(*(whole[i : i + 1].detach() for whole in each)) for each in predictions]
                loss = losses_of(own, part.positive[i : i + 1], part.box[i : i + 1], divisors, weight)
                seen.samples.append(Sample(key, rank, float(loss.score.sum()), float(loss.box.sum())))
    return seen


def _watch(network: nn.Module, seen: Replay) -> None:
    """Note the first output and the first gradient that are not finite from now on."""

    def see_output(name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        # Modules end from the inside out: the first is the one where it begins.
        if not seen.module and not _finite(outputs):
            came = "finite" if _finite(inputs) else "not finite already"
            seen.module = f"{name} ({type(module).__name__}), whose input was {came}"

    def see_gradient(name: str, parameter: Tensor) -> None:
        if not seen.gradient and not _finite(parameter.grad):
            seen.gradient = name

    for name, module in network.named_modules():
        module.register_forward_hook(partial(see_output, name or "the network"))
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(partial(see_gradient, name))


def _finite(value: Any) -> bool:
    """Return whether all numbers of tensors, in tuples or alone, are finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    return all(_finite(part) for part in value) if isinstance(value, tuple | list) else True


def print_replay(dump: Dump, seen: Replay) -> None:
    """Say what the step showed."""
    record = dump.record
    say(
        f"step {record.step + 1} of {record.variant.name} on {record.ranks} x {record.device}, {record.dtype}: loss "
        f"{', '.join(record.losses)}, gradient norm {record.norm}"
    )
    table = plain_table(["sample", "score", "box"], title="losses now")
    table.columns[0].no_wrap = False
    worst = sorted(seen.samples, key=lambda s: (s.finite, -(s.score + s.box) if s.finite else 0.0))
    for sample in worst[:_SHOWN]:
        table.add_row(sample.key, f"{sample.score:.4g}", f"{sample.box:.4g}")
    OUT.print(table)
    bad = sum(not sample.finite for sample in seen.samples)
    say(f"samples: {bad} of {len(seen.samples)} not finite")
    found = {
        "weights not finite before the step": some(seen.weights, 1),
        "first module whose output is not finite": seen.module,
        "first gradient that is not finite": seen.gradient,
    }
    for what, name in found.items():
        say(f"{what}: {name or 'none'}")
    if not (bad or any(found.values())):
        say("everything is finite here: another device, or other versions, may round differently")
