"""Published numbers of LoRAT, to set an evaluation beside.

They stand in ``data/published.csv``, as papers and notes quote them; a value with one source is
weaker than one with several. TrackingNet's precision and normalised precision are areas under their
curves and TNL2K follows the published convention, as in our own tables.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class PublishedNumber:
    """One value."""

    value: float
    """In per cent."""
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """What is published of one variant on one test set."""

    variant: str
    numbers: Mapping[str, PublishedNumber]
    """Measure → value; those that are known."""


@functools.cache
def published_rows(test_set: str) -> tuple[PublishedRow, ...]:
    """Return what is published on a test set ``<dataset>-<split>``, small variants first."""
    text = (resources.files("lorat.evaluate.report") / "data" / "published.csv").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found: dict[str, dict[str, PublishedNumber]] = {}
    for row in csv.DictReader(lines):
        if row["set"] == test_set:
            number = PublishedNumber(float(row["value"]), tuple(row["sources"].split("; ")))
            found.setdefault(row["variant"], {})[row["measure"]] = number
    return tuple(PublishedRow(variant, numbers) for variant, numbers in found.items())
