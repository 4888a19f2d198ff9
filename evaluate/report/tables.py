"""Scores for people and programs: tables for the console, and the same numbers as JSON.

Every report sets the tracker beside one that never moves its first box, which is what the numbers
of a data set are worth without tracking. Tables are in per cent; JSON holds fractions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from lorat.evaluate.measure.scores import DatasetScores, Scored, SequenceScores
from lorat.evaluate.report.columns import (
    COLUMNS,
    NEVER_MOVING,
    OF_ATTRIBUTES,
    OF_SEQUENCES,
    OF_SETS,
    Scores,
    filled,
)
from lorat.shards.base.console import plain_table

_PRINTED = (
    *("auc", "precision", "norm_precision", "norm_precision_corrected"),
    *("ao", "sr50", "sr75", "fps"),
)
_LOGGED = ("auc", "precision", "norm_precision", "ao", "sr50", "sr75")


def score_table(scored: Sequence[Scored], label: str) -> Table:
    """Lay out a row a test set and tracker: OPE scores, GOT-10k's own measures, frames a second.

    Args:
        scored: the test sets in the order of the rows, at least one.
        label: what the tracker is called.
    """
    columns = filled(_PRINTED, [item.tracker for item in scored])
    table = plain_table(["test set"], "Scores in per cent")
    table.padding = (0, 0, 0, 0)
    table.add_column("tracker", no_wrap=True)
    for column in columns.values():
        table.add_column(column.heading, justify="right", no_wrap=True)
    if "norm_precision_corrected" in columns:
        table.caption, table.caption_justify = "Pnorm*: absent frames count as misses", "left"
    for item in scored:
        name = f"{item.name} ({len(item.tracker.sequences)})"
        cells = [column.text(item.tracker) for column in columns.values()]
        table.add_row(name, label, *cells, style="bold")
        cells = [column.text(item.still) for column in columns.values()]
        table.add_row("", NEVER_MOVING, *cells, style="dim", end_section=True)
    return table


def sequence_table(item: Scored) -> Table:
    """Lay out a row a sequence of one test set: AUC and precision beside never moving."""
    auc, *others = (COLUMNS[name] for name in ("auc", "precision", "norm_precision", "fps"))
    headings = ("sequence", "frames", "AUC", NEVER_MOVING, *(column.heading for column in others))
    table = plain_table(headings, item.name)
    for ours, still in zip(item.tracker.sequences, item.still.sequences, strict=True):
        cells = [auc.text(ours), auc.text(still), *(column.text(ours) for column in others)]
        table.add_row(ours.name, str(ours.frames), *cells)
    return table


def attribute_table(scores: DatasetScores) -> Table:
    """Lay out a row an attribute."""
    columns = [COLUMNS[name] for name in OF_ATTRIBUTES]
    headings = ("attribute", "sequences", *(column.heading for column in columns))
    table = plain_table(headings, f"{scores.dataset}-{scores.split} by attribute, in per cent")
    for each in scores.attributes:
        cells = [column.text(each) for column in columns]
        table.add_row(f"{each.code} {each.title}", str(each.sequences), *cells)
    return table


def metrics_document(scored: Sequence[Scored], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return every score as plain values for JSON: fractions of 1, None where there is none.

    Args:
        scored: the test sets.
        about: what was evaluated and how; stands at the top as it is.
    """
    sets = {}
    for item in scored:
        both = zip(item.tracker.sequences, item.still.sequences, strict=True)
        sets[item.name] = {
            "tracker": _dataset(item.tracker),
            "never_moving": _dataset(item.still),
            "sequences": {
                ours.name: {"tracker": _sequence(ours), "never_moving": _sequence(still)}
                for ours, still in both
            },
        }
    return {"version": 1, **about, "datasets": _plain(sets)}


def score_values(scored: Sequence[Scored]) -> dict[str, float]:
    """Return the tracker's scores by ``<test set>/<measure>``, fractions of 1.

    GOT-10k's own measures are ``ao``, ``sr50`` and ``sr75``.
    """
    values = {
        f"{item.name}/{name}": value
        for item in scored
        for name, value in _plain(_read(item.tracker, _LOGGED)).items()
    }
    return {name: value for name, value in values.items() if value is not None}


def _dataset(scores: DatasetScores) -> dict[str, Any]:
    toolkits = {"got10k": scores.got10k, "trackingnet": scores.trackingnet}
    return {
        "convention": scores.convention,
        "runs": scores.runs,
        **_read(scores, OF_SETS),
        **{name: asdict(own) for name, own in toolkits.items() if own is not None},
        "attributes": {
            each.code: {
                "title": each.title,
                "sequences": each.sequences,
                **_read(each, OF_ATTRIBUTES),
                "success_curve": each.curves.success.tolist(),
            }
            for each in scores.attributes
        },
        **{f"{name}_curve": curve.tolist() for name, curve in scores.curves._asdict().items()},
    }


def _sequence(scores: SequenceScores) -> dict[str, Any]:
    counts = {"frames": scores.frames, "invalid_frames": scores.invalid_frames}
    return counts | _read(scores, OF_SEQUENCES)


def _read(scores: Scores, names: Sequence[str]) -> dict[str, float | None]:
    return {name: COLUMNS[name].read(scores) for name in names}


def _plain(value: Any) -> Any:
    """Round to six decimals, and turn NaN, which JSON lacks, into None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
