"""Which weights of a run are the best and the last: ``result.json`` and ``best.safetensors``.

The best are those with the highest score of the test set that is tracked in between. They are
copied out of their checkpoint, which makes room for newer ones. Paths are relative to the run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorat.shards.base.storage import atomic_file, read_json, write_json

__all__ = ["BEST", "RESULT", "Result", "describe", "note_result", "read_best"]

RESULT = "result.json"
BEST = "best.safetensors"


@dataclass(frozen=True, slots=True)
class Result:
    """What a checkpoint's weights reached."""

    measure: str
    """Test set and measure, such as ``got10k-val/ao``."""
    score: float
    """A fraction of 1."""
    sequences: int
    """That were scored."""
    epoch: int
    """Finished epochs."""


def note_result(weights: Path, result: Result) -> None:
    """Note the weights of a checkpoint as the last, and as the best where no others are better.

    Args:
        weights: ``<run>/checkpoints/<name>/model.safetensors``.
        result: what they reached.

    Raises:
        UserError: if the disk is full or the file of results is damaged.
    """
    run = weights.parents[2]
    best = read_best(run)
    entry = asdict(result)
    if best is None or result.measure != best["measure"] or result.score >= best["score"]:
        with weights.open("rb") as whole, atomic_file(run / BEST) as copy:
            shutil.copyfileobj(whole, copy)
        best = {**entry, "weights": BEST}
    last = {**entry, "weights": str(weights.relative_to(run))}
    write_json(run / RESULT, {"version": 1, "best": best, "last": last})


def read_best(run: Path) -> dict[str, Any] | None:
    """Return what is known of a run's best weights; None where nothing was noted.

    Raises:
        UserError: if the file is damaged.
    """
    path = run / RESULT
    return read_json(path)["best"] if path.is_file() else None


def describe(best: Mapping[str, Any]) -> str:
    """Return what `read_best` gives as words."""
    return f"{best['measure']} {100 * best['score']:.1f} after epoch {best['epoch']}"
