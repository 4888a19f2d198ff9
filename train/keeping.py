"""A run's checkpoints as the loop writes them: with all ranks between two steps, or by rank 0 alone.

Alone where the others do not come, or a step does not end: what is saved then is the last complete step. Promise: no
weight changes while it is written, and nothing half changed is. Where ranks hold parts of the state, or a device does
not catch up, that cannot be had, and is said.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lorat.shards.base.signals import Heard, exit_status, grace, signal_name
from lorat.shards.base.waiting import waiting
from lorat.train.checkpoint.checkpoints import Due, Snapshot
from lorat.train.checkpoint.schedule import Saver
from lorat.train.data.stored import about_shards
from lorat.train.distributed.rendezvous import is_lost
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.deploy.devices import caught_up
from lorat.train.step.faults import Scene
from lorat.train.step.step import Engine

_LOG = logging.getLogger("lorat")


@dataclass(frozen=True, slots=True)
class Keeper:
    """Writes the checkpoints of a training."""

    scene: Scene
    engine: Engine
    settings: dict[str, Any]
    saver: Saver
    heard: Heard

    @property
    def grace(self) -> float:
        """Seconds that a signal leaves this rank: rank 0 saves, and others that ended before would be no help."""
        return grace() if self.scene.world.speaks and not self.engine.spread else 2 * grace()

    @property
    def promise(self) -> str:
        """What is said when a signal comes, on rank 0."""
        late = "left out, and nothing is saved" if self.engine.spread else "left out"
        asked = f"the training ends after this step and saves; if it takes {self.grace:g} s more, it is {late}"
        return asked if self.scene.world.speaks else ""

    def save(self, due: Due) -> None:
        """Write a checkpoint; every rank calls it."""
        whole = self.engine.whole()
        with self.engine.changes.held():
            self._write(due, *whole)

    def leave(self, number: int) -> None:
        """Save and say what can be, where a signal was not obeyed in time; called in another thread."""
        told = self.save_alone()
        if self.scene.world.speaks and not self.saver.ended:
            _LOG.info("%s: %s; go on with --resume auto", signal_name(number), told)

    @contextmanager
    def outliving_ranks(self) -> Iterator[None]:
        """Save what can be where other ranks are lost inside the block; where a signal came, they obeyed it sooner."""
        try:
            yield
        except RuntimeError as error:
            if self.scene.world.size > 1 and is_lost(error):
                told = self.save_alone()
                if self.scene.world.speaks:
                    _LOG.warning("without the other ranks: %s", told)
                if self.heard.number:
                    raise SystemExit(exit_status(self.heard.number)) from None
            raise

    def save_alone(self) -> str:
        """Save the last complete step on rank 0, without the others, unless it is; return what became of it."""
        world, saver = self.scene.world, self.saver
        if not world.speaks:
            return ""
        if self.engine.spread:
            parallel = self.scene.recipe.train.parallel
            return f"{saver.newest_said}; of later steps each rank has a part (train.parallel={parallel})"
        with self.engine.changes.held() as done:
            if done is None or not caught_up(world.device, grace()):
                return f"{saver.newest_said}; later steps cannot be saved, since {world.device} does not end one"
            if due := saver.last(done):
                self.engine.end_averaging()
                self._write(due, *self.engine.whole())
            return saver.newest_said

    def _write(self, due: Due, whole: OneStream, state: dict[str, dict[str, Any]]) -> None:
        averaged, about = self.engine.averaged(whole, state), about_shards(self.scene.source)
        with waiting(f"{self.scene.run / 'checkpoints' / due.name} to be written"):
            self.saver.save(due, Snapshot(whole, self.scene.variant, state, self.settings, about, averaged))
