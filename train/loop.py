"""The training loop: batches, autocast, loss, AdamW; all that decides a run is passed in."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lorat.configs.schema import RecipeConfig, VariantConfig
from lorat.shards.errors import UserError
from lorat.train.batches import Batch, Source, make_loader, normalise
from lorat.train.checkpoints import Position, find_checkpoint, restore, save_checkpoint
from lorat.train.distributed import (
    World,
    mean_over_ranks,
    parallel,
    texts_of_ranks,
    without_sync,
)
from lorat.train.log import open_log
from lorat.train.loss import Losses, tracking_loss
from lorat.train.network.lorat import LoRAT
from lorat.train.optim import (
    Schedule,
    build_optimizer,
    clip_gradients,
    learning_rate,
    set_learning_rate,
)
from lorat.train.pictures import draw_batch, draw_curves

__all__ = ["Training", "train"]

_LOG = logging.getLogger("lorat")
_NAMED = 20  # damaged samples of which each gets a line


@dataclass(frozen=True, slots=True)
class Training:
    """All of a run but its state."""

    run: Path
    variant: VariantConfig
    recipe: RecipeConfig
    source: Source
    dtype: torch.dtype
    """Of autocast."""
    resume: bool


def train(training: Training, network: LoRAT, world: World) -> Path:
    """Train a network to the end of the recipe.

    Args:
        training: what to do.
        network: freshly built for the variant.
        world: this process.

    Returns:
        The folder of the newest checkpoint.

    Raises:
        UserError: if shards are damaged, the loss stops being finite, or a checkpoint does not fit.
    """
    source, data = training.source, training.recipe.data
    network.to(world.device).train()
    optimizer = build_optimizer(network, training.recipe.train.weight_decay)
    first_step = _resume(training, network, optimizer)
    wrapped = parallel(network, world)
    batches = make_loader(source, first_step, world.rank, world.size, data.workers, data.prefetch)
    steps = source.epochs * source.steps_per_epoch
    with open_log(training.run, steps, first_step) if world.speaks else nullcontext() as log:
        meter = _Meter(world)
        for step in range(first_step, steps):
            batch = meter.wait_for(batches)
            if step == 0 and world.speaks:
                draw_batch(batch, training.run / "samples.png")
            rate = _rate(training, step)
            set_learning_rate(optimizer, rate)
            meter.add(*_update(training, wrapped, optimizer, batch.to(world.device), step, world))
            done = step + 1
            due = _checkpoint_due(training, done)
            if due or done % training.recipe.train.log_steps == 0:
                values = meter.read(rate, source.batch_size, done)
                if log is not None:
                    log.record(done, values)
            if due and world.speaks:
                _save(training, network, optimizer, done)
    if log is not None:
        draw_curves(training.run)
        if log.damaged:
            _LOG.warning("%d damaged samples were replaced by others in this run", log.damaged)
    return find_checkpoint(training.run) or training.run


def _update(
    training: Training,
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    world: World,
) -> tuple[Losses, Tensor]:
    """Do one optimiser step and return its losses (means over micro-batches) and gradient norm."""
    recipe, variant = training.recipe.train, training.variant
    # Drop path draws from (seed, step, rank), so a resumed run draws the same.
    torch.manual_seed(recipe.seed * 1_000_003 + step * 4099 + world.rank)
    positives = batch.positive.sum(dtype=torch.float32)
    positives = mean_over_ranks(positives, world).clamp(min=1.0)
    totals = torch.zeros(3, device=batch.box.device)
    for number, part in enumerate(batch.split(recipe.accumulate), start=1):
        last = number == recipe.accumulate
        with nullcontext() if last else without_sync(wrapped):
            template = normalise(part.template, variant.mean, variant.std, torch.float32)
            search = normalise(part.search, variant.mean, variant.std, torch.float32)
            autocast = training.dtype != torch.float32
            with torch.autocast(world.device.type, training.dtype, enabled=autocast):
                prediction = wrapped(template, search, part.template_mask)
            losses = tracking_loss(prediction, part.positive, part.box, positives)
            losses.total.backward()
        totals += torch.stack([losses.total.detach(), losses.score, losses.box])
    norm = clip_gradients(wrapped, recipe.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Losses(*totals), norm


class _Meter:
    """Sums what happened since the last record, without waiting for the device until it is read."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._known: set[str] = set()
        self._reset()

    def _reset(self) -> None:
        self._damaged: list[str] = []
        self._sums = torch.zeros(4, device=self._world.device)
        self._steps = 0
        self._waited = 0.0
        self._since = time.perf_counter()

    def wait_for(self, batches: Iterator[Batch]) -> Batch:
        """Return the next batch and count how long it took to come."""
        begin = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - begin
        self._damaged += [message for messages in batch.damaged for message in messages]
        return batch

    def add(self, losses: Losses, norm: Tensor) -> None:
        """Count one step."""
        self._sums += torch.stack([losses.total, losses.score, losses.box, norm])
        self._steps += 1

    def read(self, rate: float, batch_size: int, step: int) -> dict[str, float]:
        """Return means over steps and ranks and start anew.

        Raises:
            UserError: if the loss or a gradient is not finite.
        """
        damaged = self._sums.new_tensor([len(self._damaged)])
        sums = mean_over_ranks(torch.cat([self._sums / self._steps, damaged]), self._world)
        loss, score, box, norm, mean_damaged = sums.tolist()
        elapsed = time.perf_counter() - self._since
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise UserError(
                f"the loss is {loss} and the gradient norm {norm} between steps "
                f"{step - self._steps} and {step}; lower train.lr or use --set "
                "train.dtype=float32, and go on with --resume auto"
            )
        values = {
            "loss": round(loss, 5),
            "score": round(score, 5),
            "box": round(box, 5),
            "rate": rate,
            "norm": round(norm, 4),
            "pairs_per_second": round(self._steps * batch_size / elapsed, 2),
            "data_wait": round(self._waited / elapsed, 4),
            "damaged": round(mean_damaged * self._world.size),
        }
        if values["damaged"]:
            self._report(texts_of_ranks(self._damaged, self._world))
        self._reset()
        return values

    def _report(self, damaged: list[str]) -> None:
        """Name the damaged samples that were not named before."""
        for message in damaged:
            if not self._world.speaks or message in self._known:
                continue
            self._known.add(message)
            if len(self._known) <= _NAMED:
                _LOG.warning("another sample was taken: %s", message)
            elif len(self._known) == _NAMED + 1:
                _LOG.warning("more samples are damaged; lorat-prep verify lists them all")


