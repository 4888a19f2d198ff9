"""The report of an evaluation as one page that opens from disk.

Promise: the page is one file that fetches nothing, whatever the names in it are; it can be read without JavaScript,
which only sorts and filters. The same input gives the same bytes.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from lorat.evaluate.measure.scores import Entry, SequenceScores
from lorat.evaluate.report.plots import KINDS, CurveKind, coloured, curves_svg
from lorat.evaluate.report.strips import Strip
from lorat.evaluate.report.tables import COLUMNS, OF_ATTRIBUTES, PublishedNumber, filled, published_numbers
from lorat.prep.trees.base.official import expected_sequences
from lorat.shards.base.storage import atomic_file

_NOTES = {
    "norm_precision_corrected": "Pnorm*: frames without the object count as misses, not as hits.",
    "speed": "speed: the GOT-10k toolkit's mean of 1/t; fps: frames over seconds.",
    "success_area": "area: under the curve, as TrackingNet's server gives it.",
}


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class PageInput:
    """All that the page shows."""

    label: str  # what the tracker is called
    variant: str
    about: Mapping[str, str]  # what was evaluated and how, in the order of the page's head
    scored: Sequence[Sequence[Entry]]  # of each test set ours, other trackers', and never moving's
    strips: Mapping[str, Sequence[Strip]] = field(default_factory=dict)  # test set → its worst sequences
    remarks: Sequence[str] = ()


def write_page(path: Path, page: PageInput) -> None:
    """Write the page, in place of an older one; a `UserError` if the disk refuses."""
    with atomic_file(path) as file:
        file.write(render_page(page).encode("utf-8"))


def render_page(page: PageInput) -> str:
    """Return the page's HTML."""
    loader = PackageLoader("lorat.evaluate.report", "data")
    strict = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return strict.get_template("page.html").render(
        page=page,
        sections=[_Section(entries, page) for entries in page.scored],
        columns=COLUMNS,
        of_attributes=OF_ATTRIBUTES,
        base64=lambda jpeg: b64encode(jpeg).decode("ascii"),
    )


class _Section:
    """What the template shows of one test set."""

    def __init__(self, entries: Sequence[Entry], page: PageInput) -> None:
        self.entries, self.ours = entries, entries[0].scores
        self.coloured = coloured(entries)
        self.columns = filled([entry.scores for entry in entries])
        self.published = published_numbers(self.ours.name)
        self.strips = page.strips.get(self.ours.name, ())

    def published_row(self, tracker: str) -> Iterator[PublishedNumber | None]:
        """Yield what is published of a tracker in each column."""
        # Where areas are shown, which come last, a published number is one of these.
        places = {column.published: column for column in self.columns.values()}
        for column in self.columns.values():
            here = places[column.published] is column
            yield self.published[tracker].get(column.published) if here else None

    def notes(self) -> list[str]:
        """Say what the columns are, and where published numbers are of something else than ours."""
        notes = [said for name, said in _NOTES.items() if name in self.columns]
        numbers = [number for row in self.published.values() for number in row.values()]
        if not numbers:
            return notes
        sources = sorted({source for number in numbers for source in number.sources})
        notes.append(f"published: as quoted in {', '.join(sources)}; each value's own on hovering.")
        official = expected_sequences(self.ours.dataset, self.ours.split)
        if official not in (None, len(self.ours.sequences)):
            notes.append(f"They are over all {official} sequences of the set.")
        if self.ours.convention == "matlab":
            notes.append("They are not in the MATLAB toolkit's convention, so they compare loosely.")
        if any(len(number.sources) == 1 for number in numbers):
            notes.append("¹ one source only.")
        return notes

    def plots(self) -> Iterator[tuple[CurveKind, str, list[tuple[float, str, str]]]]:
        """Yield each kind of curve, its picture, and (score, label, colour), the best first."""
        for kind in KINDS:
            ranked = [(kind.column.shown(e.scores) or 0.0, e.label, c) for e, c in self.coloured]
            yield kind, curves_svg(self.entries, kind), sorted(ranked, key=lambda row: -row[0])

    def bars(self, code: str) -> Iterator[tuple[str, str, float]]:
        """Yield label, colour, and AUC in per cent of each tracker that has an attribute."""
        for (label, scores), colour in self.coloured[:-1]:
            for each in scores.attributes:
                if each.code == code:
                    yield label, colour, 100 * each.curves.auc

    def sequences(self) -> Iterator[tuple[SequenceScores, list[float | None], float | None, float]]:
        """Yield each sequence, the AUC of others, ours less the best of them, never moving's."""
        ours, *others, still = ({s.name: 100 * s.curves.auc for s in entry.scores.sequences} for entry in self.entries)
        for each in self.ours.sequences:
            theirs = [known.get(each.name) for known in others]
            best = max((value for value in theirs if value is not None), default=None)
            gap = None if best is None else ours[each.name] - best
            yield each, theirs, gap, still[each.name]
