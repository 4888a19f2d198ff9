"""The report of an evaluation as one page that opens from disk.

Promise: the page is one file that fetches nothing, whatever the names in it are; it can be read
without JavaScript, which only sorts and filters. The same input gives the same bytes.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined

from lorat.evaluate.measure.scores import DatasetScores, Scored, SequenceScores
from lorat.evaluate.report.columns import COLUMNS, NEVER_MOVING, OF_ATTRIBUTES, filled
from lorat.evaluate.report.plots import (
    COLOURS,
    KINDS,
    CurveKind,
    Entry,
    curves_svg,
    timeline_svg,
)
from lorat.evaluate.report.published import PublishedNumber, PublishedRow, published_rows
from lorat.evaluate.report.strips import Strip
from lorat.prep.trees.base.official import expected_sequences
from lorat.shards.base.storage import atomic_file


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


_NOTES = {
    "norm_precision_corrected": "Pnorm*: frames without the object count as misses, not as hits.",
    "speed": "speed: the GOT-10k toolkit's mean of 1/t; fps: frames over seconds.",
    "success_area": "area: under the curve, as TrackingNet's server gives it.",
}


class _Row(NamedTuple):
    """A sequence in the page's table; AUCs are in per cent."""

    scores: SequenceScores
    rivals: list[float | None]
    gap: float | None
    """Our AUC less the best other's."""
    still: float


def render_page(page: PageInput) -> str:
    """Return the page's HTML."""
    environment = Environment(
        loader=FunctionLoader(_static),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        page=page,
        sections=[_Section(item, page) for item in page.scored],
        columns=COLUMNS,
        of_attributes=OF_ATTRIBUTES,
        base64=lambda data: b64encode(data).decode("ascii"),
        timeline=timeline_svg,
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


class _Section:
    """What the template shows of one test set."""

    def __init__(self, item: Scored, page: PageInput) -> None:
        others = [rival for rival in page.rivals if item.name in rival.sets]
        self.name = item.name
        self.ours = Entry(page.label, item.tracker, "c0")
        self.rivals = [
            Entry(rival.label, rival.sets[item.name], f"c{1 + number % (COLOURS - 1)}")
            for number, rival in enumerate(others)
        ]
        self.entries = [self.ours, *self.rivals, Entry(NEVER_MOVING, item.still, "still")]
        self.most = max(len(entry.scores.sequences) for entry in self.entries)
        self.columns = filled([*COLUMNS], [entry.scores for entry in self.entries])
        self.corrected = item.tracker.norm_precision_corrected is not None
        self.strips = page.strips.get(item.name, ())

    def published(self) -> Iterator[tuple[PublishedRow, list[PublishedNumber | None]]]:
        """Yield what is published of each variant, with a number or None for each column."""
        # Where areas are shown, which come last, a published number is one of these.
        places = {column.published: column for column in self.columns.values()}
        for row in published_rows(self.name):
            yield (
                row,
                [
                    row.numbers.get(column.published)
                    if places[column.published] is column
                    else None
                    for column in self.columns.values()
                ],
            )

    def notes(self) -> list[str]:
        """Say what the columns are, and where published numbers are of something else than ours."""
        notes = [said for name, said in _NOTES.items() if name in self.columns]
        numbers = [n for row in published_rows(self.name) for n in row.numbers.values()]
        if not numbers:
            return notes
        sources = sorted({source for number in numbers for source in number.sources})
        notes.append(f"published: as quoted in {', '.join(sources)}; each value's own on hovering.")
        ours = self.ours.scores
        official = expected_sequences(ours.dataset, ours.split)
        if official is not None and official != len(ours.sequences):
            notes.append(f"They are over all {official} sequences of the set.")
        if ours.convention == "matlab":
            notes.append(
                "They are not in the MATLAB toolkit's convention, so they compare loosely."
            )
        if any(len(number.sources) == 1 for number in numbers):
            notes.append("¹ one source only.")
        return notes

    def plots(self) -> Iterator[tuple[CurveKind, str, list[tuple[float, Entry]]]]:
        """Yield each kind of curve, its picture, and the trackers by score, the best first."""
        for name, kind in KINDS.items():
            scores = [COLUMNS[kind.score].shown(entry.scores) or 0.0 for entry in self.entries]
            ranked = sorted(zip(scores, self.entries, strict=True), key=lambda pair: -pair[0])
            yield kind, curves_svg(self.entries, name), ranked

    def bars(self, code: str) -> Iterator[tuple[Entry, float]]:
        """Yield the AUC, in per cent, of each tracker that has it over an attribute."""
        for entry in self.entries[:-1]:
            for each in entry.scores.attributes:
                if each.code == code:
                    yield entry, 100 * each.curves.auc

    def sequences(self) -> Iterator[_Row]:
        """Yield a row a sequence."""
        ours, *others, still = (
            {each.name: 100 * each.curves.auc for each in entry.scores.sequences}
            for entry in self.entries
        )
        for each in self.ours.scores.sequences:
            theirs = [known.get(each.name) for known in others]
            best = max((value for value in theirs if value is not None), default=None)
            gap = None if best is None else ours[each.name] - best
            yield _Row(each, theirs, gap, still[each.name])
