"""What happened since the last record: losses, rate, speed, waiting, damage."""

import itertools
import logging
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lorat.shards.base.machine import Lost
from lorat.train.data.batches import Batch
from lorat.train.distributed.world import World, mean_over_ranks, texts_of_ranks
from lorat.train.logs.verdict import Pace
from lorat.train.step.loss import Losses

_LOG = logging.getLogger("lorat")
_NAMED = 20  # damaged samples of which each gets a line


class Meter:
    """Sums what happened since the last record, without waiting for the device until it is read."""

    def __init__(self, world: World, searches: int = 1) -> None:
        """Take losses of so many search crops a sample."""
        self._world, self._searches, self._paces = world, searches, list[Pace]()
        self._known = set[str]()  # damaged samples that were named
        self._reset()

    def _reset(self) -> None:
        self._damaged: list[str] = []
        self._sums = torch.zeros(3 + 2 * self._searches, device=self._world.device)
        self.steps = self._pairs = 0  # since the last record
        self._seconds = np.zeros(3)  # waiting here; reading and making in the workers
        self.restart()

    def restart(self) -> None:
        """Leave out the time since the last record, in which nothing was trained."""
        self._since, self._lost = time.perf_counter(), Lost()

    def wait_for(self, take: Callable[[], Batch | None]) -> Batch | None:
        """Take the next batch, if there is one, and count how long it took to come."""
        begin = time.perf_counter()
        if (batch := take()) is None:
            return None
        self._seconds += [time.perf_counter() - begin, *batch.seconds.sum(axis=0)]
        self._damaged += itertools.chain(*batch.damaged)
        self._pairs += len(batch)
        return batch

    def add(self, losses: Losses, norm: Tensor, skipped: Tensor) -> None:
        """Count one step, as `StepResult` tells of it."""
        self._sums += torch.cat([torch.stack([losses.total, norm, skipped]), losses.score, losses.box])
        self.steps += 1

    def read(self, rate: float) -> dict[str, float]:
        """Return means over steps and ranks and start anew; every rank has to call this."""
        beside = self._sums.new_tensor([len(self._damaged), *self._seconds, self._lost.share()])
        means = mean_over_ranks(torch.cat([self._sums / self.steps, beside]), self._world).tolist()
        loss, norm, skipped, *parts, damaged, waited, reading, making, lost = means
        score, box = parts[: self._searches], parts[self._searches :]
        losses = {"loss": loss, "score": sum(score), "box": sum(box)}
        for number in range(self._searches if self._searches > 1 else 0):
            losses |= {f"score_{number}": score[number], f"box_{number}": box[number]}
        elapsed = time.perf_counter() - self._since  # the device has caught up
        values = {
            **{name: round(value, 5) for name, value in losses.items()},
            "rate": rate,
            # It is 0 where a step was left out.
            "norm": round(norm / (1.0 - skipped), 4) if skipped < 1.0 else 0.0,
            "pairs_per_second": round(self._pairs * self._world.size / elapsed, 2),
            "data_wait": round(waited / elapsed, 4),
            "damaged": round(damaged * self._world.size),
        }
        if skipped:
            values["skipped"] = round(skipped * self.steps)
        self._paces.append(Pace(elapsed, waited, self._pairs, reading, making, lost * elapsed))
        told = texts_of_ranks(self._damaged, self._world) if values["damaged"] else []
        for message in told if self._world.speaks else ():
            if message not in self._known:
                self._known.add(message)
                if len(self._known) <= _NAMED:
                    _LOG.warning("another sample was taken: %s", message)
                elif len(self._known) == _NAMED + 1:
                    _LOG.warning("more samples are damaged; lorat-prep verify lists them all")
        self._reset()
        return values

    def pace(self) -> Pace:
        """Return how fast this process was, a mean over ranks; the first record, with compiling, counts only alone."""
        return Pace(*map(sum, zip(*(self._paces[1:] or self._paces), strict=True)))
