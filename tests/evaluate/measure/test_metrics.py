"""One-pass evaluation in the published convention."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.evaluate.measure.ope import (
    CORRECTED,
    NORM_THRESHOLDS,
    OVERLAP_THRESHOLDS,
    convention_of,
    frame_errors,
    mean_curves,
    ope_curves,
    overlaps,
)
from tests.evaluate.boxes import boxes_of, moved

GOLDEN = Path(__file__).parents[2] / "golden"
PUBLISHED_NAMES = {
    **{"LaSOT": "lasot", "LaSOT_Extension": "lasot_ext", "TNL2K": "tnl2k", "GOT-10k": "got10k", "NFS": "nfs30"},
    **{"VastTrack": "vasttrack", "OTB": "otb", "TrackingNet": "trackingnet", "UAV123": "uav123"},
}


@pytest.fixture(scope="module")
def published():
    with np.load(GOLDEN / "g8_ope_compatible.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(("published_name", "dataset"), PUBLISHED_NAMES.items())
def test_curves_and_scores_equal_the_published_evaluation(published, published_name, dataset):
    curves = []
    for sequence in ("seq0", "seq1", "seq2", "seq3"):
        pred, truth, exist = (published[f"{sequence}/{key}"] for key in ("pred", "gt", "exist"))
        overlap, _, _ = frame_errors(pred, truth, exist, convention_of(dataset))
        result = ope_curves(pred, truth, exist, convention_of(dataset))
        of = f"{published_name}/{sequence}"
        np.testing.assert_allclose(overlap, published[f"{of}/err_overlap"], atol=1e-9)
        for name, curve in result._asdict().items():
            np.testing.assert_allclose(curve, published[f"{of}/{name}_curve"], atol=1e-6)
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

    hits = {"lasot": 0, "vasttrack": 0, "lasot_ext": 1, "tnl2k": 1, "uav20l": 2}
    for convention, count in [(CORRECTED, 0), *((convention_of(name), count) for name, count in hits.items())]:
        curves = ope_curves(truth, truth, visible, convention)
        scores = (curves.op50, curves.precision_20, curves.norm_precision_20)
        assert scores == ((0.75, 0.75, 0.75), (0.75, 0.75, 1.0), (0.75, 1.0, 1.0))[count]
    assert convention_of("uav_of_mine") == convention_of("generic") != convention_of("uav123")


def test_a_box_without_size_is_not_a_valid_annotation():
    truth = boxes_of(2, 4)
    truth[3, 2] = truth[3, 0]
    overlap, centre, norm = frame_errors(truth, truth, np.ones(4, bool), convention_of("lasot_ext"))
    assert overlap.tolist() == [1.0, 1.0, 1.0, -1.0]
    assert (centre[3], norm[3]) == (np.inf, -1.0)


def test_an_overlap_of_exactly_one_half_is_not_over_it():
    truth, pred = np.array([[0.0, 0, 10, 10]] * 2), np.array([[0.0, 0, 10, 5]] * 2)
    curves = ope_curves(pred, truth, np.ones(2, bool), convention_of("otb"))
    assert curves.op50 == 0.5  # the first frame only, which is given
    assert curves.success[9] == 1.0
    assert overlaps([[0, 0, 10, 10]], [[20, 20, 30, 30]]).tolist() == [0.0]


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
    assert all(map(np.array_equal, here, there))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_curves_are_monotonic_shares(seed):
    visible = np.random.default_rng(seed).random(40) < 0.8
    curves = ope_curves(boxes_of(seed), boxes_of(seed + 1), visible, convention_of("uav123"))
    assert (np.diff(curves.success) <= 0).all()
    assert (np.diff(curves.precision) >= 0).all()
    assert (np.diff(curves.norm_precision) >= 0).all()
    assert 0.0 <= curves.auc <= 20 / 21


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_scaling_both_changes_only_the_errors_in_pixels(seed, factor):
    truth, pred = np.round(boxes_of(seed)), np.round(boxes_of(seed + 1))
    truth[:, 2:] += 1  # a box keeps its size
    visible = np.random.default_rng(seed).random(len(truth)) < 0.8
    here = ope_curves(pred, truth, visible, convention_of("tnl2k"))
    there = ope_curves(pred * factor, truth * factor, visible, convention_of("tnl2k"))
    np.testing.assert_array_equal(here.success, there.success)
    np.testing.assert_array_equal(here.norm_precision, there.norm_precision)


def test_frames_without_a_number_are_misses_in_success_and_hits_in_precision_in_uav():
    truth = boxes_of(4, 10)
    truth[6:] = np.nan
    curves = ope_curves(truth, truth, ~np.isnan(truth[:, 0]), convention_of("uav123"))
    assert (curves.op50, curves.precision_20, curves.norm_precision_20) == (0.6, 1.0, 1.0)
    far = np.where(np.isnan(truth), 0.0, truth + 5000)
    curves = ope_curves(far, truth, ~np.isnan(truth[:, 0]), convention_of("uav123"))
    assert (curves.op50, curves.precision_20) == (0.1, 0.5)  # the first frame is given


def test_boxes_without_size_are_misses_where_the_object_is():
    truth = boxes_of(5, 10)
    zeros = np.zeros_like(truth)
    curves = ope_curves(zeros, truth, np.ones(10, bool), convention_of("lasot"))
    assert curves.success.tolist() == [0.1] * 20 + [0.0]


def test_a_sequence_of_one_frame_is_that_frame():
    truth = boxes_of(6, 1)
    curves = ope_curves(truth + 50, truth, np.ones(1, bool), convention_of("vasttrack"))
    assert curves.auc == 20 / 21 and curves.precision[0] == 1.0


def test_a_tail_without_the_object_bounds_every_score_of_a_perfect_tracker():
    truth = boxes_of(7, 5)
    truth[2:] = -1.0  # zeros on disk, read minus 1, as VastTrack's shortest sequence could be
    visible = np.arange(5) < 2
    curves = ope_curves(truth, truth, visible, convention_of("vasttrack"))
    assert curves.auc == pytest.approx(20 / 21 * 0.4)
    assert curves.precision_20 == curves.norm_precision_20 == 0.4
