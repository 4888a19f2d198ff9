"""When a checkpoint is due, and who says so.

Epochs and steps are arithmetic; the clock is rank 0's; a signal may reach any rank. What one rank alone knows is
exchanged once a step over the processors, beside the computation, and obeyed by all ranks one step later, so no rank
waits for it and all save and stop after the same step.
"""

import logging
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lorat.configs.schema import TrainConfig
from lorat.shards.base.errors import UserError
from lorat.shards.base.process import Heard, exit_status, signal_name
from lorat.train.checkpoint.checkpoints import Due, Snapshot, save_checkpoint
from lorat.train.distributed.rendezvous import rank_timeout
from lorat.train.distributed.world import World

_LOG = logging.getLogger("lorat")


class Saver:
    """Says after every step whether a checkpoint is due, and writes it."""

    def __init__(self, run: Path, recipe: TrainConfig, steps_per_epoch: int, world: World, heard: Heard) -> None:
        self._run, self._recipe, self._steps_per_epoch = run, recipe, steps_per_epoch
        self._world, self._heard, self._stop = world, heard, 0
        self._saved_at, self._saved_step = time.monotonic(), 0
        # A group of its own: these meetings run beside those of the gradients.
        self._group: Any = dist.new_group(backend="gloo", timeout=rank_timeout()) if world.size > 1 else None
        self._values = torch.zeros(2, dtype=torch.int64)
        self._work: dist.Work | None = None
        self.newest: Path | None = None  # the newest checkpoint that was written since the start of this process

    def due(self, done: int, *, ended: bool = False) -> Due | None:
        """Return what is due after `done` steps, called once a step by all; `ended`: what `asked_to_end` left over."""
        stop, asked = self._stop, 0
        if not ended:
            every = 60 * self._recipe.checkpoint_minutes
            late = every > 0 and time.monotonic() - self._saved_at >= every
            stop, asked = self._exchange(done if self._world.speaks and late else 0)
        (epoch, inside), recipe = divmod(done, self._steps_per_epoch), self._recipe
        regular = 0 in (epoch % recipe.checkpoint_epochs, epoch % recipe.evaluate_epochs)
        if inside == 0 and (regular or epoch == recipe.epochs):
            return Due(done, epoch, rolling=False, stop=stop)
        by_steps = recipe.checkpoint_steps and done % recipe.checkpoint_steps == 0
        # What was asked before the newest checkpoint was is answered by that.
        rolling = stop or asked > self._saved_step or by_steps
        return Due(done, epoch, rolling=True, stop=stop) if rolling else None

    def asked_to_end(self) -> bool:
        """Return whether a signal asked for the end, the same on all ranks; each calls it in what takes long."""
        self._stop, _ = self._exchange(0)
        return self._stop > 0

    def save(self, due: Due, snapshot: Snapshot) -> None:
        """Write what is due, and end the training where a signal asked for that; on every rank. If the disk refuses, a
        rolling checkpoint is left out with a warning, unless it is the last thing that the training does: that, and an
        epoch's, are a `UserError`. `SystemExit` has 143 after SIGTERM and 130 after Ctrl-C.
        """
        newest = self._run / "checkpoints" / due.name
        try:
            if self._world.speaks:
                save_checkpoint(self._run, due, snapshot, keep=self._recipe.keep_checkpoints)
            self.newest = newest
        except UserError as error:
            if due.stop or not due.rolling:
                raise
            _LOG.warning("the training goes on without a checkpoint: %s", error.message)
        self._saved_at, self._saved_step = time.monotonic(), due.step
        if due.stop:
            self.finish()
            if self._world.speaks:
                _LOG.info("%s: saved %s; go on with --resume auto", signal_name(due.stop), newest)
            raise SystemExit(exit_status(due.stop))

    def finish(self) -> None:
        """Wait for the other ranks, so that what rank 0 writes is there; every rank calls it."""
        if self._group is not None:
            self._told()
            dist.barrier(self._group)

    def _exchange(self, step: int) -> tuple[int, int]:
        """Tell the ranks which signal this one heard, and a step; return the largest of what all told a call before."""
        if self._group is None:
            return self._heard.number, step
        told, self._values = self._told(), torch.tensor([self._heard.number, step])
        self._work = dist.all_reduce(self._values, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return told

    def _told(self) -> tuple[int, int]:
        """Return what was told at the last call; zeros before the first."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        number, step = self._values.tolist()
        return number, step
