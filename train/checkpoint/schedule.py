"""When a checkpoint is due, and who says so.

Epochs and steps are arithmetic; the clock is rank 0's; a signal may reach any rank. What one rank alone knows is told
to all where they meet anyway: before every step, when each has its batch. A rank without one comes there again and
again while it waits, so that all save and stop after the same step, however long a batch may take.
"""

import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lorat.configs.schema import TrainConfig
from lorat.shards.base.errors import UserError
from lorat.shards.base.signals import Heard, exit_status, signal_name
from lorat.shards.base.waiting import waiting
from lorat.train.checkpoint.checkpoints import Due, Snapshot, save_checkpoint
from lorat.train.data.batches import Batch
from lorat.train.distributed.world import World, agreed, most_over_ranks, texts_of_ranks

_LOG = logging.getLogger("lorat")


class Saver:
    """Says after every step whether a checkpoint is due, and writes it."""

    def __init__(self, run: Path, recipe: TrainConfig, steps_per_epoch: int, world: World, heard: Heard) -> None:
        self._run, self._recipe, self._steps_per_epoch = run, recipe, steps_per_epoch
        self._world, self._heard = world, heard
        self._saved_at, self._saved = time.monotonic(), 0
        self._stop, self._late = 0, 0
        self.newest: Path | None = None  # the newest checkpoint of the run, once it `starts`
        self.ended = False  # whether the end that a signal asked for was told

    def starts(self, step: int, newest: Path | None) -> None:
        """Note the step that the run goes on from, and the checkpoint of it, if there is one."""
        self._saved, self.newest = step, newest

    def next(self, batches: Iterator[Batch | str]) -> Batch | None:
        """Return the next of `poll_batches` once every rank has its own; None where a signal asked for the end. Every
        rank has to call this. An error of one rank's data ends all, as `agreed` does.
        """
        got: Batch | str = ""
        failure: UserError | None = None
        keeps = ""
        with waiting(lambda: f"data{keeps and f' ({keeps})'}" if keeps or isinstance(got, str) else ""):
            while True:
                try:
                    got = next(batches) if isinstance(got, str) else got
                except UserError as error:
                    failure = error
                missing, failed = self._meet(isinstance(got, str), failure is not None)
                if self._stop:
                    return None
                if failed:
                    agreed(partial(_refuse, failure), self._world)
                if isinstance(got, Batch) and not missing:
                    return got
                where = f"rank {self._world.rank}: " if self._world.size > 1 else ""
                told = texts_of_ranks([f"{where}{got}" if isinstance(got, str) and got else ""], self._world)
                keeps = "; ".join(filter(None, told))

    def asked_to_end(self) -> bool:
        """Return whether a signal asked for the end, the same on all ranks, which have to call this."""
        self._meet()
        return self._stop > 0

    def _meet(self, *of_data: bool) -> list[bool]:
        """Meet the other ranks: note what they heard and what rank 0's clock says, and return for each thing that is
        said of their data whether it is true of any.
        """
        every = 60 * self._recipe.checkpoint_minutes
        late = self._world.speaks and every > 0 and time.monotonic() - self._saved_at >= every
        self._stop, self._late, *told = most_over_ranks([self._heard.number, late, *of_data], self._world)
        return list(map(bool, told))

    def due(self, done: int) -> Due | None:
        """Return what is due after `done` steps, as far as steps say and, since the last meeting, the clock."""
        (epoch, inside), recipe = divmod(done, self._steps_per_epoch), self._recipe
        regular = 0 in (epoch % recipe.checkpoint_epochs, epoch % recipe.evaluate_epochs)
        if inside == 0 and (regular or epoch == recipe.epochs):
            return Due(done, epoch, rolling=False)
        by_steps = recipe.checkpoint_steps and done % recipe.checkpoint_steps == 0
        return Due(done, epoch, rolling=True) if by_steps or self._late else None

    def last(self, done: int) -> Due | None:
        """Return what is due after `done` steps, with which a signal ends the training; None if that is saved."""
        return Due(done, done // self._steps_per_epoch, rolling=True, last=True) if done > self._saved else None

    def save(self, due: Due, snapshot: Snapshot) -> None:
        """Write what is due, on rank 0; every rank calls it. If the disk refuses, a rolling checkpoint is left out with
        a warning, unless it is the last thing that the training does: that, and an epoch's, are a `UserError`.
        """
        newest = self._run / "checkpoints" / due.name
        try:
            if self._world.speaks:
                save_checkpoint(self._run, due, snapshot, keep=self._recipe.keep_checkpoints)
            self.newest = newest
        except UserError as error:
            if due.last or not due.rolling:
                raise
            _LOG.warning("the training goes on without a checkpoint: %s", error.message)
        self._saved_at, self._saved = time.monotonic(), due.step

    @property
    def newest_said(self) -> str:
        """What a run that ends says of its newest checkpoint."""
        return f"saved {self.newest}" if self.newest else "no step was done"

    def finish(self) -> None:
        """Wait for the other ranks, so that what rank 0 writes is there; every rank calls it. `SystemExit` where a
        signal asked for the end: 143 after SIGTERM, 130 after Ctrl-C.
        """
        if self.asked_to_end():
            if self._world.speaks:
                _LOG.info("%s: %s; go on with --resume auto", signal_name(self._stop), self.newest_said)
            self.ended = True
            raise SystemExit(exit_status(self._stop))


def _refuse(failure: UserError | None) -> None:
    if failure is not None:
        raise failure
