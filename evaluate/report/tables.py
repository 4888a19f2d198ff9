"""Scores for people and programs: tables for the console, the same numbers as JSON, and published ones beside them.

`COLUMNS` serves console, page and metrics.json. Every report has a tracker that never moves its first box: what the
numbers of a data set are worth without tracking. Tables are in per cent.
"""

import csv
import functools
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from rich.table import Table
from rich.text import Text

from lorat.evaluate.measure.attributes import AttributeScores
from lorat.evaluate.measure.bootstrap import DRAWS, FEWEST, standings
from lorat.evaluate.measure.scores import NEVER_MOVING, DatasetScores, Entry, SequenceScores
from lorat.prep.trees.base.official import official_names
from lorat.shards.base.console import plain_table
from lorat.shards.base.errors import counted

Scores: TypeAlias = DatasetScores | SequenceScores | AttributeScores
_FEW_SEQUENCES = 20  # a test set of up to so many gets a table of its sequences


class Column(NamedTuple):
    """A measure."""

    heading: str
    path: str  # where it stands in scores
    published: str = ""  # its name among the published numbers
    share: bool = True  # whether it is a share, which is shown in per cent

    def read(self, scores: Scores) -> float | None:
        """Return its value; None where the scores have none."""
        value: object = scores
        for name in self.path.split("."):
            value = getattr(value, name, None)
        return value if isinstance(value, float) else None

    def shown(self, scores: Scores) -> float | None:
        """Return what is shown of it: shares in per cent; None where there is no number."""
        value = self.read(scores)
        if value is None or not math.isfinite(value):
            return None
        return 100 * value if self.share else value

    def text(self, scores: Scores) -> str:
        """Return what a table of the console shows of it."""
        value = self.shown(scores)
        if value is None:
            return "-"
        return f"{value:.1f}" if self.share or value < 10 else f"{value:.0f}"


COLUMNS: Mapping[str, Column] = {  # by name, in the order of tables
    "auc": Column("AUC", "curves.auc", "auc"),
    "op50": Column("OP50", "curves.op50"),
    "op75": Column("OP75", "curves.op75"),
    "precision": Column("P", "curves.precision_20", "precision"),
    "norm_precision": Column("Pnorm", "curves.norm_precision_20", "norm_precision"),
    "norm_precision_corrected": Column("Pnorm*", "norm_precision_corrected"),
    "ao": Column("AO", "got10k.ao", "ao"),
    "sr50": Column("SR0.5", "got10k.sr50", "sr50"),
    "sr75": Column("SR0.75", "got10k.sr75", "sr75"),
    # TrackingNet's published numbers are its server's, which gives areas.
    "success_area": Column("area S", "trackingnet.success", "auc"),
    "precision_area": Column("area P", "trackingnet.precision", "precision"),
    "norm_precision_area": Column("area Pn", "trackingnet.norm_precision", "norm_precision"),
    "fps": Column("fps", "fps", share=False),
    "latency": Column("ms", "latency", share=False),
    "speed": Column("speed", "got10k.speed", share=False),
}
OF_ATTRIBUTES = ("auc", "precision", "norm_precision")  # told of each attribute, in tables and in JSON
_OF_SEQUENCES = ("auc", "op50", "op75", "precision", "norm_precision", "fps")
_OF_SETS = (*_OF_SEQUENCES[:-1], "norm_precision_corrected", "fps", "latency")
_LOGGED = (*OF_ATTRIBUTES, "ao", "sr50", "sr75")
_PRINTED = (*OF_ATTRIBUTES, "norm_precision_corrected", "ao", "sr50", "sr75", "fps", "latency")
SPEEDS = {
    "fps": "fps: throughput, frames over seconds, ours of sequences side by side",
    "latency": "ms: latency, a frame's time where one sequence is tracked alone",
}
_PRINTED_NOTES = {"norm_precision_corrected": "Pnorm*: absent frames count as misses", **SPEEDS}


def filled(every: Sequence[DatasetScores], names: Sequence[str] = (*COLUMNS,)) -> dict[str, Column]:
    """Return the columns of these names that some scores have, and fps."""
    return {n: COLUMNS[n] for n in names if n == "fps" or any(COLUMNS[n].read(each) is not None for each in every)}


