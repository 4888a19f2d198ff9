"""What a training tells while it runs and at its end: rank 0 alone prints and writes."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lorat.shards.base.errors import UserError
from lorat.train.data.batches import Batch
from lorat.train.distributed.world import texts_of_ranks
from lorat.train.logs.curves import draw_batch, draw_curves
from lorat.train.logs.log import TrainLog, open_log
from lorat.train.logs.meter import Meter
from lorat.train.logs.verdict import judge
from lorat.train.logs.wandb_log import About, code_version, wandb_run
from lorat.train.step.faults import Scene, write_dump
from lorat.train.step.step import Engine

_LOG = logging.getLogger("lorat")
_ENOUGH = 200  # steps after which a verdict on speed is worth something, if an epoch is longer


class Reporter:
    """Says and writes what is to be known of a training."""

    def __init__(self, scene: Scene, log: TrainLog | None, first_step: int) -> None:
        self._scene, source = scene, scene.source
        self.meter = Meter(scene.world)
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
        yield Reporter(scene, log, first_step)
    with _no_reason_to_end():
        draw_curves(scene.run)
    if log.damaged:
        _LOG.warning("%d damaged samples were replaced by others in this run", log.damaged)
