import csv
from pathlib import Path

import pytest

from lorat.evaluate.report.tables import COLUMNS, published_numbers
from lorat.evaluate.track.testsets import DATASETS

_SETS = [f"{name}-{split}" for name, dataset in DATASETS.items() for split in (dataset.splits or ("all",))]
_FACTS = Path(__file__).parents[4] / "shared" / "data" / "results.csv"


def test_numbers_are_of_known_sets_and_measures():
    found = {name: numbers for name in _SETS if (numbers := published_numbers(name))}
    assert set(found) >= {"lasot-test", "lasot_ext-test", "got10k-test", "trackingnet-test"}
    measures = {column.published for column in COLUMNS.values()}
    for of_set in found.values():
        for row in of_set.values():
            assert row.keys() <= measures
            assert all(0 < n.value < 100 and n.sources for n in row.values())


def test_lasots_numbers_are_those_of_the_papers():
    values = {name: number.value for name, number in published_numbers("lasot-test")["LoRAT B-224"].items()}
    assert values == {"auc": 71.7, "precision": 77.3, "norm_precision": 80.9}


def test_other_trackers_stand_beside_lorat():
    others = {name for s in _SETS for name in published_numbers(s) if not name.startswith("LoRAT ")}
    assert len(others) >= 30
    assert published_numbers("lasot-test")["OSTrack-384"]["auc"].value == 71.1


@pytest.mark.skipif(not _FACTS.is_file(), reason="the collected facts are not here")
def test_every_collected_value_is_there():
    with _FACTS.open() as file:
        facts = list(csv.DictReader(file))
    ours = [row for s in _SETS for name, row in published_numbers(s).items() if name.startswith("LoRAT ")]
    kept = [(n.value, len(n.sources)) for row in ours for n in row.values()]
    assert sorted(kept) == sorted((float(f["value"]), int(f["n_sources"])) for f in facts)
