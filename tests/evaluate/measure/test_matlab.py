"""One-pass evaluation as the MATLAB toolkits of LaSOT and OTB do it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.evaluate.measure.matlab import matlab_curves, matlab_mean
from lorat.evaluate.measure.ope import Curves, convention_of, ope_curves
from lorat.prep.trees.base.clip import make_track
from lorat.shards.pixels.geometry import xywh_to_xyxy

ABSENT = [0, 0, 0, 0]


def scores_of(pred, anno, absent=None, one_based=False):
    """Return SUC, P and Pnorm of boxes as files have them: x, y, w, h."""
    curves = curves_of_files(pred, anno, absent, one_based)
    return curves.auc, curves.precision_20, curves.norm_precision_20


def curves_of_files(pred, anno, absent=None, one_based=False, removes=True):
    pred, anno = np.array(pred, float), np.array(anno, float)
    track = make_track(anno, len(anno), one_based=one_based, absent=absent)
    shift = [1.0, 1.0, 0.0, 0.0] if one_based else [0.0] * 4
    how = {"removes": removes, "one_based": one_based}
    return matlab_curves(xywh_to_xyxy(pred - shift), track.boxes, track.flagged, **how)


@pytest.mark.parametrize(
    ("last", "absent"), [(ABSENT, None), ([10, 10, 20, 20], [0, 0, 0, 1]), ([1, 1, 0, 0], [0, 0, 0, 1])]
)
def test_a_frame_without_the_object_is_a_miss_even_with_a_box_and_still_counted(last, absent):
    anno = [[10, 10, 20, 20]] * 3 + [last]
    flags = None if absent is None else np.array(absent)
    assert scores_of([anno[0]] * 4, anno, flags, one_based=True) == pytest.approx((20 / 21 * 0.75, 0.75, 0.75))


@pytest.mark.parametrize("last", [ABSENT, [0, 10, 20, 20], [10, 10, 20, 0], [math.nan] * 4])
def test_a_toolkit_without_flags_has_a_hit_in_precision_where_a_value_is_not_positive(last):
    anno = [[10, 10, 20, 20]] * 3 + [last]
    curves = curves_of_files([anno[0]] * 4, anno, removes=False)
    assert (curves.auc, curves.precision_20, curves.norm_precision_20) == pytest.approx((20 / 21 * 0.75, 1.0, 1.0))


@pytest.mark.parametrize("corner", [(0, 10), (10, 0), (-3, 10), (0, 0)])
def test_a_box_at_the_border_is_a_miss_in_success_and_a_hit_in_precision(corner):
    anno = [[10, 10, 20, 20]] * 3 + [[*corner, 20, 20]]
    far = [[10, 10, 20, 20]] * 3 + [[900, 900, 20, 20]]
    for pred in (anno, far):
        assert scores_of(pred, anno) == pytest.approx((20 / 21 * 0.75, 1.0, 1.0))


def test_validity_is_judged_by_the_values_in_the_file():
    first_pixel = [[10, 10, 20, 20], [1, 1, 20, 20]]
    assert scores_of(first_pixel, first_pixel, one_based=True)[0] == pytest.approx(20 / 21)
    outside = [[10, 10, 20, 20], [0, 10, 20, 20]]
    assert scores_of(outside, outside, one_based=True)[0] == pytest.approx(20 / 21 / 2)
    assert scores_of(first_pixel, first_pixel)[0] == pytest.approx(20 / 21)


def test_an_annotation_that_is_a_slip_is_a_hit_in_precision():
    # The three of LaSOT test: tiger-6, lion-5, microphone-6.
    for slip in ([613, 731, 247, -11], [1, 1, -1, -1], [1, 1, 0, 0]):
        anno = [[10, 10, 20, 20], slip]
        unflagged = np.zeros(2)
        assert scores_of([anno[0]] * 2, anno, unflagged, one_based=True) == pytest.approx((10 / 21, 1.0, 1.0))


@pytest.mark.parametrize("bad", [[0, 0, 0, 0], [5, 5, -4, 9], [5, 5, 9, 0], [math.nan] * 4])
def test_rows_that_are_no_box_repeat_the_one_before(bad):
    anno = [[10, 10, 20, 20]] * 4
    pred = [anno[0], [13, 10, 20, 20], bad, bad]
    held = [anno[0], *[[13, 10, 20, 20]] * 3]
    assert all(map(np.array_equal, curves_of_files(pred, anno), curves_of_files(held, anno)))


def test_rows_are_repaired_before_the_first_becomes_the_given_one():
    anno = [[10, 10, 20, 20]] * 2
    curves = curves_of_files([[500, 500, 20, 20], ABSENT], anno)
    assert curves.success[10] == 0.5 and curves.precision_20 == 0.5


def test_a_row_is_not_repaired_where_the_annotation_is_not_a_number():
    anno = [[10, 10, 20, 20], [math.nan] * 4, [10, 10, 20, 20]]
    curves = curves_of_files([anno[0], ABSENT, ABSENT], anno)
    assert curves.success[10] == pytest.approx(1 / 3)  # the third repeats the second, which is kept


def test_a_sequence_of_five_frames_is_scored():
    anno = [[10, 10, 20, 20], [12, 10, 20, 20], ABSENT, ABSENT, [14, 10, 20, 20]]
    assert scores_of(anno, anno, one_based=True) == pytest.approx((20 / 21 * 0.6, 0.6, 0.6))


def test_ceilings_of_a_perfect_tracker_differ_from_the_published_as_the_frames_do():
    # As in TNL2K: absent ones, boxes over the border, and slips.
    frames, absent, border, slips = 200, 16, 6, 2
    anno = np.tile([30.0, 30, 20, 10], (frames, 1))
    anno[100 : 100 + absent] = 0
    anno[150 : 150 + border, 0] = 0
    anno[180 : 180 + slips, 2] = 0
    track = make_track(anno, frames)
    ours = matlab_curves(track.boxes, track.boxes, track.flagged, removes=True, one_based=False)
    published = ope_curves(track.boxes, track.boxes, track.visible, convention_of("tnl2k"))
    assert ours.auc == pytest.approx(20 / 21 * (frames - absent - border - slips) / frames)
    assert published.auc == pytest.approx(20 / 21 * (frames - absent - slips) / frames)
    assert ours.precision_20 == ours.norm_precision_20 == (frames - absent) / frames
    assert published.precision_20 == (frames - absent - slips) / frames
    assert published.norm_precision_20 == 1.0


def test_without_absence_and_border_it_is_the_published_convention():
    rng = np.random.default_rng(0)
    anno = np.concatenate([rng.uniform(5, 90, (50, 2)), rng.uniform(5, 40, (50, 2))], axis=1)
    pred = anno + rng.uniform(-4, 4, (50, 4))
    truth, boxes, visible = xywh_to_xyxy(anno), xywh_to_xyxy(pred), np.ones(50, bool)
    ours = matlab_curves(boxes, truth, ~visible, removes=True, one_based=True)
    published = ope_curves(boxes, truth, visible, convention_of("lasot"))
    assert all(map(np.array_equal, ours, published))


def test_a_zero_curve_is_left_out_of_its_mean_and_of_no_other():
    lost = Curves(np.zeros(21), np.full(51, 0.5), np.zeros(51))
    found = Curves(np.full(21, 0.8), np.full(51, 0.7), np.full(51, 0.6))
    mean = matlab_mean([lost, found])
    assert (mean.auc, mean.precision_20, mean.norm_precision_20) == pytest.approx((0.8, 0.6, 0.6))
    assert matlab_mean([lost, lost]).auc == 0.0


def by_hand(pred, anno, absent, normalised):
    """Return one sequence's overlaps and errors, a frame at a time; absent frames are not there."""
    pred = [list(row) for row in pred]
    for i in range(1, len(pred)):
        if any(map(math.isnan, pred[i])) or pred[i][2] <= 0 or pred[i][3] <= 0:
            pred[i] = list(pred[i - 1])
    pred[0] = list(anno[0])
    overlap, error = [], []
    for p, g, gone in zip(pred, anno, absent, strict=True):
        if gone:
            continue
        if min(g) <= 0:
            overlap.append(-1.0)
            error.append(-1.0)
            continue
        shared = 1.0
        offsets = []
        for axis in (0, 1):
            right = min(p[axis] + p[axis + 2], g[axis] + g[axis + 2])
            shared *= max(0.0, right - max(p[axis], g[axis]))
            offset = p[axis] + (p[axis + 2] - 1) / 2 - g[axis] - (g[axis + 2] - 1) / 2
            offsets.append(offset / g[axis + 2] if normalised else offset)
        overlap.append(shared / (p[2] * p[3] + g[2] * g[3] - shared))
        error.append(math.hypot(*offsets))
    return np.array(overlap), np.array(error)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_curves_are_those_of_frames_taken_one_by_one(seed, one_based):
    rng = np.random.default_rng(seed)
    frames = int(rng.integers(5, 40))
    anno = rng.integers([-2, -2, 1, 1], [30, 30, 25, 25], (frames, 4)).astype(float)
    pred = anno + rng.integers(-6, 7, (frames, 4))
    anno[0] = [5, 5, 20, 20]
    pred[0] = anno[0]
    absent = rng.random(frames) < 0.2
    absent[0] = False
    anno[absent & (rng.random(frames) < 0.5)] = 0
    ours = curves_of_files(pred, anno, absent, one_based)
    overlap, centre = by_hand(pred, anno, absent, normalised=False)
    _, norm = by_hand(pred, anno, absent, normalised=True)
    # Within rounding of a threshold either side is right.
    for values, thresholds, curve in (
        (-overlap, -np.arange(21) / 20, ours.success),  # over is below of the negative
        (centre, np.arange(51), ours.precision),
        (norm, np.arange(51) / 100, ours.norm_precision),
    ):
        for threshold, share in zip(thresholds, curve, strict=True):
            low, high = (values < threshold - 1e-9).sum(), (values < threshold + 1e-9).sum()
            assert low <= round(share * frames) <= high