def score_tables(scored: Sequence[Sequence[Entry]]) -> Iterator[Table]:
    """Lay out the sequences of small test sets, then two rows a set: ours and never moving's."""
    for ours, *_, still in scored:
        if len(ours.scores.sequences) <= _FEW_SEQUENCES:
            yield _sequence_table(ours.scores, still.scores)
    if not scored:
        return
    columns = filled([entries[0].scores for entries in scored], _PRINTED)
    table = plain_table(["test set"], "Scores in per cent")
    table.padding = (0, 0, 0, 0)
    table.show_edge = False  # with AO, SR and the speeds it fills 80 columns
    table.add_column("tracker", no_wrap=True)
    for column in columns.values():
        table.add_column(column.heading, justify="right", no_wrap=True)
    for ours, *_, still in scored:
        name = f"{ours.scores.name} ({len(ours.scores.sequences)})"
        for place, entry, style in ((name, ours, "bold"), ("", still, "dim")):
            cells = [column.text(entry.scores) for column in columns.values()]
            table.add_row(place, entry.label, *cells, style=style, end_section=entry is still)
    yield table


def notes_of(every: Sequence[DatasetScores], notes: Mapping[str, str] = _PRINTED_NOTES) -> list[str]:
    """Return those of some notes, by column, whose column some scores fill; by default what tables' columns are."""
    return [said for name, said in notes.items() if any(COLUMNS[name].read(each) is not None for each in every)]


def not_official(scores: DatasetScores) -> Iterator[str]:
    """Say it where scores are not those of a split's official sequences, over which published numbers are."""
    names, remedy = {each.name for each in scores.sequences}, "published numbers are over all of these"
    official = set(official_names(scores.dataset, scores.split) or names)
    if names < official:
        yield f"{scores.name}: {len(names):,} of the official {counted(len(official), 'sequence')}; {remedy}"
    elif names != official:
        yield f"{scores.name}: {counted(len(names), 'sequence')}, not the official {len(official):,}; {remedy}"


def comparison_table(entries: Sequence[Entry]) -> Table:
    """Lay out trackers that are scored over the same sequences of a test set: the best of each column is bold."""
    every = [entry.scores for entry in entries]
    columns = filled(every, _PRINTED)
    headings = [column.heading for column in columns.values()]
    title = f"{every[0].name} ({counted(len(every[0].sequences), 'sequence')}), in per cent"
    table = plain_table(["tracker", headings[0], "±", "to best", "p", *headings[1:]], title)
    table.padding = (0, 0, 0, 0)
    sure = standings(np.array([[each.curves.auc for each in scores.sequences] for scores in every]))
    top = max((one for scores in every if math.isfinite(one := scores.curves.auc)), default=math.nan)
    for entry, standing in zip(entries, sure, strict=True):
        auc, *others = (
            Text(text := c.text(entry.scores), "bold" if text == best_of(entries, c) else "") for c in columns.values()
        )
        behind = ("-", "-", "-")
        if standing:
            chance = "" if standing.p is None else "<0.001" if standing.p < 0.001 else f"{standing.p:.3f}"
            behind = (f"{100 * standing.spread:.1f}", f"{100 * (entry.scores.curves.auc - top):+.1f}", chance)
        table.add_row(Text(entry.label), auc, *map(Text, behind), *others)
    return table


def best_of(entries: Sequence[Entry], column: Column) -> str | None:
    """Return what is shown of a column's best value; None where there are fewer than two to choose from."""
    choose = min if column.path == "latency" else max
    known = [entry.scores for entry in entries if column.shown(entry.scores) is not None]
    return column.text(choose(known, key=lambda scores: column.shown(scores) or 0.0)) if len(known) > 1 else None


def how_compared() -> str:
    """Say what ± and p of a comparison are."""
    how = f"paired bootstrap over sequences, {DRAWS:,} draws, seeded; no p of fewer than {FEWEST}"
    return f"±: half of AUC's 95 % interval; p: that a tracker is as good as the best one, two-sided ({how})"


def sequences_csv(scored: Sequence[Sequence[Entry]]) -> str:
    """Return a line for each test set, tracker but never moving, and sequence: fractions of 1, as in metrics.json."""
    file = io.StringIO()
    names = [name for name in COLUMNS if name in (*_OF_SEQUENCES, "norm_precision_corrected")]
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["test set", "tracker", "sequence", "frames", *names])
    for *entries, _ in scored:
        for entry in entries:
            for each in entry.scores.sequences:
                values = _read(each, names).values()
                cells = ("" if value is None or math.isnan(value) else round(value, 6) for value in values)
                table.writerow([entry.scores.name, entry.label, each.name, each.frames, *cells])
    return file.getvalue()


