"""The training loop, ends of epochs, and how a run goes on; what tracks test sets is handed in by the command."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lorat.shards.base.signals import Heard, exit_status, hear_signals, obey_in_time
from lorat.train.checkpoint.checkpoints import WEIGHTS, Due, find_checkpoint, restore
from lorat.train.checkpoint.record import fixed_settings
from lorat.train.checkpoint.schedule import Saver
from lorat.train.data.batches import Batch, poll_batches
from lorat.train.data.places import Source
from lorat.train.distributed.world import texts_of_ranks
from lorat.train.keeping import Keeper
from lorat.train.logs.report import Reporter, reporting
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.options import StartOptions
from lorat.train.step.faults import Scene
from lorat.train.step.loss import Objective
from lorat.train.step.optimizer import build_optimizer, learning_rate, set_learning_rate
from lorat.train.step.step import Engine, update, validate

_SLOWER = 4.0  # times as long as the step before may one be before a word is said of it

Evaluate = Callable[[Path, int, Callable[[str], None], bool], Mapping[str, float]]
"""Takes a checkpoint's weights file, its finished epochs, what shows a line, and whether the run ends; gives scores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training(Scene):
    """All of a run but its state."""

    validation: Source | None = None  # where validation pairs come from, if there is validation
    start: StartOptions = field(default_factory=StartOptions)
    figures: Mapping[str, float] = field(default_factory=dict)  # what the network costs, for wandb


def train(training: Training, network: OneStream, evaluate: Evaluate | None = None) -> Path:
    """Train a freshly built network to the recipe's end, if no `UserError` is met; return the newest checkpoint."""
    source, world, data = training.source, training.world, training.recipe.data
    engine, settings, first_step, newest = _start(training, network)
    heard = Heard()
    saver = Saver(training.run, training.recipe.train, source.steps_per_epoch, world, heard)
    saver.starts(first_step, newest)
    keeper = Keeper(training, engine, settings, saver, heard)
    heard.text = keeper.promise
    with hear_signals(heard), obey_in_time(heard, keeper.leave, keeper.grace):
        batches = poll_batches(source, first_step, world.rank, world.size, data.workers, data.prefetch, pin=world.pins)
        telling = reporting(training, first_step, training.start.wandb, training.figures)
        # Closed here, workers end whatever happens; the interpreter alone would wait for them for ever.
        with closing(batches), telling as reporter, keeper.outliving_ranks():
            between = _Between(training, keeper, reporter, evaluate)
            between.catch_up(first_step, newest)
            _do_steps(training, first_step, batches, between)
            saver.finish()
    return saver.newest or training.run


def _do_steps(training: Training, first_step: int, batches: Iterator[Batch | str], between: "_Between") -> None:
    """Train from a step to the recipe's end, or to where early stopping or a signal ends it."""
    plan, world, source = training.recipe.train, training.world, training.source
    keeper, reporter, took = between.keeper, between.reporter, 0.0
    for step in range(first_step, source.epochs * source.steps_per_epoch):
        if reporter.ends_early(step):
            break
        batch = reporter.meter.wait_for(partial(keeper.saver.next, batches))
        if batch is None:
            between.end(step)
            break
        if step == 0:
            reporter.show(batch)
        set_learning_rate(keeper.engine.optimizer, learning_rate(step, plan))
        compiled = ", which is compiled" * (plan.compile and step == first_step)
        begin = time.monotonic()
        with world.waiting(f"step {step + 1}{compiled}", longer=_SLOWER * took):
            reporter.meter.add(*update(keeper.engine, plan, batch.to(world.device), step))
        took, done = time.monotonic() - begin, step + 1
        due = keeper.saver.due(done)
        if due or source.ends(done, plan.validate_epochs) or done % plan.log_steps == 0:
            between.record(done)
            due = between.of_turn(done) or due  # what is best, and the last, is saved
        if due:
            keeper.save(due)
            between.evaluate_after(done, keeper.saver.newest)


