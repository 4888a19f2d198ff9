"""Plots of scores: curves as PNG files and as SVG that takes its colours from the report page.

Both are drawn by the same function; the same scores give the same bytes.
"""

import io
import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from lorat.evaluate.measure.ope import CENTRE_THRESHOLDS, NORM_THRESHOLDS, OVERLAP_THRESHOLDS
from lorat.evaluate.measure.scores import Entry
from lorat.evaluate.report.tables import COLUMNS, Column
from lorat.shards.base.storage import atomic_file

_STYLE = Path(__file__).with_name("data") / "plots.mplstyle"
# In SVG each becomes the page's variable of that name, which has a dark value too.
_COLOURS = {
    **{"c0": "#0072b2", "c1": "#d55e00", "c2": "#009e73", "c3": "#b5589b", "c4": "#b8860b", "c5": "#3a9fd6"},
    **{"still": "#8d949b", "soft": "#626a73", "line": "#e3e6e9"},
}


class CurveKind(NamedTuple):
    """One of the curves of scores."""

    name: str  # in `Curves`
    title: str
    said: str  # what the score is that is read off it
    axis: str
    thresholds: NDArray[np.float64]

    @property
    def column(self) -> Column:
        """The score that is read off it."""
        return COLUMNS["auc" if self.name == "success" else self.name]


_PIXELS, _SIDES = "centre error, pixels", "centre error, object sides"
KINDS = (
    CurveKind("success", "Success", "AUC", "overlap threshold", OVERLAP_THRESHOLDS),
    CurveKind("precision", "Precision", "at 20 px", _PIXELS, CENTRE_THRESHOLDS),
    CurveKind("norm_precision", "Normalised precision", "at 0.20", _SIDES, NORM_THRESHOLDS),
)


def coloured(entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """Pair trackers with names among the page's colours: ``c0`` ours, ``still`` never moving's."""
    colours = ["c0", *(f"c{1 + number % 5}" for number in range(len(entries) - 2)), "still"]
    return list(zip(entries, colours, strict=True))


def plot_curves(scored: Sequence[Sequence[Entry]], kind: CurveKind, folder: Path) -> Path:
    """Draw a curve of every test set, at least one, a panel each, and return the PNG file."""
    path, columns = folder / f"{kind.name}.png", min(3, len(scored))
    rows = math.ceil(len(scored) / columns)
    with style.context(_STYLE):
        figure = Figure(figsize=(3.3 * columns, 2.6 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, entries in zip(grid.flat, scored, strict=False):
            _draw(axes, entries, kind)
            ours = entries[0].scores
            axes.set(title=f"{ours.name} ({len(ours.sequences)} sequences)", ylabel=kind.title)
            said = [f"{e.label} [{kind.column.text(e.scores)}]" for e in entries]
            axes.legend(axes.get_lines()[1::-1], said, title=f"{kind.said} in brackets", alignment="left")
        for axes in grid.flat[len(scored) :]:
            axes.set_visible(False)
        with atomic_file(path) as file:
            figure.savefig(file, format="png")
    return path


def curves_svg(entries: Sequence[Entry], kind: CurveKind) -> str:
    """Return a curve of several trackers on one test set, ours first, as markup for the page."""
    with style.context(_STYLE):
        figure = Figure(figsize=(3.8, 2.5))
        _draw(figure.add_axes((0.105, 0.145, 0.87, 0.82)), entries, kind)
        file = io.StringIO()
        nameless = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nameless)
    # The first <defs> is a style that would be the whole page's.
    svg = file.getvalue().partition("</defs>")[2]
    for variable, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    for number, entry in enumerate(entries):
        svg = svg.replace(f'<g id="curve-{number}">', f"<g><title>{escape(entry.label)}</title>")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    width, height = figure.get_size_inches() * 72
    return f'<svg class="plot" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{kind.title} curves">{svg}'


def _draw(axes: Axes, entries: Sequence[Entry], kind: CurveKind) -> None:
    """Draw curves in per cent over thresholds, the first entry's on top of all."""
    for number, (entry, colour) in reversed(list(enumerate(coloured(entries)))):
        line: Any = ((0, (4, 2)), 1.2) if colour == "still" else ("-", 1.6)
        look = {"color": _COLOURS[colour], "linestyle": line[0], "linewidth": line[1], "gid": f"curve-{number}"}
        # Not clipped: a curve along 100 would lose half its width.
        axes.plot(kind.thresholds, 100 * getattr(entry.scores.curves, kind.name), clip_on=False, zorder=3, **look)
    if kind.name != "success":  # both precision scores are read off there
        axes.axvline(kind.thresholds[20], color=_COLOURS["soft"], linewidth=0.6, linestyle=":")
    last = kind.thresholds[-1]
    axes.set(xlabel=kind.axis, xlim=(0, last), xticks=np.linspace(0, last, 6), ylim=(0, 100))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter(PercentFormatter())
