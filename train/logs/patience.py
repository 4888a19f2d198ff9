"""Early stopping: whether a metric got better at the end of an epoch, and for how long it has not.

Promise: it follows from the log alone, so a run that goes on ends where the run ends that was never stopped.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from lorat.configs.schema import EarlyStopping


class Patience:
    """Remembers the best value of a metric; a listener of the log. Of equal values the first is the best."""

    def __init__(self, stopping: EarlyStopping, steps_per_epoch: int, known: Iterable[Mapping[str, Any]]) -> None:
        """Begin with the lines of the log that are `known`."""
        self._stopping, self._steps_per_epoch = stopping, steps_per_epoch
        self._best, self._last, self._best_step, self._last_step = 0.0, 0.0, 0, 0
        for entry in known:
            self.see(entry["step"], entry)

    def see(self, step: int, values: Mapping[str, Any]) -> None:
        """Look for the metric among what was found after `step` steps."""
        if (value := values.get(self._stopping.metric)) is None:
            return
        better = value < self._best if self._stopping.of_validation else value > self._best
        if better or not self._last_step:
            self._best, self._best_step = value, step
        self._last, self._last_step = value, step

    def value(self, done: int) -> float | None:
        """Return the value after `done` steps, if there is one."""
        return self._last if done > 0 and self._last_step == done else None

    def improved(self, done: int) -> bool:
        """Return whether the value after `done` steps is the best."""
        return done > 0 and self._best_step == done

    def over(self, done: int) -> bool:
        """Return whether there is a value after `done` steps, and the best is `patience` epochs older or more."""
        waited = done - self._best_step
        return self.value(done) is not None and waited >= self._stopping.patience * self._steps_per_epoch

    def __str__(self) -> str:
        epoch = self._best_step // self._steps_per_epoch
        return f"{self._stopping.metric} has not been better than {self._best:g} since epoch {epoch}"
