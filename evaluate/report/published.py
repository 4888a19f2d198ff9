"""Published numbers of LoRAT and of other trackers, to set an evaluation beside.

They stand in ``data/published.csv``, as papers, notes and repositories give them; a value with one source is weaker
than one with several. TrackingNet's precision and normalised precision are areas under their curves and TNL2K follows
the published convention, as in our own tables.
"""

import csv
import functools
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple


class PublishedNumber(NamedTuple):
    """One value."""

    value: float
    """In per cent."""
    sources: tuple[str, ...]


@functools.cache
def published_numbers(test_set: str) -> Mapping[str, Mapping[str, PublishedNumber]]:
    """Return tracker → measure → what is published on ``<dataset>-<split>``, LoRAT first, small ones first."""
    text = (resources.files("lorat.evaluate.report") / "data" / "published.csv").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found: dict[str, dict[str, PublishedNumber]] = {}
    for row in csv.DictReader(lines):
        if row["set"] == test_set:
            number = PublishedNumber(float(row["value"]), tuple(row["sources"].split("; ")))
            found.setdefault(row["tracker"], {})[row["measure"]] = number
    return found
