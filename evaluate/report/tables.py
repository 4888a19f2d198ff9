"""Scores for people: a table, two plots, and the same numbers as JSON.

Every report sets the tracker beside one that never moves its first box, which is what the numbers
of a data set are worth without tracking. Tables and plots are in per cent; JSON holds fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from lorat.evaluate.measure.attributes import AttributeScores
from lorat.evaluate.measure.ope import CENTRE_THRESHOLDS, OVERLAP_THRESHOLDS
from lorat.evaluate.measure.scores import DatasetScores, SequenceScores
from lorat.shards.base.storage import atomic_file

__all__ = [
    "STILL",
    "Scored",
    "metrics_document",
    "plot_precision",
    "plot_success",
    "score_table",
    "sequence_table",
    "summary",
]

STILL = "never moving"
"""What reports call the tracker that repeats its first box."""

_CORRECTED = "Pnorm*"
_PRECISION_AT = 20.0  # pixels at which precision is read off
_COLOURS = ("#0072b2", "#8a8a8a")  # of the tracker and the never-moving one
_DASHES = ("-", (0, (4, 2)))
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7.5,
}


@dataclass(frozen=True, eq=False, slots=True)
class Scored:
    """The scores of one test set."""

    name: str
    """``<dataset>-<split>``."""
    tracker: DatasetScores
    still: DatasetScores


def score_table(scored: Sequence[Scored], label: str) -> Table:
    """Lay out a row a test set and tracker: OPE scores, GOT-10k's own measures, frames a second.

    Args:
        scored: the test sets in the order of the rows, at least one.
        label: what the tracker is called.
    """
    columns = _score_columns(scored)
    table = Table(
        title="Scores in per cent",
        title_justify="left",
        title_style="bold",
        box=box.HORIZONTALS,
        padding=(0, 0),
        caption="Pnorm*: absent frames count as misses" if _CORRECTED in columns else None,
        caption_justify="left",
    )
    for heading in ("test set", "tracker"):
        table.add_column(heading, no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for item in scored:
        rows = ((label, item.tracker, "bold"), (STILL, item.still, "dim"))
        for index, (who, scores, style) in enumerate(rows):
            cells = [read(scores) for read in columns.values()]
            name = f"{item.name} ({len(item.tracker.sequences)})" if index == 0 else ""
            table.add_row(name, who, *cells, style=style, end_section=index == 1)
    return table


def sequence_table(item: Scored) -> Table:
    """Lay out a row a sequence of one test set: AUC and precision beside never moving."""
    table = Table(
        title=item.name,
        title_justify="left",
        title_style="bold",
        box=box.HORIZONTALS,
        padding=(0, 1, 0, 0),
    )
    table.add_column("sequence", no_wrap=True)
    headings = ("frames", "AUC", STILL, "P", "Pnorm", "fps")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for ours, still in zip(item.tracker.sequences, item.still.sequences, strict=True):
        table.add_row(
            ours.name,
            str(ours.frames),
            _percent(ours.auc),
            _percent(still.auc),
            _percent(ours.precision),
            _percent(ours.norm_precision),
            _rate(ours.fps),
        )
    return table


def plot_success(scored: Sequence[Scored], label: str, path: Path) -> None:
    """Draw the success curve of every test set, a panel each, as a PNG.

    Args:
        scored: the test sets, at least one.
        label: what the legend calls the tracker.
        path: where to write.
    """

    def panel(axes: Axes, item: Scored) -> None:
        _curves(
            axes,
            OVERLAP_THRESHOLDS,
            [item.tracker.success_curve, item.still.success_curve],
            [f"{label} [{_percent(item.tracker.auc)}]", f"{STILL} [{_percent(item.still.auc)}]"],
        )
        axes.set(xlim=(0, 1), xticks=np.linspace(0, 1, 6))
        axes.legend(title="AUC in brackets", **_legend())

    _figure(scored, panel, ("Overlap threshold", "Success (%)"), path)


def plot_precision(scored: Sequence[Scored], label: str, path: Path) -> None:
    """Draw the precision curve of every test set, a panel each, as a PNG; see `plot_success`."""

    def panel(axes: Axes, item: Scored) -> None:
        values = (item.tracker.precision, item.still.precision)
        _curves(
            axes,
            CENTRE_THRESHOLDS,
            [item.tracker.precision_curve, item.still.precision_curve],
            [f"{who} [{_percent(v)}]" for who, v in zip((label, STILL), values, strict=True)],
        )
        axes.axvline(_PRECISION_AT, color="#444444", linewidth=0.6, linestyle=":")
        axes.set(xlim=(0, 50), xticks=np.linspace(0, 50, 6))
        axes.legend(title="at 20 px in brackets", **_legend())

    _figure(scored, panel, ("Centre error threshold (px)", "Precision (%)"), path)


def metrics_document(scored: Sequence[Scored], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return every score as plain values for JSON: fractions of 1, None where there is none.

    Args:
        scored: the test sets.
        about: what was evaluated and how; stands at the top as it is.
    """
    sets = {
        item.name: {
            "tracker": _scores(item.tracker),
            "never_moving": _scores(item.still),
            "sequences": {
                ours.name: {
                    "tracker": _sequence(ours),
                    "never_moving": _sequence(still),
                }
                for ours, still in zip(item.tracker.sequences, item.still.sequences, strict=True)
            },
        }
        for item in scored
    }
    return {"version": 1, **about, "datasets": sets}


