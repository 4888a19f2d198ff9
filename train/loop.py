"""The training loop: batches, autocast, loss, AdamW; all that decides a run is passed in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorat.configs.schema import RecipeConfig, VariantConfig
from lorat.shards.base.signals import hear_signals
from lorat.train.checkpoint.checkpoints import Snapshot, find_checkpoint, restore
from lorat.train.checkpoint.record import fixed_settings
from lorat.train.checkpoint.schedule import Saver
from lorat.train.data.batches import Source, make_loader
from lorat.train.distributed.world import World, texts_of_ranks
from lorat.train.evaluating import Evaluate, Evaluations
from lorat.train.logs.report import reporting
from lorat.train.network.blocks.lorat import LoRAT
from lorat.train.step.engine import Engine, build_engine, make_scaler
from lorat.train.step.faults import Scene
from lorat.train.step.objective import Objective
from lorat.train.step.optimizer import (
    Schedule,
    build_optimizer,
    learning_rate,
    set_learning_rate,
)
from lorat.train.step.step import update
from lorat.train.validation import Validations, validation_due

__all__ = ["Training", "train"]


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
    validation: Source | None = None
    """Where validation pairs come from, if there is validation."""
    force_backbone: bool = False
    """Whether a checkpoint that was trained on another backbone is taken."""
    wandb: str = "off"
    """Where records go beside the run's log: ``online``, ``offline`` or ``off``."""


def train(
    training: Training, network: LoRAT, world: World, evaluate: Evaluate | None = None
) -> Path:
    """Train a network to the end of the recipe.

    Args:
        training: what to do.
        network: freshly built for the variant.
        world: this process.
        evaluate: tracks test sets now and then, if that is wanted.

    Returns:
        The folder of the newest checkpoint.

    Raises:
        UserError: if shards are damaged, the loss stops being finite, or a checkpoint does not fit.
    """
    source, data = training.source, training.recipe.data
    plan = training.recipe.train
    sharded = plan.parallel == "fsdp" and world.size > 1
    if not sharded:  # else only this process's part goes to its device
        network.to(world.device)
    network.train()
    network.checkpoint_activations = plan.checkpoint_activations
    optimizer = build_optimizer(network, plan.weight_decay, plan.layer_decay)
    scaler = make_scaler(training.dtype, world.device)
    stateful = {"optimizer": optimizer, "scaler": scaler}
    first_step, newest = _resume(training, network, stateful, world)
    objective = Objective(network, training.variant, training.dtype)
    if plan.compile:
        objective.compile_whole(world.device)
    engine = build_engine(objective, optimizer, scaler, world, sharded=sharded)
    batches = make_loader(
        source, first_step, world.rank, world.size, data.workers, data.prefetch, pin=world.pins
    )
    steps = source.epochs * source.steps_per_epoch
    scene = Scene(training.run, training.variant, training.recipe, source, training.dtype, world)
    telling = reporting(scene, first_step, training.wandb)
    # Closed here, workers end whatever happens; the interpreter alone would wait for them for ever.
    with closing(batches), hear_signals(world.speaks) as heard, telling as reporter:
        saver = Saver(training.run, plan, source.steps_per_epoch, world, heard)
        evaluations = Evaluations(evaluate, plan, source.steps_per_epoch, reporter, heard)
        validations = Validations(
            training.validation,
            data,
            plan,
            source.steps_per_epoch,
            engine,
            reporter,
            saver.asked_to_end,
        )
        validations.catch_up(first_step)
        evaluations.after(first_step, newest)
        for step in range(first_step, steps):
            batch = reporter.meter.wait_for(batches)
            if step == 0:
                reporter.show(batch)
            rate = _rate(training, step)
            set_learning_rate(engine.optimizer, rate)
            batch = batch.to(world.device)
            reporter.meter.add(*update(engine, plan, batch, step))
            done = step + 1
            due = saver.due(done)
            ends = validation_due(plan, done, source.steps_per_epoch)
            if due or ends or done % plan.log_steps == 0:
                values = reporter.read(engine, rate)
                if validations.due(done) and not (due and due.stop):
                    losses = validations.after()
                    due = due if losses else saver.due_at_end(done)
                    values |= losses
                reporter.record(done, values)
            if due:
                saver.save(due, _snapshot(training, engine))
                evaluations.after(done, saver.newest)
        saver.finish()
    return saver.newest or newest or training.run


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


def _settings(training: Training) -> dict[str, Any]:
    return fixed_settings(training.variant, training.recipe, training.source.manifests)


def _resume(
    training: Training, network: LoRAT, stateful: Mapping[str, Any], world: World
) -> tuple[int, Path | None]:
    """Return the steps done, and the checkpoint that says so."""
    if not training.resume:
        return 0, None
    found = find_checkpoint(training.run) if world.speaks else None
    found = Path(name) if (name := texts_of_ranks([str(found or "")], world)[0]) else None
    if found is None:
        return 0, None
    settings, force = _settings(training), training.force_backbone
    return restore(found, network, stateful, settings, force_backbone=force), found


def _snapshot(training: Training, engine: Engine) -> Snapshot:
    whole = engine.whole()
    state = {"optimizer": whole.optimizer, "scaler": engine.scaler.state_dict()}
    return Snapshot(whole.network, training.variant, state, _settings(training))
