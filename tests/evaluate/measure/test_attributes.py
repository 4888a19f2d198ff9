"""Scores by attribute."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lorat.evaluate.measure.attributes import TITLES, attribute_scores, attributes_of
from lorat.evaluate.measure.ope import Curves, mean_curves
from lorat.prep.trees.base.official import official_names

SHARED = Path(__file__).parents[4] / "shared" / "data"
# Sequences that have each attribute, in the tables that come with the toolkits.
COUNTS = {
    "lasot": {
        **{"IV": 47, "POC": 187, "DEF": 142, "MB": 89, "CM": 86, "ROT": 175, "BC": 100},
        **{"VC": 33, "SV": 273, "FOC": 118, "FM": 53, "OV": 104, "LR": 141, "ARC": 249},
    },
    "lasot_ext": {
        **{"IV": 14, "POC": 98, "DEF": 43, "MB": 67, "CM": 18, "ROT": 39, "BC": 68},
        **{"VC": 59, "SV": 141, "FOC": 94, "FM": 88, "OV": 32, "LR": 104, "ARC": 129},
    },
    "vasttrack": {
        **{"LR": 1705, "SV": 2956, "FM": 2865, "ARC": 2514, "IV": 1750},
        **{"INV": 2879, "DEF": 2043, "ROT": 2547, "BC": 2489, "MB": 2165},
    },
}
FILES = {
    "lasot": "lasot_attributes.csv",
    "lasot_ext": "lasot_extension_attributes.csv",
    "vasttrack": "vasttrack_test_attributes.csv",
}


def curves_at(value):
    return Curves(np.full(21, value), np.full(51, value / 2), np.full(51, value / 4))


@pytest.mark.parametrize("dataset", COUNTS)
def test_each_attribute_has_the_sequences_that_the_authors_gave_it(dataset):
    labels = attributes_of(dataset, "test")
    assert Counter(code for codes in labels.values() for code in codes) == COUNTS[dataset]
    assert set(COUNTS[dataset]) <= set(TITLES)


@pytest.mark.parametrize("dataset", COUNTS)
def test_every_official_sequence_is_labelled_and_no_other(dataset):
    assert set(attributes_of(dataset, "test")) == set(official_names(dataset, "test"))


@pytest.mark.parametrize("dataset", COUNTS)
def test_labels_are_those_of_the_source(dataset):
    file = SHARED / FILES[dataset]
    if not file.is_file():
        pytest.skip("the source tables are not here")
    header, *lines = file.read_text("utf-8").splitlines()
    rows = {name: flags.split(",") for name, _, flags in (line.partition(",") for line in lines)}
    codes = header.split(",")[1:]
    for name, ours in attributes_of(dataset, "test").items():
        flagged = {code for code, flag in zip(codes, rows[name], strict=True) if flag == "1"}
        assert set(ours) == flagged, name


def test_other_sets_have_no_attributes():
    for dataset, split in (("lasot", "train"), ("tnl2k", "test"), ("got10k", "val")):
        assert attributes_of(dataset, split) is None


def test_an_attributes_score_is_the_mean_over_its_sequences():
    labels = {"a": ("IV", "SV"), "b": ("SV",), "c": ()}
    curves = {"a": curves_at(0.4), "b": curves_at(0.8), "c": curves_at(1.0)}
    first, second = attribute_scores(labels, curves, mean_curves)
    assert (first.code, first.title, first.sequences) == ("IV", "Illumination variation", 1)
    assert (second.code, second.title, second.sequences) == ("SV", "Scale variation", 2)
    assert (first.curves.auc, second.curves.auc) == pytest.approx((0.4, 0.6))
    scores = (second.curves.precision_20, second.curves.norm_precision_20)
    assert scores == pytest.approx((0.3, 0.15))
    assert second.curves.success.tolist() == pytest.approx([0.6] * 21)


def test_sequences_that_are_not_there_or_not_labelled_are_left_out():
    labels = {"a": ("IV",), "b": ("SV",)}
    (only,) = attribute_scores(labels, {"a": curves_at(0.4), "mine": curves_at(1.0)}, mean_curves)
    assert (only.code, only.sequences) == ("IV", 1)
    assert attribute_scores({}, {"mine": curves_at(1.0)}, mean_curves) == ()
