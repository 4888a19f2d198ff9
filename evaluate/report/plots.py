"""Plots of scores: curves as PNG files and as SVG that takes its colours from the report page.

Both are drawn by the same function; the same scores give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import MappingProxyType

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from lorat.evaluate.measure.ope import CENTRE_THRESHOLDS, NORM_THRESHOLDS, OVERLAP_THRESHOLDS
from lorat.evaluate.measure.scores import DatasetScores, Scored
from lorat.evaluate.report.columns import COLUMNS, NEVER_MOVING
from lorat.shards.base.storage import atomic_file

COLOURS = 6  # of trackers, then they repeat
# In SVG each colour becomes the page's variable of that name, which has a dark value too.
_VARIABLES = {
    "c0": "#0072b2",
    "c1": "#d55e00",
    "c2": "#009e73",
    "c3": "#b5589b",
    "c4": "#b8860b",
    "c5": "#3a9fd6",
    "still": "#8d949b",
    "soft": "#626a73",
    "line": "#e3e6e9",
}
_STYLE = {
    "font.size": 8,
    "font.sans-serif": ["DejaVu Sans"],
    "axes.titlesize": 9,
    "axes.linewidth": 0.6,
    "axes.edgecolor": _VARIABLES["soft"],
    "axes.labelcolor": _VARIABLES["soft"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _VARIABLES["line"],
    "grid.linewidth": 0.6,
    "xtick.color": _VARIABLES["soft"],
    "ytick.color": _VARIABLES["soft"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.9,
    "svg.fonttype": "none",
    "svg.hashsalt": "lorat",
}


@dataclass(frozen=True, eq=False, slots=True)
class CurveKind:
    """One of the curves of scores."""

    title: str
    said: str
    """What its score is."""
    axis: str
    thresholds: NDArray[np.float64]
    score: str
    """The score that is read off it, of `COLUMNS`."""
    read_at: float | None = None
    """The threshold at which it is."""


KINDS: Mapping[str, CurveKind] = MappingProxyType(
    {
        "success": CurveKind("Success", "AUC", "overlap threshold", OVERLAP_THRESHOLDS, "auc"),
        "precision": CurveKind(
            "Precision", "at 20 px", "centre error, pixels", CENTRE_THRESHOLDS, "precision", 20.0
        ),
        "norm_precision": CurveKind(
            "Normalised precision",
            "at 0.20",
            "centre error, object sides",
            NORM_THRESHOLDS,
            "norm_precision",
            0.2,
        ),
    }
)
"""By their names in `Curves`."""


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """One tracker of a plot or table."""

    label: str
    scores: DatasetScores
    colour: str
    """A name among the page's colours: ``c0`` is ours, ``still`` never moving's."""


def plot_curves(scored: Sequence[Scored], label: str, name: str, path: Path) -> None:
    """Draw a curve of every test set, a panel each, as a PNG.

    Args:
        scored: the test sets, at least one.
        label: what the legend calls the tracker.
        name: of `KINDS`.
        path: where to write.
    """
    kind = KINDS[name]
    columns = min(3, len(scored))
    rows = math.ceil(len(scored) / columns)
    with rc_context(_STYLE):
        figure = Figure(figsize=(3.3 * columns, 2.6 * rows), dpi=220, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, item in zip(grid.flat, scored, strict=False):
            entries = [
                Entry(label, item.tracker, "c0"),
                Entry(NEVER_MOVING, item.still, "still"),
            ]
            _draw(axes, entries, name)
            axes.set_title(f"{item.name} ({len(item.tracker.sequences)} sequences)")
            axes.set_ylabel(kind.title)
            lines = axes.get_lines()[: len(entries)][::-1]
            said = [f"{e.label} [{COLUMNS[kind.score].text(e.scores)}]" for e in entries]
            axes.legend(lines, said, title=f"{kind.said} in brackets", alignment="left")
        for axes in grid.flat[len(scored) :]:
            axes.set_visible(False)
        with atomic_file(path) as file:
            figure.savefig(file, format="png")


def curves_svg(entries: Sequence[Entry], name: str) -> str:
    """Return a curve of several trackers on one test set, ours first, as markup for the page."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(3.8, 2.5))
        _draw(figure.add_axes((0.105, 0.145, 0.87, 0.82)), entries, name)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    # The first <defs> is a style that would be the whole page's.
    svg = svg[svg.index("</defs>") + len("</defs>") :]
    for variable, colour in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    for number, entry in enumerate(entries):
        titled = f"<g><title>{escape(entry.label)}</title>"
        svg = svg.replace(f'<g id="curve-{number}">', titled)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    width, height = figure.get_size_inches() * 72
    head = f'<svg class="plot" viewBox="0 0 {width:g} {height:g}" role="img"'
    return f'{head} aria-label="{KINDS[name].title} curves">{svg}'


def timeline_svg(overlap: NDArray[np.float64], frames: int, marks: Sequence[int]) -> str:
    """Return the overlap over a sequence as a small plot, as markup for the page.

    Args:
        overlap: (P,) fractions of 1 evenly over the sequence; NaN where the object is absent, which
            is shaded.
        frames: of the sequence.
        marks: frames, from 1, that have a tick.
    """
    width, height = 600, 56
    x, present = np.linspace(0, width, len(overlap)), np.isfinite(overlap)
    step = width / max(len(overlap) - 1, 1)
    goes_on = np.concatenate([[False], present[:-1]])
    line = "".join(
        f"{'L' if goes_on[i] else 'M'}{x[i]:.1f},{(1 - overlap[i]) * (height - 4) + 2:.1f}"
        for i in np.flatnonzero(present)
    )
    shade = "".join(
        f"M{at - step / 2:.1f},0h{step:.1f}v{height}h-{step:.1f}z" for at in x[~present]
    )
    places = [(mark - 1) / max(frames - 1, 1) * width for mark in marks]
    ticks = "".join(f"M{at:.1f},0v{height}" for at in places)
    paths = {
        "absent": shade,
        "grid": f"M0,{height // 2}h{width}",
        "curve": line,
        "mark": ticks,
    }
    return (
        f'<svg class="timeline" viewBox="0 0 {width} {height}" preserveAspectRatio="none" '
        f'role="img" aria-label="overlap over {frames} frames">'
        + "".join(f'<path class="{kind}" d="{path}"/>' for kind, path in paths.items())
        + "</svg>"
    )


def _draw(axes: Axes, entries: Sequence[Entry], name: str) -> None:
    """Draw curves in per cent over thresholds, the first entry's on top of all."""
    kind = KINDS[name]
    for number, entry in reversed(list(enumerate(entries))):
        still = entry.colour == "still"
        # Not clipped: a curve along 100 would lose half its width.
        axes.plot(
            kind.thresholds,
            100 * getattr(entry.scores.curves, name),
            color=_VARIABLES[entry.colour],
            linestyle=(0, (4, 2)) if still else "-",
            linewidth=1.2 if still else 1.6,
            clip_on=False,
            zorder=3,
            gid=f"curve-{number}",
        )
    if kind.read_at is not None:
        axes.axvline(kind.read_at, color=_VARIABLES["soft"], linewidth=0.6, linestyle=":")
    last = kind.thresholds[-1]
    axes.set(xlabel=kind.axis, xlim=(0, last), xticks=np.linspace(0, last, 6), ylim=(0, 100))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter(PercentFormatter())