def _sequence_table(ours: DatasetScores, never_moving: DatasetScores) -> Table:
    auc, *others = (COLUMNS[name] for name in (*OF_ATTRIBUTES, "fps"))
    table = plain_table(("sequence", "frames", "AUC", NEVER_MOVING, *(column.heading for column in others)), ours.name)
    for each, still in zip(ours.sequences, never_moving.sequences, strict=True):
        cells = (column.text(each) for column in others)
        table.add_row(each.name, str(each.frames), auc.text(each), auc.text(still), *cells)
    return table


def attribute_table(scores: DatasetScores) -> Table:
    """Lay out a row an attribute."""
    columns = [COLUMNS[name] for name in OF_ATTRIBUTES]
    headings = ("attribute", "sequences", *(column.heading for column in columns))
    table = plain_table(headings, f"{scores.name} by attribute, in per cent")
    for each in scores.attributes:
        table.add_row(f"{each.code} {each.title}", str(each.sequences), *(column.text(each) for column in columns))
    return table


def score_values(scored: Sequence[Sequence[Entry]]) -> dict[str, float]:
    """Return the tracker's scores by ``<test set>/<measure>``, fractions of 1; GOT-10k's are ao, sr50 and sr75."""
    return {
        f"{ours.name}/{name}": round(value, 6)
        for (_, ours), *_ in scored
        for name, value in _read(ours, _LOGGED).items()
        if value is not None and math.isfinite(value)
    }


def metrics_document(scored: Sequence[Sequence[Entry]], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return ours and never moving's scores for JSON: fractions of 1, None where there is none; `about` first."""
    sets = {
        ours.name: {
            "tracker": _dataset(ours),
            "never_moving": _dataset(still),
            "sequences": {
                one.name: {"tracker": _sequence(one), "never_moving": _sequence(other)}
                for one, other in zip(ours.sequences, still.sequences, strict=True)
            },
        }
        for (_, ours), *_, (_, still) in scored
    }
    # Six decimals, and None for NaN, which JSON lacks.
    plain = json.loads(json.dumps(sets), parse_float=lambda text: round(float(text), 6), parse_constant=lambda _: None)
    return {"version": 1, **about, "datasets": plain}


def _dataset(scores: DatasetScores) -> dict[str, Any]:
    toolkits = {"got10k": scores.got10k, "trackingnet": scores.trackingnet}
    return {
        "convention": scores.convention,
        "runs": scores.runs,
        **_read(scores, _OF_SETS),
        **{name: asdict(own) for name, own in toolkits.items() if own is not None},
        "attributes": {
            each.code: {"title": each.title, "sequences": each.sequences}
            | _read(each, OF_ATTRIBUTES)
            | {"success_curve": each.curves.success.tolist()}
            for each in scores.attributes
        },
        **{f"{name}_curve": curve.tolist() for name, curve in scores.curves._asdict().items()},
    }


def _sequence(scores: SequenceScores) -> dict[str, Any]:
    return {"frames": scores.frames, "invalid_frames": scores.invalid_frames, **_read(scores, _OF_SEQUENCES)}


def _read(scores: Scores, names: Sequence[str]) -> dict[str, float | None]:
    return {name: COLUMNS[name].read(scores) for name in names}


class PublishedNumber(NamedTuple):
    """One value as papers, notes and repositories give it; with one source it is weaker than with several."""

    value: float  # in per cent
    sources: tuple[str, ...]


@functools.cache
def published_numbers(test_set: str) -> Mapping[str, Mapping[str, PublishedNumber]]:
    """Return tracker → measure → what is published on ``<dataset>-<split>``, LoRAT first, small ones first.
    TrackingNet's precisions are areas under their curves and TNL2K follows the published convention, as in our tables.
    """
    text = (resources.files("lorat.evaluate.report") / "data" / "published.csv").read_text("utf-8")
    found: dict[str, dict[str, PublishedNumber]] = {}
    for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#")):
        if row["set"] == test_set:
            number = PublishedNumber(float(row["value"]), tuple(row["sources"].split("; ")))
            found.setdefault(row["tracker"], {})[row["measure"]] = number
    return found
