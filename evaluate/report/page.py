"""The report of an evaluation as one page that opens from disk.

Promise: it fetches nothing, whatever names are in it; JavaScript only sorts and filters. Same input, same bytes.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from lorat.evaluate.measure.attributes import TITLES, AttributeScores
from lorat.evaluate.measure.scores import Entry, SequenceScores
from lorat.evaluate.report import tables
from lorat.evaluate.report.plots import KINDS, CurveKind, Line, attribute_panels, coloured, curves_svg, ranked
from lorat.evaluate.report.strips import Strip
from lorat.prep.trees.base.official import expected_sequences
from lorat.shards.base.storage import atomic_file

_NOTES = {
    "norm_precision_corrected": "Pnorm*: frames without the object count as misses, not as hits.",
    "speed": "speed: the GOT-10k toolkit's mean of 1/t.",
    **{name: f"{said}." for name, said in tables.SPEEDS.items()},
    "success_area": "area: under the curve, as TrackingNet's server gives it.",
}


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class PageInput:
    """All that the page shows."""

    label: str  # what the tracker is called
    variant: str  # ours; none where all trackers are others'
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
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.get_template("page.html").render(
        page=page,
        sections=[_Section(e, page, lines) for e, lines in zip(page.scored, coloured(page.scored), strict=True)],
        columns=tables.COLUMNS,
        of_attributes=tables.OF_ATTRIBUTES,
        base64=lambda jpeg: b64encode(jpeg).decode("ascii"),
    )


class _Section:
    """What the template shows of one test set."""

    def __init__(self, entries: Sequence[Entry], page: PageInput, lines: Sequence[Line]) -> None:
        self.entries, self.ours, self.whole = entries, entries[0].scores, entries[-1].scores
        self.measures = tables.OF_ATTRIBUTES if page.variant else ()  # of ours, by attribute
        self.compared = entries[1 if page.variant else 0 : -1]  # those whose AUC is told by attribute and sequence
        self.coloured = lines
        self.columns = tables.filled([entry.scores for entry in entries])
        self.published = tables.published_numbers(self.ours.name)
        self.beside = [tracker for tracker in self.published if tracker == f"LoRAT {page.variant}"]
        self.strips = page.strips.get(self.ours.name, ())

    def published_row(self, tracker: str) -> Iterator[tables.PublishedNumber | None]:
        """Yield what is published of a tracker in each column."""
        # Where areas are shown, which come last, a published number is one of these.
        places = {column.published: column for column in self.columns.values()}
        for column in self.columns.values():
            yield self.published[tracker].get(column.published) if places[column.published] is column else None

    def notes(self) -> list[str]:
        """Say what the columns are."""
        return tables.notes_of([entry.scores for entry in self.entries], _NOTES)

    def published_notes(self) -> list[str]:
        """Say where published numbers stand, and where they are of something else than ours."""
        numbers = [number for row in self.published.values() for number in row.values()]
        sources = sorted({source for number in numbers for source in number.sources})
        notes = [f"As quoted in {', '.join(sources)}; each value's own on hovering."]
        official = expected_sequences(self.ours.dataset, self.ours.split)
        if official not in (None, len(self.whole.sequences)):
            notes.append(f"They are over all {official} sequences of the set.")
        if self.ours.convention == "matlab":
            notes.append("They are not in the MATLAB toolkit's convention, so they compare loosely.")
        if any(len(number.sources) == 1 for number in numbers):
            notes.append("¹ one source only.")
        return notes

    def best(self, column: tables.Column, entry: Entry) -> bool:
        """Whether a tracker has the best value of all, where none of them is ours."""
        others = not self.measures and entry in self.compared
        return others and column.text(entry.scores) == tables.best_of(self.compared, column)

    def plots(self) -> Iterator[tuple[CurveKind, str, list[Line]]]:
        """Yield each kind of curve, its picture, and the trackers, the best first."""
        for kind in KINDS:
            yield kind, curves_svg(self.coloured, kind), ranked(self.coloured, kind)

    def attribute_plots(self) -> Iterator[tuple[CurveKind, list[tuple[str, str]]]]:
        """Yield each kind of curve, and of each attribute its title and picture, where there are several trackers."""
        panels = attribute_panels(self.coloured) if len(self.entries) > 2 else ()
        for kind in KINDS if panels else ():
            yield kind, [(panel.title, curves_svg(panel.lines, kind)) for panel in panels]

    def attributes(self) -> Iterator[tuple[AttributeScores, list[float | None], list[tuple[Line, float]]]]:
        """Yield each attribute, AUC of the trackers compared, and (tracker, AUC) of all that have it, in per cent."""
        known = [{each.code: each for each in entry.scores.attributes} for entry in self.entries[:-1]]
        for code in (code for code in TITLES if any(code in of for of in known)):
            values = [100 * of[code].curves.auc if code in of else None for of in known]
            bars = [(line, v) for line, v in zip(self.coloured, values, strict=False) if v is not None]
            yield next(of[code] for of in known if code in of), values[len(values) - len(self.compared) :], bars

    def sequences(self) -> Iterator[tuple[SequenceScores, list[float | None], float | None, float]]:
        """Yield each sequence (ours if any), AUC of those compared, the first's lead, and never moving's AUC."""
        first, *_ = known = [{s.name: s for s in entry.scores.sequences} for entry in self.entries]
        auc = tables.COLUMNS["auc"]
        for still in self.whole.sequences:
            aucs = [auc.shown(of[still.name]) if still.name in of else None for of in known]
            best = max((value for value in aucs[1:-1] if value is not None), default=None)
            gap = None if best is None or aucs[0] is None else aucs[0] - best
            shown = aucs[len(aucs) - 1 - len(self.compared) : -1]
            yield first.get(still.name, still), shown, gap, 100 * still.curves.auc