def summary(scored: Sequence[Scored]) -> dict[str, float]:
    """Return the tracker's scores by ``<test set>/<measure>``, fractions of 1.

    GOT-10k's own measures are ``ao``, ``sr50`` and ``sr75``.
    """
    values: dict[str, float] = {}
    for item in scored:
        tracker = item.tracker
        own = tracker.got10k
        numbers = {
            "auc": tracker.auc,
            "precision": tracker.precision,
            "norm_precision": tracker.norm_precision,
            **({"ao": own.ao, "sr50": own.sr50, "sr75": own.sr75} if own else {}),
        }
        known = {name: value for name, value in _plain(numbers).items() if value is not None}
        values |= {f"{item.name}/{name}": value for name, value in known.items()}
    return values


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _rate(fps: float | None) -> str:
    return "-" if fps is None else f"{fps:.0f}" if fps >= 10 else f"{fps:.1f}"


def _score_columns(scored: Sequence[Scored]) -> dict[str, Callable[[DatasetScores], str]]:
    """Return heading → how its cell is read; columns that no test set fills are left out."""
    columns: dict[str, Callable[[DatasetScores], str]] = {
        "AUC": lambda s: _percent(s.auc),
        "P": lambda s: _percent(s.precision),
        "Pnorm": lambda s: _percent(s.norm_precision),
    }
    if any(item.tracker.norm_precision_corrected is not None for item in scored):
        columns[_CORRECTED] = lambda s: _percent(s.norm_precision_corrected)
    if any(item.tracker.got10k is not None for item in scored):
        columns["AO"] = lambda s: _percent(s.got10k.ao if s.got10k else None)
        columns["SR0.5"] = lambda s: _percent(s.got10k.sr50 if s.got10k else None)
        columns["SR0.75"] = lambda s: _percent(s.got10k.sr75 if s.got10k else None)
    columns["fps"] = lambda s: _rate(s.fps)
    return columns


def _figure(
    scored: Sequence[Scored],
    panel: Callable[[Axes, Scored], None],
    labels: tuple[str, str],
    path: Path,
) -> None:
    columns = min(3, len(scored))
    rows = math.ceil(len(scored) / columns)
    with rc_context(_STYLE):
        figure = Figure(figsize=(3.3 * columns, 2.6 * rows), dpi=220, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, item in zip(grid.flat, scored, strict=False):
            panel(axes, item)
            axes.set(xlabel=labels[0], ylabel=labels[1], ylim=(0, 100))
            axes.set_title(f"{item.name} ({len(item.tracker.sequences)} sequences)")
        for axes in grid.flat[len(scored) :]:
            axes.set_visible(False)
        with atomic_file(path) as file:
            figure.savefig(file, format="png")


def _curves(
    axes: Axes,
    thresholds: NDArray[np.float64],
    curves: Sequence[NDArray[np.float64]],
    labels: Sequence[str],
) -> None:
    for curve, text, colour, dashes in zip(curves, labels, _COLOURS, _DASHES, strict=True):
        # Not clipped: a curve along 100 would lose half its width.
        (line,) = axes.plot(thresholds, 100 * curve, label=text, clip_on=False, zorder=3)
        line.set(color=colour, linestyle=dashes, linewidth=1.5)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend() -> dict[str, Any]:
    return {
        "loc": "best",
        "frameon": True,
        "framealpha": 0.9,
        "edgecolor": "none",
        "title_fontsize": 7,
        "alignment": "left",
        "handlelength": 2.2,
    }


def _scores(scores: DatasetScores) -> dict[str, Any]:
    values: dict[str, Any] = {
        "convention": scores.convention,
        "runs": scores.runs,
        "auc": scores.auc,
        "op50": scores.op50,
        "op75": scores.op75,
        "precision": scores.precision,
        "norm_precision": scores.norm_precision,
        "norm_precision_corrected": scores.norm_precision_corrected,
        "fps": scores.fps,
    }
    if scores.got10k is not None:
        got10k = scores.got10k
        values["got10k"] = {
            "ao": got10k.ao,
            "sr50": got10k.sr50,
            "sr75": got10k.sr75,
            "frames": got10k.frames,
            "speed": got10k.speed,
        }
    if scores.trackingnet is not None:
        trackingnet = scores.trackingnet
        values["trackingnet"] = {
            "success": trackingnet.success,
            "precision": trackingnet.precision,
            "norm_precision": trackingnet.norm_precision,
        }
    values["attributes"] = {item.code: _attribute(item) for item in scores.attributes}
    values["success_curve"] = scores.success_curve.tolist()
    values["precision_curve"] = scores.precision_curve.tolist()
    values["norm_precision_curve"] = scores.norm_precision_curve.tolist()
    return _plain(values)


def _attribute(scores: AttributeScores) -> dict[str, Any]:
    return {
        "title": scores.title,
        "sequences": scores.sequences,
        "auc": scores.auc,
        "precision": scores.precision,
        "norm_precision": scores.norm_precision,
        "success_curve": scores.success_curve.tolist(),
    }


def _sequence(scores: SequenceScores) -> dict[str, Any]:
    return _plain(
        {
            "frames": scores.frames,
            "invalid_frames": scores.invalid_frames,
            "auc": scores.auc,
            "op50": scores.op50,
            "op75": scores.op75,
            "precision": scores.precision,
            "norm_precision": scores.norm_precision,
            "fps": scores.fps,
        }
    )


def _plain(value: Any) -> Any:
    """Turn numpy's numbers into Python's, and NaN, which JSON lacks, into None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
