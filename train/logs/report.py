"""What a training tells while it runs and at its end: rank 0 alone prints and writes."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lorat.shards.base.errors import UserError
from lorat.train.data.batches import Batch
from lorat.train.distributed.world import texts_of_ranks
from lorat.train.logs.curves import draw_batch, draw_curves
from lorat.train.logs.log import TrainLog, open_log, read_log
from lorat.train.logs.meter import Meter
from lorat.train.logs.patience import Patience
from lorat.train.logs.result import Result, note_result
from lorat.train.logs.verdict import judge
from lorat.train.logs.wandb_log import About, code_version, wandb_run
from lorat.train.step.faults import Scene, write_dump
from lorat.train.step.step import Engine

_LOG = logging.getLogger("lorat")
_ENOUGH = 200  # steps after which a verdict on speed is worth something, if an epoch is longer


class Turn(NamedTuple):
    """What the metric of early stopping says at the end of an epoch, the same on all ranks."""

    improved: bool = False  # it is the best so far
    over: bool = False  # the training ends


class Reporter:
    """Says and writes what is to be known of a training."""

    def __init__(self, scene: Scene, log: TrainLog | None, first_step: int, patience: Patience | None = None) -> None:
        self._scene, source = scene, scene.source
        self._patience = patience  # rank 0's
        self.meter = Meter(scene.world, source.spec.searches)
        self.log = log  # rank 0's
        early = first_step + min(source.steps_per_epoch, _ENOUGH)
        # Steps after which the next record has a verdict.
        self._verdicts = sorted([early, source.epochs * source.steps_per_epoch])

    def read(self, engine: Engine, rate: float) -> dict[str, Any]:
        """Return what happened since the last record, at the last step's rate; every rank has to call this. If a loss
        or a gradient of any rank was not finite, the step is kept: `UserError` on rank 0, `SystemExit` on the others.
        """
        fault = engine.watch.look()
        if fault is None:
            return self.meter.read(rate)
        (network, _), world = engine.whole(), self._scene.world
        error = write_dump(fault, self._scene, network) if world.speaks else SystemExit(2)
        # Met here, no rank ends while rank 0 writes: torchrun would end them all then.
        texts_of_ranks([], world)
        raise error

    def turn(self, done: int) -> Turn:
        """Return what early stopping makes of what was found after `done` steps; every rank has to call this."""
        source = self._scene.source
        if self._scene.recipe.train.early_stopping is None or not source.ends(done, 1):
            return Turn()
        mine = self._patience
        told = [name for name in Turn._fields if mine is not None and getattr(mine, name)(done)]
        told = texts_of_ranks([" ".join(told)], self._scene.world)[0].split()
        return Turn(*(name in told for name in Turn._fields))

    def ends_early(self, done: int) -> bool:
        """Return whether the training ends after `done` steps, before its last, and say so; every rank has to call
        this.
        """
        over = self.turn(done).over
        if over and self.log is not None:
            self.log.say(f"{self._patience}; the training ends with epoch {done // self._scene.source.steps_per_epoch}")
        return over

    def note_value(self, done: int, weights: Path) -> None:
        """Note what the metric of early stopping says of a checkpoint's weights, if anything, on rank 0."""
        stopping = self._scene.recipe.train.early_stopping
        if self._patience is None or stopping is None or (value := self._patience.value(done)) is None:
            return
        epoch = done // self._scene.source.steps_per_epoch
        note_result(weights, Result(measure=stopping.metric, score=value, epoch=epoch))

    def show(self, batch: Batch) -> None:
        """Draw the first batch, on rank 0."""
        if self.log is not None:
            with _no_reason_to_end():
                draw_batch(batch, self._scene.run / "samples.png")

    def record(self, done: int, values: dict[str, Any]) -> None:
        """Show and write values of `done` steps, on rank 0."""
        if self.log is None:
            return
        if self._verdicts and done >= self._verdicts[0]:
            self._verdicts = [step for step in self._verdicts if step > done]
            verdict = judge(self.meter.pace(), self._scene)
            self.log.say(verdict.text)
            values |= {"waits_for": verdict.kind, "verdict": verdict.text}
        self.log.record(done, values)

    def add(self, done: int, values: Mapping[str, Any]) -> None:
        """Write what else was found after `done` steps, if anything, on rank 0."""
        if self.log is not None and values:
            self.log.add(done, values)


@contextmanager
def _no_reason_to_end() -> Iterator[None]:
    """Warn where a picture cannot be written."""
    try:
        yield
    except UserError as error:
        _LOG.warning("the training goes on without a picture: %s", error.message)


@contextmanager
def reporting(scene: Scene, first_step: int, wandb_mode: str, figures: Mapping[str, float]) -> Iterator[Reporter]:
    """Open a run's log, and wandb's with the network's figures where that is asked for; at the end draw the curves."""
    source, world = scene.source, scene.world
    if not world.speaks:
        yield Reporter(scene, None, first_step)
        return
    plans = {"variant": scene.variant.model_dump(mode="json"), "recipe": scene.recipe.model_dump(mode="json")}
    config = {**plans, "processes": world.size, "device": world.device.type, "code": code_version()}
    tags = [scene.variant.name, *scene.recipe.name.split("+")]
    about = About(config=config, batch_size=source.batch_size, tags=tags, summary=figures)
    log_file = open_log(scene.run, source.epochs * source.steps_per_epoch, first_step)
    with wandb_run(scene.run, wandb_mode, about) as listener, log_file as log:
        log.listeners += [listener] if listener is not None else []
        patience = None
        if (stopping := scene.recipe.train.early_stopping) is not None:
            patience = Patience(stopping, source.steps_per_epoch, read_log(scene.run / "log.jsonl"))
            log.listeners.append(patience.see)
        yield Reporter(scene, log, first_step, patience)
    with _no_reason_to_end():
        draw_curves(scene.run)
    if log.damaged:
        _LOG.warning("%d damaged samples were replaced by others in this run", log.damaged)