def _rate(training: Training, step: int) -> float:
    recipe = training.recipe.train
    schedule = Schedule(
        peak=recipe.lr,
        lowest=recipe.lr_min,
        warmup_from=recipe.lr_warmup,
        warmup_epochs=recipe.warmup_epochs,
        epochs=recipe.epochs,
    )
    return learning_rate(step, training.source.steps_per_epoch, schedule)


def _position(training: Training, step: int) -> Position:
    source = training.source
    data = {m.name: m.fingerprint() for m in source.manifests}
    weights = {
        f"weight of {m.name}": w for m, w in zip(source.manifests, source.weights, strict=True)
    }
    order = {
        "train.seed": source.seed,
        "train.batch_size": source.batch_size,
        "train.pairs_per_epoch": source.pairs_per_epoch,
        "data.window_shards": source.window_shards,
    }
    variant = hashlib.sha256(training.variant.model_dump_json().encode()).hexdigest()[:16]
    return Position(step, data, order | weights | {"variant": variant})


def _resume(training: Training, network: LoRAT, optimizer: torch.optim.Optimizer) -> int:
    checkpoint = find_checkpoint(training.run) if training.resume else None
    if checkpoint is None:
        return 0
    return restore(checkpoint, network, optimizer, _position(training, 0))


def _checkpoint_due(training: Training, done: int) -> bool:
    source = training.source
    epoch, inside = divmod(done, source.steps_per_epoch)
    last = epoch == source.epochs
    return inside == 0 and (last or epoch % training.recipe.train.checkpoint_epochs == 0)


def _save(training: Training, network: LoRAT, optimizer: torch.optim.Optimizer, done: int) -> None:
    save_checkpoint(
        training.run,
        done // training.source.steps_per_epoch,
        network,
        training.variant,
        optimizer,
        _position(training, done),
        keep=training.recipe.train.keep_checkpoints,
    )
