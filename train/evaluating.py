"""When the weights of a training are tracked with, and where the scores go.

What tracks is handed in by the command: training knows nothing of test sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lorat.configs.schema import TrainConfig
from lorat.shards.base.signals import Heard, exit_status
from lorat.train.logs.report import Reporter

__all__ = ["Evaluate", "Evaluations"]

Evaluate = Callable[[Path, int, Callable[[str], None]], Mapping[str, float]]
"""Takes a checkpoint's weights file, its finished epochs, and what shows a line; gives scores."""


@dataclass(frozen=True, slots=True)
class Evaluations:
    """Calls for an evaluation after every ``evaluate_epochs`` epochs and after the last."""

    evaluate: Evaluate | None
    recipe: TrainConfig
    steps_per_epoch: int
    reporter: Reporter
    heard: Heard

    def after(self, done: int, checkpoint: Path | None) -> None:
        """Evaluate if that is due after `done` steps; every rank calls it.

        Args:
            done: steps; a run that was stopped before its evaluation ended calls with its first.
            checkpoint: of that step, whole or being written by rank 0.

        Raises:
            SystemExit: after SIGTERM or Ctrl-C; results so far are kept.
        """
        epoch, inside = divmod(done, self.steps_per_epoch)
        due = epoch == self.recipe.epochs or epoch % self.recipe.evaluate_epochs == 0
        if self.evaluate is None or checkpoint is None or inside or not epoch or not due:
            return
        scores = self.evaluate(checkpoint / "model.safetensors", epoch, self._show)
        if scores and self.reporter.log is not None:
            self.reporter.log.add(done, scores)
        self.reporter.meter.restart()

    def _show(self, text: str) -> None:
        if self.heard.number:
            raise SystemExit(exit_status(self.heard.number))
        if self.reporter.log is not None:
            self.reporter.log.show(text)
