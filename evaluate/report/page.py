"""The report of an evaluation as one page that opens from disk.

Promise: the page is one file that fetches nothing, whatever the names in it are; it can be read
without JavaScript, which only sorts and filters. The same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path

from lorat.evaluate.measure.scores import DatasetScores
from lorat.evaluate.report.sets import render_set
from lorat.evaluate.report.strips import Strip
from lorat.evaluate.report.tables import Scored
from lorat.shards.base.storage import atomic_file

__all__ = ["PageInput", "Rival", "render_page", "write_page"]

# Nothing is loaded from anywhere, not even by a name that got through as markup.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Rival:
    """Another tracker's scores."""

    label: str
    sets: Mapping[str, DatasetScores]
    """``<dataset>-<split>`` → scores."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class PageInput:
    """All that the page shows."""

    label: str
    """What the tracker is called."""
    variant: str
    """Its variant, to find its published numbers."""
    about: Mapping[str, str]
    """What was evaluated and how, in the order of the page's head."""
    scored: Sequence[Scored]
    strips: Mapping[str, Sequence[Strip]] = field(default_factory=dict)
    """Test set → its worst sequences."""
    rivals: Sequence[Rival] = ()
    remarks: Sequence[str] = ()


def render_page(page: PageInput) -> str:
    """Return the page's HTML."""
    title = f"{page.label}: evaluation"
    rivals = [(rival.label, rival.sets) for rival in page.rivals]
    sections = [
        render_set(
            item,
            page.label,
            page.variant,
            [(label, sets[item.name]) for label, sets in rivals if item.name in sets],
            page.strips.get(item.name, ()),
        )
        for item in page.scored
    ]
    links = "".join(
        f'<a href="#{escape(item.name)}">{escape(item.name)}</a>' for item in page.scored
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_static('page.css')}</style>",
            "</head>",
            "<body>",
            "<header>",
            f"<h1>{escape(page.label)}</h1>",
            _facts(page.about),
            f"<nav>{links}</nav>" if len(page.scored) > 1 else "",
            "</header>",
            "<main>",
            _remarks(page.remarks),
            *sections,
            "" if sections else "<p>No test set with ground truth was scored.</p>",
            "</main>",
            f"<script>\n{_static('page.js')}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def write_page(path: Path, page: PageInput) -> None:
    """Write the page, in place of an older one.

    Raises:
        UserError: if the disk refuses.
    """
    with atomic_file(path) as file:
        file.write(render_page(page).encode("utf-8"))


def _static(name: str) -> str:
    return (resources.files("lorat.evaluate.report") / "data" / name).read_text("utf-8")


def _facts(about: Mapping[str, str]) -> str:
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in about.items()
    )
    return f'<dl class="facts">{rows}</dl>'


def _remarks(remarks: Sequence[str]) -> str:
    if not remarks:
        return ""
    items = "".join(f"<li>{escape(remark)}</li>" for remark in remarks)
    return f'<ul class="remarks">{items}</ul>'
