"""Where an evaluation finds its weights and puts its results.

A run is a folder with ``checkpoints/<checkpoint>/model.safetensors``; a finished number of epochs
(``epoch_0010``) goes before a rolling checkpoint (``step_…``), and the higher number before the
lower. Results go to ``<run>/eval/<checkpoint>`` unless the user says otherwise.
"""

from __future__ import annotations

import re
from pathlib import Path

from lorat.shards.base.errors import UserError

__all__ = ["RUNS", "chosen_weights", "default_out", "newest_run", "run_weights"]

RUNS = Path("runs")
_CHECKPOINTS = "checkpoints"
_MODEL = "model.safetensors"


def chosen_weights(run: Path | None, weights: Path | None) -> Path:
    """Return the weights file that --run or --weights mean; the newest run's without both.

    Raises:
        UserError: if both are given, or there is no such file.
    """
    if run is not None and weights is not None:
        raise UserError("--run and --weights: give one of them")
    if weights is None:
        return run_weights(run or newest_run())
    if not weights.is_file():
        raise UserError(f"{weights}: no such weights file; check --weights")
    return weights


def run_weights(run: Path) -> Path:
    """Return the weights file of a run's last checkpoint.

    Raises:
        UserError: if the folder is missing or holds no checkpoint.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such run; name a folder that lorat-train wrote with --run")
    files = list((run / _CHECKPOINTS).glob(f"[!.]*/{_MODEL}"))
    if not files:
        raise UserError(
            f"{run}: no {_CHECKPOINTS}/*/{_MODEL}; let the training write one, or use --weights"
        )
    return max(files, key=lambda file: _rank(file.parent.name))


def newest_run(runs: Path = RUNS) -> Path:
    """Return the run in a folder of runs whose weights were written last.

    Raises:
        UserError: if no run has weights.
    """
    files = list(runs.glob(f"*/{_CHECKPOINTS}/[!.]*/{_MODEL}"))
    if not files:
        raise UserError(
            f"{runs}: no run with weights there; train one with lorat-train, or name one with "
            "--run or --weights"
        )
    newest = max(files, key=lambda file: (file.stat().st_mtime_ns, str(file)))
    return newest.parent.parent.parent


def default_out(weights: Path) -> Path:
    """Return where the results of a weights file go: ``<run>/eval/<checkpoint>``.

    A file outside a run folder gets ``eval/<name of the file>`` beside it.
    """
    checkpoint = weights.parent
    if checkpoint.parent.name == _CHECKPOINTS:
        return checkpoint.parent.parent / "eval" / checkpoint.name
    return weights.parent / "eval" / weights.stem


def _rank(name: str) -> tuple[bool, int, str]:
    number = re.search(r"(\d+)$", name)
    return name.startswith("epoch_"), int(number[1]) if number else -1, name
