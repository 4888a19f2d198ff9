"""Plots of the report page: curves and timelines as SVG that takes its colours from the page.

Everything is a pure function of numbers; colours are names of the page's style (``--c0`` is ours),
so the pictures follow light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Axis", "Curve", "curve_plot", "timeline"]

_WIDTH, _HEIGHT = 380, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 10, 36


@dataclass(frozen=True, eq=False, slots=True)
class Curve:
    """One line of a plot."""

    label: str
    colour: int
    """Which of the page's colours; -1 is the grey one, drawn dashed."""
    values: NDArray[np.float64]
    """(T,) fractions of 1 over the axis' places."""


@dataclass(frozen=True, eq=False, slots=True)
class Axis:
    """The horizontal axis."""

    title: str
    places: NDArray[np.float64]
    """(T,) thresholds, from the left to the right edge."""
    ticks: Sequence[float]
    read_at: float | None = None
    """Where the score is read off; a line stands there."""


def curve_plot(curves: Sequence[Curve], axis: Axis, title: str) -> str:
    """Return a plot of curves in per cent over thresholds.

    Args:
        curves: ours last, so that it lies on top.
        axis: what they are over.
        title: what a reader without eyes is told.
    """
    first, last = float(axis.places[0]), float(axis.places[-1])

    def x(value: float) -> float:
        return _LEFT + (value - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def y(share: float) -> float:
        return _TOP + (1.0 - share) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">'
    ]
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        at = y(share)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text class="tick end" x="{_LEFT - 6}" y="{at + 3.5:.1f}">{share:.0%}</text>'
        )
    for tick in axis.ticks:
        at = x(tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick mid" x="{at:.1f}" y="{bottom + 14}">{tick:g}</text>')
    if axis.read_at is not None:
        at = x(axis.read_at)
        parts.append(f'<line class="at" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>')
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text class="axis mid" x="{middle:.1f}" y="{_HEIGHT - 4}">{escape(axis.title)}</text>'
    )
    for curve in curves:
        points = " ".join(
            f"{x(float(place)):.1f},{y(float(value)):.1f}"
            for place, value in zip(axis.places, curve.values, strict=True)
        )
        parts.append(
            f'<polyline class="curve {_colour(curve.colour)}" points="{points}">'
            f"<title>{escape(curve.label)}</title></polyline>"
        )
    return "".join([*parts, "</svg>"])


def timeline(overlap: NDArray[np.float64], frames: int, marks: Sequence[int]) -> str:
    """Return the overlap over a sequence as a small plot.

    Args:
        overlap: (P,) fractions of 1 evenly over the sequence; NaN where the object is absent, which
            is shaded.
        frames: of the sequence.
        marks: frames, from 1, that have a tick.
    """
    width, height = 600, 56
    count = len(overlap)

    def x(place: float) -> float:
        return place / max(count - 1, 1) * width

    parts = [
        f'<svg class="timeline" viewBox="0 0 {width} {height}" preserveAspectRatio="none" '
        f'role="img" aria-label="overlap over {frames} frames">'
    ]
    absent = ~np.isfinite(overlap)
    for start, end in _spans(absent):
        left, right = x(max(start - 0.5, 0)), x(min(end - 0.5, count - 1))
        parts.append(
            f'<rect class="absent" x="{left:.1f}" width="{max(right - left, 1):.1f}" y="0" '
            f'height="{height}"/>'
        )
    parts.append(f'<line class="grid" x1="0" x2="{width}" y1="{height / 2}" y2="{height / 2}"/>')
    for start, end in _spans(~absent):
        points = " ".join(
            f"{x(place):.1f},{(1 - overlap[place]) * (height - 4) + 2:.1f}"
            for place in range(start, end)
        )
        parts.append(f'<polyline class="curve c0" points="{points}"/>')
    for mark in marks:
        at = (mark - 1) / max(frames - 1, 1) * width
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height}"/>')
    return "".join([*parts, "</svg>"])


def _colour(number: int) -> str:
    return "still" if number < 0 else f"c{number}"


def _spans(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return (start, end) of each run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return [(int(a), int(b)) for a, b in list(pairwise(edges))[::2]]
