"""One optimiser step: micro-batches, gradients over the ranks, clipping, update.

Promise: the step is that of the whole batch, however it is cut into micro-batches and over ranks.
Positive cells are counted over all of them before the first backward pass, so that the gradients
of the parts, added over micro-batches and averaged over ranks, are those of the whole.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from lorat.configs.schema import TrainConfig
from lorat.train.data.batches import Batch
from lorat.train.distributed.world import World, mean_over_ranks, without_sync
from lorat.train.step.engine import Engine
from lorat.train.step.faults import step_unless
from lorat.train.step.loss import Losses
from lorat.train.step.optimizer import clip_gradients

__all__ = ["StepResult", "shared_divisor", "step_seed", "update"]


class StepResult(NamedTuple):
    """What a step says of itself; tensors on the device, so that nobody has to wait for it."""

    losses: Losses
    """Sums over micro-batches: the mean over ranks is the loss of the whole batch."""
    norm: Tensor
    """Scalar, of the gradient before clipping; 0 where the step was left out."""
    skipped: Tensor
    """Scalar, 1 where gradients overflowed float16 and the step was left out, else 0."""


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return what a rank's drop path is drawn from in a step."""
    return seed * 1_000_003 + step * 4099 + rank


def shared_divisor(positive: Tensor, world: World) -> Tensor:
    """Return what each rank divides its sums over cells by: all positive cells / ranks.

    Args:
        positive: (B, G, G) bool, all micro-batches of this rank.
        world: this process; every rank has to call this.

    Returns:
        Scalar float32. The batch counts as one positive cell where it has none.
    """
    mean = mean_over_ranks(positive.sum(dtype=torch.float32), world)
    return mean.clamp(min=1.0 / world.size)


def update(engine: Engine, recipe: TrainConfig, batch: Batch, step: int) -> StepResult:
    """Do one optimiser step.

    Args:
        engine: its rate is that of the step.
        recipe: says how many micro-batches the batch makes, and how long the gradient may be.
        batch: this rank's, on its device.
        step: counted from the start of the run.
    """
    wrapped, scaler, world = engine.wrapped, engine.scaler, engine.world
    # Drop path draws from (seed, step, rank), so a resumed run draws the same.
    torch.manual_seed(step_seed(recipe.seed, step, world.rank))
    divisor = shared_divisor(batch.positive, world)
    totals = torch.zeros(3, device=batch.box.device)
    for number, part in enumerate(batch.split(recipe.accumulate), start=1):
        last = number == recipe.accumulate
        with nullcontext() if last else without_sync(wrapped):
            losses: Losses = wrapped(
                part.template,
                part.search,
                part.template_mask,
                part.positive,
                part.box,
                divisor,
            )
            scaler.scale(losses.total).backward()
        totals += torch.stack([losses.total.detach(), losses.score, losses.box])
    norm, skipped = _step(engine, recipe.clip_norm, totals[0], step)
    return StepResult(Losses(*totals), norm, skipped)


def _step(engine: Engine, clip_norm: float, loss: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Clip and apply the gradients; return their norm, and whether they were left out."""
    scaler, optimizer = engine.scaler, engine.optimizer
    scaler.unscale_(optimizer)
    norm = clip_gradients(engine.wrapped, clip_norm)
    # With a scaler, gradients that overflow are its business and no fault.
    skipped = ~norm.isfinite() & scaler.is_enabled()
    norm = torch.where(skipped, 0.0, norm)
    faulty = engine.watch.see(step, loss, norm)
    # Not the scaler's own step: on Metal it would update all the same (see `step_unless`).
    step_unless(optimizer, torch.maximum(faulty, skipped.float()))
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm, skipped.float()
