from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lorat.evaluate.report.columns import COLUMNS
from lorat.evaluate.report.published import published_rows
from lorat.evaluate.track.testsets import DATASETS

_SETS = [
    f"{name}-{split}"
    for name, dataset in DATASETS.items()
    for split in (dataset.splits or ("all",))
]
_FACTS = Path(__file__).parents[4] / "shared" / "data" / "results.csv"


def test_rows_are_of_known_sets_measures_and_variants():
    rows = {name: published_rows(name) for name in _SETS if published_rows(name)}
    assert set(rows) >= {"lasot-test", "lasot_ext-test", "got10k-test", "trackingnet-test"}
    measures = {column.published for column in COLUMNS.values()}
    for of_set in rows.values():
        assert len({row.variant for row in of_set}) == len(of_set)
        for row in of_set:
            assert row.numbers.keys() <= measures
            assert all(0 < n.value < 100 and n.sources for n in row.numbers.values())


def test_lasots_numbers_are_those_of_the_papers():
    row = next(row for row in published_rows("lasot-test") if row.variant == "B-224")
    values = {name: number.value for name, number in row.numbers.items()}
    assert values == {"auc": 71.7, "precision": 77.3, "norm_precision": 80.9}


@pytest.mark.skipif(not _FACTS.is_file(), reason="the collected facts are not here")
def test_every_collected_value_is_there():
    with _FACTS.open() as file:
        facts = list(csv.DictReader(file))
    kept = [
        (n.value, len(n.sources))
        for s in _SETS
        for r in published_rows(s)
        for n in r.numbers.values()
    ]
    assert sorted(kept) == sorted((float(f["value"]), int(f["n_sources"])) for f in facts)
