"""Plots of scores: curves as PNG and PDF files, and as SVG that takes its colours from the report page. All are drawn
by the same function; the same scores give the same bytes.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from lorat.evaluate.measure.attributes import TITLES
from lorat.evaluate.measure.ope import CENTRE_THRESHOLDS, NORM_THRESHOLDS, OVERLAP_THRESHOLDS
from lorat.evaluate.measure.scores import DatasetScores, Entry
from lorat.evaluate.report.tables import COLUMNS, Column, Scores
from lorat.shards.base.errors import counted
from lorat.shards.base.storage import atomic_file

_STYLE = Path(__file__).with_name("data") / "plots.mplstyle"
# In SVG each becomes the page's variable of that name, which has a dark value too.
_COLOURS = {
    **{"c0": "#0072b2", "c1": "#d55e00", "c2": "#009e73", "c3": "#b5589b", "c4": "#b8860b", "c5": "#3a9fd6"},
    **{"still": "#8d949b", "soft": "#626a73", "line": "#e3e6e9"},
}
_MOST_WITHIN = 3  # curves whose legend leaves them room; that of more stands below them
_SHORT = 13  # letters of labels that stand side by side below them
_DASHES: Mapping[str, Any] = {"": "-", "dashed": (0, (5, 1.5)), "dotted": (0, (1.5, 1))}


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


class Line(NamedTuple):
    """A tracker's curve."""

    label: str
    colour: str  # among the page's: ``c0`` the first, ``still`` never moving; from the 7th on with ``dashed`` after it
    scores: Scores


class Panel(NamedTuple):
    """Curves in one pair of axes."""

    title: str
    lines: Sequence[Line]  # the first on top of all


def coloured(scored: Sequence[Sequence[Entry]]) -> list[list[Line]]:
    """Return the lines of each test set, of which the last never moves: a tracker has one colour in all of them."""
    styles = ("", " dashed", " dotted")
    labels = dict.fromkeys(entry.label for entries in scored for entry in entries[:-1])
    others = (f"c{1 + number % 5}{styles[number // 5 % 3]}" for number in range(len(labels)))
    colours = dict(zip(labels, ("c0", *others), strict=False))
    return [
        [*(Line(e.label, colours[e.label], e.scores) for e in entries), Line(still.label, "still", still.scores)]
        for *entries, still in scored
    ]


def set_panel(lines: Sequence[Line]) -> Panel:
    """Return the curves of a test set."""
    first = cast("DatasetScores", lines[0].scores)
    return Panel(f"{first.name} ({counted(len(first.sequences), 'sequence')})", lines)


def attribute_panels(every: Sequence[Line]) -> list[Panel]:
    """Return the curves of each attribute that sequences of a test set have, without never moving."""
    titles, lines = dict[str, str](), dict[str, list[Line]]()
    for line in every[:-1]:
        for each in cast("DatasetScores", line.scores).attributes:
            titles.setdefault(each.code, f"{each.title} ({each.sequences})")
            lines.setdefault(each.code, []).append(line._replace(scores=each))
    return [Panel(titles[code], lines[code]) for code in TITLES if code in lines]


def ranked(lines: Sequence[Line], kind: CurveKind) -> list[Line]:
    """Return the best of a kind of curve first, never moving last."""
    return sorted(lines, key=lambda line: (line.colour == "still", -(kind.column.shown(line.scores) or 0.0)))


def plot_curves(panels: Sequence[Panel], kind: CurveKind, path: Path) -> Path:
    """Draw panels, at least one, in rows; return the file, a PNG or PDF by its ending. Legends name the best first."""
    panels = [p._replace(lines=[e for e in p.lines if kind.column.shown(e.scores) is not None]) for p in panels]
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style.context(_STYLE):
        crowded = max(len(panel.lines) for panel in panels) > _MOST_WITHIN
        short = all(len(line.label) <= _SHORT for panel in panels for line in panel.lines)
        beside = 2 if short else 1
        below = 0.15 * (2 + math.ceil(max(len(panel.lines) for panel in panels) / beside)) if crowded else 0.0
        # 3.3 inches are a column of a paper.
        figure = Figure(figsize=(3.3 * columns, (2.6 + below) * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, (title, lines) in zip(grid.flat, panels, strict=False):
            drawn = _draw(axes, lines, kind)
            axes.set(title=title, ylabel=kind.title)
            order = ranked(lines, kind)
            said = [f"{line.label} [{kind.column.text(line.scores)}]" for line in order]
            handles = [drawn[lines.index(line)] for line in order]
            place: Any = {"loc": "upper left", "bbox_to_anchor": (-0.2, -0.17), "ncols": beside} if crowded else {}
            axes.legend(handles, said, title=f"{kind.said} in brackets", alignment="left", **place)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        with atomic_file(path) as file:
            timeless = {"CreationDate": None} if path.suffix == ".pdf" else {}
            figure.savefig(file, format=path.suffix[1:], metadata=timeless)
    return path


def curves_svg(lines: Sequence[Line], kind: CurveKind) -> str:
    """Return a curve of several trackers as markup for the page."""
    with style.context(_STYLE):
        figure = Figure(figsize=(3.8, 2.5))
        _draw(figure.add_axes((0.105, 0.145, 0.87, 0.82)), lines, kind)
        file = io.StringIO()
        nameless = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nameless)
    # The first <defs> is a style that would be the whole page's.
    svg = file.getvalue().partition("</defs>")[2]
    for variable, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    for number, line in enumerate(lines):
        svg = svg.replace(f'<g id="curve-{number}">', f"<g><title>{escape(line.label)}</title>")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    width, height = figure.get_size_inches() * 72
    return f'<svg class="plot" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{kind.title} curves">{svg}'


def _draw(axes: Axes, lines: Sequence[Line], kind: CurveKind) -> list[Line2D]:
    """Draw curves in per cent over thresholds, the first one on top of all; return them in the order of `lines`."""
    drawn = []
    for number, line in reversed(list(enumerate(lines))):
        colour, _, dash = line.colour.partition(" ")
        dashes, width = ((0, (4, 2)), 1.2) if colour == "still" else (_DASHES[dash], 1.6)
        curve = 100 * getattr(line.scores.curves, kind.name)
        # Not clipped: a curve along 100 would lose half its width.
        look: Any = {"color": _COLOURS[colour], "gid": f"curve-{number}", "clip_on": False, "zorder": 3}
        drawn += axes.plot(kind.thresholds, curve, linestyle=dashes, linewidth=width, **look)
    if kind.name != "success":  # both precision scores are read off there
        axes.axvline(kind.thresholds[20], color=_COLOURS["soft"], linewidth=0.6, linestyle=":")
    last = kind.thresholds[-1]
    axes.set(xlabel=kind.axis, xlim=(0, last), xticks=np.linspace(0, last, 6), ylim=(0, 100))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter(PercentFormatter())
    return drawn[::-1]
