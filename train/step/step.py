"""One optimiser step, alone or over the ranks, and losses on pairs that nothing is trained on.

Promise: the step is that of the whole batch, however it is cut into micro-batches and over ranks: positive cells are
counted over all of them before the first backward pass, so the gradients of the parts, added over micro-batches and
averaged over ranks, are those of the whole. A validation computes the same pairs every time, on any number of ranks,
and changes no batch, no random draw and no weight of the training.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel as DDP

from lorat.configs.schema import DataConfig, TrainConfig
from lorat.train.data.batches import Batch, poll_batches
from lorat.train.data.places import Source
from lorat.train.distributed.fsdp import empty_copy, fill, gathered, shard, whole_state
from lorat.train.distributed.world import World, mean_over_ranks, parallel, texts_of_ranks
from lorat.train.distributed.zero import Zero
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.deploy.devices import compile_backward
from lorat.train.step.average import average, averages, exchange, network_of_averages
from lorat.train.step.changes import Changes
from lorat.train.step.faults import Watch, step_unless
from lorat.train.step.loss import Losses, Objective
from lorat.train.step.optimizer import box_weight, clip_gradients

_LOG = logging.getLogger("lorat")


class Engine:
    """What turns batches into weights: all that a step needs but its batch."""

    def __init__(self, objective: Objective, optimizer: torch.optim.Optimizer, world: World) -> None:
        """Hold an objective, equal on all ranks, and the optimiser of its network."""
        self.objective, self.optimizer, self.world = objective, optimizer, world
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=objective.dtype == torch.float16)
        self.watch = Watch(world)  # keeps steps that are not finite from changing weights
        self.wrapped: nn.Module = objective  # alone or over the ranks; what a step calls
        self.changes = Changes()
        self._exchanged = False  # whether the moving average stands in the place of the weights
        self._empty: OneStream | None = None  # a copy without values, where ranks hold parts
        self._zero: Zero | None = None  # where DeepSpeed does the step
        self._compiled_backward: Callable[[], AbstractContextManager[Any]] = nullcontext

    def share(self, plan: TrainConfig) -> None:
        """Compile the step if it is to be, and share its work over the ranks, if several, as ``parallel`` says. All
        other ways than DDP put another optimiser in the place of this one.
        """
        network, many = self.objective.network, self.world.size > 1
        if many and plan.parallel != "ddp":
            self._empty = empty_copy(network)
        if many and plan.parallel == "fsdp":
            self.optimizer = shard(self.objective, network.blocks, self.optimizer, self.world.device)
        elif many and plan.parallel == "deepspeed":
            self._zero = Zero(self.objective, self.optimizer, plan.zero_stage, plan.clip_norm, self.world.device)
            self.wrapped, self.optimizer = self._zero.module, self._zero.optimizer
        elif many:
            self.wrapped = parallel(self.objective, self.world, traceable=plan.compiled_autograd)
        if plan.compiled_autograd:
            self._compiled_backward = compile_backward(self.wrapped, self.world.device, plan.compile_mode)
        elif plan.compile:
            self.objective.compile_whole(self.world.device, plan.compile_mode)

    @property
    def spread(self) -> bool:
        """Whether ranks hold parts of weights or of the optimiser's state."""
        return self._empty is not None

    @property
    def computes(self) -> Callable[..., Losses]:
        """What computes losses that nothing is trained on: the objective as it is, compiled or not; another mode would
        be another graph. Weights that ranks hold parts of come by the hooks of the module that shares them.
        """
        if self._zero is not None or isinstance(self.objective, FSDPModule):
            return self.wrapped
        return self.objective.forward

    def accumulate(self, part: Batch, divisors: Tensor, weight: Tensor, *, last: bool) -> Losses:
        """Add the gradients of a micro-batch, the `last` of its step or not, and return its losses. Of each search crop
        they are divided by one of `divisors` (S,); `weight` is that of boxes.
        """
        if self._zero is not None:
            return self._zero.accumulate((*part.inputs, divisors, weight), last=last)
        with self.wrapped.no_sync() if isinstance(self.wrapped, DDP) and not last else nullcontext():
            losses: Losses = self.wrapped(*part.inputs, divisors, weight)
            with self._compiled_backward():
                self.scaler.scale(losses.total).backward()
        return losses

    def finish(self, step: int, loss: Tensor, recipe: TrainConfig) -> tuple[Tensor, Tensor]:
        """Do the optimiser's step and return `StepResult`'s norm and whether it was left out; `loss` is this rank's."""
        if self._zero is not None:
            with self.changes.up_to(step + 1):
                norm = self._zero.step(self.watch.tripped)
            self.watch.see(step, loss, norm)
            return norm, torch.zeros_like(norm)
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.wrapped, recipe.clip_norm)
        # With a scaler, gradients that overflow are its business and no fault.
        skipped = ~norm.isfinite() & self.scaler.is_enabled()
        norm = torch.where(skipped, 0.0, norm)
        faulty = self.watch.see(step, loss, norm)
        with self.changes.up_to(step + 1):
            # Not the scaler's own step: on Metal it would update all the same (see `step_unless`).
            step_unless(self.optimizer, torch.maximum(faulty, skipped.float()))
            self.scaler.update()
            if recipe.ema:
                average(self.optimizer, recipe.ema, step, skipped.float() if self.scaler.is_enabled() else None)
        self.optimizer.zero_grad(set_to_none=True)
        return norm, skipped.float()

    def whole(self) -> tuple[OneStream, dict[str, dict[str, Any]]]:
        """Return the network and the ``state_dict`` of ``optimizer`` and ``scaler`` that one process would have. Every
        rank has to call this, and rank 0's is saved, the same for any number of ranks and way of sharing. Where ranks
        hold parts, only what is saved has values; elsewhere these are the live tensors.
        """
        network, state = self.objective.network, {"scaler": self.scaler.state_dict()}
        if self._empty is None:
            return network, {"optimizer": self.optimizer.state_dict(), **state}
        gather, kept = (gathered, whole_state(self.optimizer)) if self._zero is None else self._zero.whole()
        # Files hold frozen tensors only where there is no backbone file that has them.
        fill(self._empty, network, gather, frozen=not network.fingerprint)
        return self._empty, {"optimizer": kept, **state}

    @contextmanager
    def averaging(self) -> Iterator[None]:
        """Let the moving average stand in the place of the weights inside the block, if there is one."""
        with self.changes.held():
            exchange(self.optimizer)
            self._exchanged = True
        try:
            yield
        finally:
            with self.changes.held():
                self.end_averaging()

    def end_averaging(self) -> None:
        """Put the weights back, inside a block of `changes`."""
        if self._exchanged:
            exchange(self.optimizer)
            self._exchanged = False

    def averaged(self, whole: OneStream, state: dict[str, dict[str, Any]]) -> OneStream | None:
        """Return what `whole` gives with the moving average of the weights; None where there is none."""
        if self._zero is not None:
            return None
        means = averages(self.objective.network, self.optimizer, state["optimizer"])
        return network_of_averages(whole, means) if means else None