def _start(training: Training, network: OneStream) -> tuple[Engine, dict[str, Any], int, Path | None]:
    """Return what trains, what may not change of it, the steps that are done, and the checkpoint that says so."""
    plan, world, start = training.recipe.train, training.world, training.start
    if plan.parallel != "fsdp" or world.size == 1:  # else only this process's part goes to its device
        network.to(world.device)
    network.train()
    network.checkpoint_activations = plan.checkpoint_activations
    optimizer = build_optimizer(network, plan.weight_decay, plan.layer_decay)
    engine = Engine(Objective(network, training.variant, training.dtype), optimizer, world)
    settings = fixed_settings(training.variant, training.recipe, training.source.manifests)
    first_step, newest = 0, None
    if start.resume:
        found = find_checkpoint(training.run) if world.speaks else None
        name = texts_of_ranks([str(found or "")], world)[0]
        if name:
            newest, stateful = Path(name), {"optimizer": optimizer, "scaler": engine.scaler}
            first_step = restore(newest, network, stateful, settings, force_backbone=start.force_backbone)
    engine.share(plan)
    engine.changes.begin(first_step)
    return engine, settings, first_step, newest


@dataclass(frozen=True, slots=True)
class _Between:
    """Validates and evaluates at the ends of epochs; every rank calls alike."""

    training: Training
    keeper: Keeper
    reporter: Reporter
    evaluate: Evaluate | None

    def catch_up(self, first_step: int, newest: Path | None) -> None:
        """Do what a run was asked to end before; rank 0's log says whether the validation was done."""
        pairs, log, saver = self.training.validation, self.reporter.log, self.keeper.saver
        if pairs is not None and self.training.source.ends(first_step, self.training.recipe.train.validate_epochs):
            done = log is not None and any("val_loss" in entry for entry in log.known)
            if not texts_of_ranks(["done" if done else ""], self.training.world)[0]:
                self.reporter.add(first_step, self.validate(pairs))
        if newest is not None:
            due = self.of_turn(first_step) or saver.due(first_step)
            if due and not due.rolling and due.name != newest.name:
                self.keeper.save(due)
        self.evaluate_after(first_step, saver.newest)

    def of_turn(self, done: int) -> Due | None:
        """Return what is due after `done` steps by what was found of them; every rank has to call this."""
        if not any(self.reporter.turn(done)):
            return None
        return Due(done, done // self.training.source.steps_per_epoch, rolling=False)

    def record(self, done: int) -> None:
        """Record the steps since the last record, and at the end of an epoch that asks for it a validation."""
        plan, pairs = self.training.recipe.train, self.training.validation
        values = self.reporter.read(self.keeper.engine, learning_rate(done - 1, plan))
        if pairs and self.training.source.ends(done, plan.validate_epochs) and not self.keeper.saver.asked_to_end():
            values |= self.validate(pairs)
        self.reporter.record(done, values)

    def validate(self, pairs: Source) -> dict[str, float]:
        """Return the losses; nothing where a signal asked for the end in the meantime."""
        data, accumulate = self.training.recipe.data, self.training.recipe.train.accumulate
        values = validate(self.keeper.engine, pairs, data, accumulate, self.keeper.saver.next)
        self.reporter.meter.restart()
        return values

    def end(self, done: int) -> None:
        """Record and save what was not yet, where a signal ends the training after `done` steps."""
        if self.reporter.meter.steps:
            self.record(done)
        if due := self.keeper.saver.last(done):
            self.keeper.save(due)

    def evaluate_after(self, done: int, checkpoint: Path | None) -> None:
        """Evaluate a checkpoint, whole or being written by rank 0, if due; `SystemExit` after SIGTERM or Ctrl-C."""
        source, plan = self.training.source, self.training.recipe.train
        turn, stopping = self.reporter.turn(done), plan.early_stopping
        if checkpoint is None:
            return
        last = turn.over or done == source.epochs * source.steps_per_epoch
        if (turn.improved or last) and stopping is not None and stopping.of_validation:
            self.reporter.note_value(done, checkpoint / WEIGHTS)
        if last or source.ends(done, plan.evaluate_epochs):
            self._track(done, checkpoint, last)
            if not last and self.reporter.turn(done).over:  # by what was tracked now
                self._track(done, checkpoint, True)

    def _track(self, done: int, checkpoint: Path, last: bool) -> None:
        if self.evaluate is not None and not self.keeper.saver.asked_to_end():
            epoch = done // self.training.source.steps_per_epoch
            self.reporter.add(done, self.evaluate(checkpoint / WEIGHTS, epoch, self._show, last))
            self.reporter.meter.restart()

    def _show(self, text: str) -> None:
        if number := self.keeper.heard.number:
            raise SystemExit(exit_status(number))
        if self.reporter.log is not None:
            self.reporter.log.show(text)
