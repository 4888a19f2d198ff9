"""What a training tells while it runs and at its end; in the loop that is a call a record.

Rank 0 alone prints and writes. Whether a step was finite is decided by all ranks together.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lorat.shards.base.errors import UserError
from lorat.train.data.batches import Batch
from lorat.train.distributed.world import texts_of_ranks
from lorat.train.logs.curves import draw_batch, draw_curves
from lorat.train.logs.log import TrainLog, open_log
from lorat.train.logs.meter import Meter
from lorat.train.logs.verdict import circumstances_of, judge
from lorat.train.logs.wandb_log import WandbRun, wandb_run
from lorat.train.step.engine import Engine
from lorat.train.step.faults import Fault, Scene, write_dump

__all__ = ["Reporter", "reporting"]

_LOG = logging.getLogger("lorat")
_ENOUGH = 200  # steps after which a verdict on speed is worth something, if an epoch is longer


class Reporter:
    """Says and writes what is to be known of a training."""

    def __init__(self, scene: Scene, log: TrainLog | None, first_step: int) -> None:
        self.meter = Meter(scene.world)
        self.log = log
        """Rank 0's."""
        self._scene = scene
        source = scene.source
        self._last = source.epochs * source.steps_per_epoch
        self._first_verdict = first_step + min(source.steps_per_epoch, _ENOUGH)
        self._judged = False

    def read(self, engine: Engine, rate: float) -> dict[str, Any]:
        """Return what happened since the last record; every rank has to call this.

        Args:
            engine: of the training.
            rate: of the last step.

        Raises:
            UserError: on rank 0, if a loss or a gradient was not finite; the step is kept.
            SystemExit: then, on the other ranks.
        """
        fault = engine.watch.look()
        if fault is not None:
            self._stop(fault, engine)
        return self.meter.read(rate)

    def show(self, batch: Batch) -> None:
        """Draw the first batch, on rank 0."""
        if self.log is not None:
            with _no_reason_to_end():
                draw_batch(batch, self._scene.run / "samples.png")

    def record(self, done: int, values: dict[str, Any]) -> None:
        """Show and write values of `done` steps, on rank 0."""
        if self.log is None:
            return
        if done == self._last or (not self._judged and done >= self._first_verdict):
            self._judged = True
            values |= self._verdict(self.log)
        self.log.record(done, values)

    def _verdict(self, log: TrainLog) -> dict[str, str]:
        scene = self._scene
        about = circumstances_of(scene.recipe, scene.source, scene.dtype, scene.world)
        verdict = judge(self.meter.pace(), about)
        log.say(verdict.text)
        return {"waits_for": verdict.kind, "verdict": verdict.text}

    def _stop(self, fault: Fault, engine: Engine) -> None:
        network, world = engine.whole().network, self._scene.world
        error: Exception | None = None
        if world.speaks:
            error = write_dump(fault, self._scene, network)
        # Met here, no rank ends while rank 0 writes: torchrun would end them all then.
        texts_of_ranks([], world)
        raise error or SystemExit(2)


@contextmanager
def _no_reason_to_end() -> Iterator[None]:
    """Warn where a picture cannot be written."""
    try:
        yield
    except UserError as error:
        _LOG.warning("the training goes on without a picture: %s", error.message)


@contextmanager
def reporting(scene: Scene, first_step: int, wandb_mode: str) -> Iterator[Reporter]:
    """Open a run's log, and wandb's where that is asked for; at the end draw the curves."""
    if not scene.world.speaks:
        yield Reporter(scene, None, first_step)
        return
    source = scene.source
    steps = source.epochs * source.steps_per_epoch
    config = {
        "variant": scene.variant.model_dump(mode="json"),
        "recipe": scene.recipe.model_dump(mode="json"),
        "processes": scene.world.size,
        "device": scene.world.device.type,
    }
    about = WandbRun(scene.run, wandb_mode, config, source.batch_size)
    with wandb_run(about) as listener, open_log(scene.run, steps, first_step) as log:
        if listener is not None:
            log.also(listener)
        yield Reporter(scene, log, first_step)
    with _no_reason_to_end():
        draw_curves(scene.run)
    if log.damaged:
        _LOG.warning("%d damaged samples were replaced by others in this run", log.damaged)