class StepResult(NamedTuple):
    """What a step says of itself; tensors on the device, so that nobody has to wait for it."""

    losses: Losses  # sums over micro-batches: the mean over ranks is the loss of the whole batch
    norm: Tensor  # scalar, of the gradient before clipping; 0 where the step was left out
    skipped: Tensor  # scalar, 1 where gradients overflowed float16 and the step was left out, else 0


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return what a rank's drop path is drawn from in a step, so that a resumed run draws alike."""
    return seed * 1_000_003 + step * 4099 + rank


def shared_divisors(positive: Tensor, world: World) -> Tensor:
    """Return what each rank divides its sums over cells by, (S,) float32: all positive cells / ranks, of each search
    crop. Every rank has to call this, with (B, S, G, G) bool of its micro-batches; none counts as one cell.
    """
    return mean_over_ranks(positive.sum((0, 2, 3), dtype=torch.float32), world).clamp(min=1.0 / world.size)


def update(engine: Engine, recipe: TrainConfig, batch: Batch, step: int) -> StepResult:
    """Do one optimiser step, counted from 0 over the run, on this rank's part of a batch."""
    torch.manual_seed(step_seed(recipe.seed, step, engine.world.rank))
    divisors = shared_divisors(batch.positive, engine.world)
    weight = torch.full((), box_weight(step, recipe), device=batch.box.device)
    sums = Losses(torch.zeros_like(weight), torch.zeros_like(divisors), torch.zeros_like(divisors))
    for number, part in enumerate(batch.split(recipe.accumulate), start=1):
        losses = engine.accumulate(part, divisors, weight, last=number == recipe.accumulate)
        for total, own in zip(sums, losses, strict=True):
            total += own.detach()
    norm, skipped = engine.finish(step, sums.total, recipe)
    return StepResult(sums, norm, skipped)


def validate(
    engine: Engine,
    source: Source,
    data: DataConfig,
    accumulate: int,
    take: Callable[[Iterator[Batch | str]], Batch | None],
) -> dict[str, float]:
    """Return ``val_loss``, ``val_score`` and ``val_box``, of several search crops their sums: those of one batch of all
    samples, whatever a batch's size, of the moving average of the weights if there is one. Every rank has to call this;
    all `take` the next of `poll_batches` alike, and where that gives none, nothing is returned. Each batch of `source`,
    of `validation_source`, is computed in `accumulate` parts. The engine is in training mode afterwards. A `UserError`
    if a shard is damaged.
    """
    world, objective, damaged = engine.world, engine.objective, list[str]()
    searches, one = source.spec.searches, torch.ones((), device=world.device)
    sums = torch.zeros(3, searches, device=world.device)
    batches = poll_batches(source, 0, world.rank, world.size, data.workers, data.prefetch, pin=world.pins)
    objective.eval()
    try:
        with closing(batches), engine.averaging(), torch.no_grad():
            for _ in range(source.epochs * source.steps_per_epoch):
                if (batch := take(batches)) is None:
                    return {}
                damaged += [message for messages in batch.damaged for message in messages]
                for part in batch.to(world.device).split(accumulate):
                    losses = engine.computes(*part.inputs, one.expand(searches), one)
                    positives = part.positive.sum((0, 2, 3), dtype=torch.float32)
                    sums += torch.stack([losses.score, losses.box, positives])
    finally:
        objective.train()
        if isinstance(objective, FSDPModule):
            objective.reshard()  # what was gathered waits for a backward pass
    scores, boxes, positives = mean_over_ranks(sums, world).tolist()
    score, box = (sum(s / p for s, p in zip(part, positives, strict=True)) for part in (scores, boxes))
    damaged = texts_of_ranks(damaged, world)
    if damaged and world.speaks:
        what = "damaged samples were replaced by others in the validation, first"
        _LOG.warning("%d %s: %s", len(damaged), what, damaged[0])
    values = {"val_loss": score + box, "val_score": score, "val_box": box}
    return {name: round(value, 5) for name, value in values.items()}
