"""Which weights of a run are the best (by the test set that is tracked in between, or the metric of early stopping;
copied, as checkpoints go) and the last.
"""

import shutil
from pathlib import Path

from pydantic import BaseModel

from lorat.configs.load import parse
from lorat.shards.base.storage import atomic_file, read_json, write_json

RESULT, BEST = "result.json", "best.safetensors"


class Result(BaseModel, frozen=True):
    """What weights reached."""

    measure: str  # test set and measure, such as ``got10k-val/ao``, or a loss on validation pairs (``val_loss``)
    score: float  # a fraction of 1, or the loss
    sequences: int = 0  # that were scored
    epoch: int
    weights: str = ""  # their file, relative to the run

    def __str__(self) -> str:
        score = f"{self.score:.5g}" if self.is_loss else f"{100 * self.score:.1f}"
        return f"{self.measure} {score} after epoch {self.epoch}"

    @property
    def is_loss(self) -> bool:
        """Whether less is better."""
        return self.measure.startswith("val_")


class _Results(BaseModel):
    version: int = 1
    best: Result
    last: Result


def note_result(weights: Path, result: Result) -> None:
    """Note a checkpoint's ``model.safetensors`` as the last and, unless others are better, as the best weights."""
    run = weights.parents[2]
    best = read_best(run)
    last = result.model_copy(update={"weights": str(weights.relative_to(run))})
    sign = -1.0 if last.is_loss else 1.0
    if best is None or last.measure != best.measure or sign * last.score > sign * best.score:
        with weights.open("rb") as whole, atomic_file(run / BEST) as copy:
            shutil.copyfileobj(whole, copy)
        best = last.model_copy(update={"weights": BEST})
    write_json(run / RESULT, _Results(best=best, last=last).model_dump())


def read_best(run: Path) -> Result | None:
    """Return a run's best weights; None where nothing was noted, a `UserError` if damaged."""
    path = run / RESULT
    return parse(_Results, read_json(path), str(path)).best if path.is_file() else None
