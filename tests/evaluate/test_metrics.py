"""OPE as published, and the measures of GOT-10k's and TrackingNet's toolkits."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.evaluate.metrics import (
    CORRECTED,
    NORM_THRESHOLDS,
    OVERLAP_THRESHOLDS,
    convention_of,
    frame_errors,
    mean_curves,
    ope_curves,
    overlaps,
)
from lorat.evaluate.toolkits import (
    got10k_overlaps,
    got10k_scores,
    trackingnet_curves,
    trackingnet_scores,
)
from lorat.shards.geometry import xywh_to_xyxy

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED_NAMES = {
    "LaSOT": "lasot",
    "LaSOT_Extension": "lasot_ext",
    "TNL2K": "tnl2k",
    "GOT-10k": "got10k",
    "VastTrack": "vasttrack",
    "OTB": "otb",
    "TrackingNet": "trackingnet",
    "UAV123": "uav123",
    "NFS": "nfs30",
}


def boxes_of(seed, n=40):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 300, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(5, 100, (n, 2))], axis=1)


def moved(boxes, pixels):
    return boxes + np.array([pixels, 0, pixels, 0])


@pytest.fixture(scope="module")
def published():
    with np.load(GOLDEN / "g8_ope_compatible.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(("published_name", "name"), PUBLISHED_NAMES.items())
def test_curves_and_scores_equal_the_published_evaluation(published, published_name, name):
    curves = []
    for sequence in ("seq0", "seq1", "seq2", "seq3"):
        pred, truth, exist = (published[f"{sequence}/{key}"] for key in ("pred", "gt", "exist"))
        errors = frame_errors(pred, truth, exist, convention_of(name))
        result = ope_curves(pred, truth, exist, convention_of(name))
        expected = {
            key.rsplit("/", 1)[1]: value
            for key, value in published.items()
            if key.startswith(f"{published_name}/{sequence}/")
        }
        np.testing.assert_allclose(errors.overlap, expected["err_overlap"], atol=1e-9)
        np.testing.assert_allclose(result.success, expected["success_curve"], atol=1e-6)
        np.testing.assert_allclose(result.precision, expected["precision_curve"], atol=1e-6)
        np.testing.assert_allclose(
            result.norm_precision, expected["norm_precision_curve"], atol=1e-6
        )
        curves.append(result)
    mean = mean_curves(curves)
    scores = [mean.auc, mean.precision_20, mean.norm_precision_20, mean.op50, mean.op75]
    np.testing.assert_allclose(scores, published[f"{published_name}/dataset_scores"], atol=1e-6)


def test_thresholds_have_no_accumulated_error():
    assert OVERLAP_THRESHOLDS[13] == 0.65 and OVERLAP_THRESHOLDS[15] == 0.75
    assert NORM_THRESHOLDS[35] == 0.35 and NORM_THRESHOLDS[41] == 0.41


def test_a_perfect_tracker_reaches_20_of_21_on_a_visible_sequence():
    truth = boxes_of(0)
    curves = ope_curves(truth, truth, np.ones(len(truth), bool), convention_of("lasot"))
    assert curves.auc == 20 / 21
    assert curves.op50 == curves.op75 == curves.precision_20 == curves.norm_precision_20 == 1.0


def test_absent_frames_are_misses_or_hits_by_data_set():
    truth = boxes_of(1)
    visible = np.arange(len(truth)) < 30  # the object leaves for good, boxes stay annotated

    def scores(convention):
        curves = ope_curves(truth, truth, visible, convention)
        return curves.op50, curves.precision_20, curves.norm_precision_20

    assert scores(convention_of("lasot")) == (0.75, 0.75, 0.75)
    assert scores(convention_of("vasttrack")) == (0.75, 0.75, 0.75)
    assert scores(convention_of("lasot_ext")) == (0.75, 0.75, 1.0)
    assert scores(convention_of("tnl2k")) == (0.75, 0.75, 1.0)
    assert scores(convention_of("uav20l")) == (0.75, 1.0, 1.0)
    assert scores(CORRECTED) == (0.75, 0.75, 0.75)


def test_a_box_without_size_is_not_a_valid_annotation():
    truth = boxes_of(2, 4)
    truth[3, 2] = truth[3, 0]
    errors = frame_errors(truth, truth, np.ones(4, bool), convention_of("lasot_ext"))
    assert errors.overlap.tolist() == [1.0, 1.0, 1.0, -1.0]
    assert errors.centre[3] == np.inf and errors.norm_centre[3] == -1.0


def test_an_overlap_of_exactly_one_half_is_not_over_it():
    truth, pred = np.array([[0.0, 0, 10, 10]] * 2), np.array([[0.0, 0, 10, 5]] * 2)
    curves = ope_curves(pred, truth, np.ones(2, bool), convention_of("otb"))
    assert curves.op50 == 0.5  # the first frame only, which is given
    assert curves.success[9] == 1.0


def test_an_error_at_the_threshold_is_within_it():
    truth = np.array([[0.0, 0, 100, 100]] * 2)
    curves = ope_curves(moved(truth, 20), truth, np.ones(2, bool), convention_of("otb"))
    assert curves.precision_20 == 1.0 and curves.precision[19] == 0.5
    assert curves.norm_precision_20 == 1.0 and curves.norm_precision[19] == 0.5


def test_the_first_box_is_the_given_one():
    truth = boxes_of(3)
    pred = truth.copy()
    pred[0] += 1000
    visible = np.ones(len(truth), bool)
    assert ope_curves(pred, truth, visible, convention_of("otb")).op75 == 1.0
    assert pred[0, 0] >= 1000  # the caller's array is left alone


def test_a_prediction_that_is_not_a_number_is_a_miss():
    truth = boxes_of(6, 4)
    pred = truth.copy()
    pred[2] = np.nan
    curves = ope_curves(pred, truth, np.ones(4, bool), convention_of("otb"))
    assert (curves.op50, curves.precision_20, curves.norm_precision_20) == (0.75, 0.75, 0.75)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(-50, 50))
def test_shifting_truth_and_prediction_together_changes_nothing(seed, shift):
    truth, pred = np.round(boxes_of(seed)), np.round(boxes_of(seed + 1))
    visible = np.random.default_rng(seed).random(len(truth)) < 0.8
    here = ope_curves(pred, truth, visible, convention_of("lasot"))
    there = ope_curves(pred + shift, truth + shift, visible, convention_of("lasot"))
    for name in ("success", "precision", "norm_precision"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_curves_are_monotonic_shares(seed):
    visible = np.random.default_rng(seed).random(40) < 0.8
    curves = ope_curves(boxes_of(seed), boxes_of(seed + 1), visible, convention_of("uav123"))
    assert (np.diff(curves.success) <= 0).all()
    assert (np.diff(curves.precision) >= 0).all()
    assert (np.diff(curves.norm_precision) >= 0).all()
    assert 0.0 <= curves.auc <= 20 / 21


def test_disjoint_boxes_overlap_by_nothing():
    assert overlaps([[0, 0, 10, 10]], [[20, 20, 30, 30]]).tolist() == [0.0]


def read_got10k_tree():
    """Yield (result boxes, truth, cover, size) of the golden val tree."""
    with zipfile.ZipFile(GOLDEN / "g8_got10k_val_tree_and_results.zip") as archive:

        def table(path):
            return np.loadtxt(io.BytesIO(archive.read(path)), delimiter=",", ndmin=1)

        for number in (1, 2, 3):
            name = f"GOT-10k_Val_{number:06d}"
            tree, out = f"gotval/val/{name}", f"gotres/GOT-10k/T/{name}"
            meta = archive.read(f"{tree}/meta_info.ini").decode()
            size = next(line for line in meta.splitlines() if line.startswith("resolution"))
            size = tuple(int(v) for v in size.split("(")[1].rstrip(")").split(","))
            yield (
                name,
                xywh_to_xyxy(table(f"{out}/{name}_001.txt")),
                xywh_to_xyxy(table(f"{tree}/groundtruth.txt")),
                table(f"{tree}/cover.label").astype(int),
                size,
            )


def test_got10k_scores_equal_the_toolkits_report():
    report = json.loads((GOLDEN / "g8_got10k_toolkit.json").read_text())
    values = []
    for name, pred, truth, cover, size in read_got10k_tree():
        values.append(got10k_overlaps(pred, truth, cover, size))
        alone, expected = got10k_scores(values[-1:]), report["T"]["seq_wise"][name]
        assert alone.ao == pytest.approx(expected["ao"], abs=1e-9)
        assert alone.sr50 == pytest.approx(expected["sr"], abs=1e-9)
    scores, expected = got10k_scores(values), report["_derived"]
    assert scores.ao == pytest.approx(expected["AO"], abs=1e-9)
    assert scores.sr50 == pytest.approx(expected["SR0.5"], abs=1e-9)
    assert scores.sr75 == pytest.approx(expected["SR0.75 (succ_curve[75], strict >)"], abs=1e-9)


def test_got10k_pools_frames_not_sequences():
    scores = got10k_scores([np.ones(30), np.zeros(10)])
    assert (scores.ao, scores.sr50, scores.frames) == (0.75, 0.75, 40)


def test_got10k_skips_the_first_frame_and_covered_ones():
    truth = boxes_of(7, 5)
    cover = np.array([8, 8, 0, 1, 8])
    assert got10k_overlaps(truth, truth, cover, (1000, 1000)).tolist() == [1.0, 1.0, 1.0]


def test_got10k_moves_a_box_that_begins_outside_into_the_image():
    truth = np.array([[0.0, 0, 10, 10]] * 2)
    pred = np.array([[0.0, 0, 10, 10], [-5, 0, 5, 10]])  # 10 wide, half of it outside
    assert got10k_overlaps(pred, truth, [8, 8], (100, 100)).tolist() == [1.0]


def test_got10k_leaves_its_inputs_alone():
    pred, truth = boxes_of(8, 5) - 50, boxes_of(9, 5)
    before = pred.copy(), truth.copy()
    got10k_overlaps(pred, truth, np.full(5, 8), (100, 100))
    np.testing.assert_array_equal(pred, before[0])
    np.testing.assert_array_equal(truth, before[1])


def test_got10k_without_a_frame_that_counts_has_no_scores():
    assert np.isnan(got10k_scores([np.zeros(0)]).ao)


def test_trackingnet_scores_a_perfect_tracker_1():
    truth = boxes_of(10)
    scores = trackingnet_scores([trackingnet_curves(truth, truth)])
    assert (scores.success, scores.precision, scores.norm_precision) == (1.0, 1.0, 1.0)


def test_trackingnet_gives_a_lost_tracker_threshold_zero():
    truth = boxes_of(11, 1000)
    scores = trackingnet_scores([trackingnet_curves(truth + 5000, truth)])
    assert scores.success == pytest.approx(0.025 + 0.975 / 1000)  # the first frame is given
    assert scores.precision == pytest.approx(1 / 1000)


def test_trackingnet_rounds_halves_to_even_before_it_compares():
    truth = np.array([[0.0, 0, 10, 10]] * 2)
    pred = moved(truth, 0.5)
    assert trackingnet_curves(pred, truth).success[-1] == 1.0
    assert trackingnet_curves(moved(pred, 1), truth).precision[0] == 0.5


def test_trackingnet_scores_are_areas():
    truth = np.array([[0.0, 0, 100, 100]] * 2)
    curves = trackingnet_curves(moved(truth, 25), truth)
    scores = trackingnet_scores([curves])
    assert curves.precision.tolist() == [0.5] * 10 + [1.0] * 11
    assert scores.precision == pytest.approx(0.5 * 0.475 + 0.525)
