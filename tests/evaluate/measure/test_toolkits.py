"""The measures of GOT-10k's and TrackingNet's toolkits."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.evaluate.measure.toolkits import got10k_overlaps, got10k_scores, trackingnet_curves, trackingnet_scores
from lorat.shards.pixels.geometry import xywh_to_xyxy
from tests.evaluate.boxes import boxes_of, moved

GOLDEN = Path(__file__).parents[2] / "golden"


def read_got10k_tree():
    """Yield (name, result boxes, truth, cover, size, times) of the golden val tree."""
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
                table(f"{out}/{name}_time.txt"),
            )


def test_got10k_scores_equal_the_toolkits_report():
    report = json.loads((GOLDEN / "g8_got10k_toolkit.json").read_text())
    values, times = [], []
    for name, pred, truth, cover, size, seconds in read_got10k_tree():
        values.append(got10k_overlaps(pred, truth, cover, size))
        times.append(seconds)
        alone, expected = got10k_scores(values[-1:], times[-1:]), report["T"]["seq_wise"][name]
        wanted = [expected[key] for key in ("ao", "sr", "speed_fps")]
        assert [alone.ao, alone.sr50, alone.speed] == pytest.approx(wanted, abs=1e-9)
    scores, expected = got10k_scores(values, times), report["_derived"]
    wanted = [expected[key] for key in ("AO", "SR0.5", "SR0.75 (succ_curve[75], strict >)")]
    wanted.append(report["T"]["overall"]["speed_fps"])
    assert [scores.ao, scores.sr50, scores.sr75, scores.speed] == pytest.approx(wanted, abs=1e-9)


def test_got10k_counts_equal_runs_again_without_a_change():
    values = [got10k_overlaps(*rest[:4]) for _, *rest in read_got10k_tree()]
    once, thrice = got10k_scores(values), got10k_scores(values * 3)
    assert thrice.frames == 3 * once.frames
    assert (thrice.sr50, thrice.sr75) == (once.sr50, once.sr75)
    assert thrice.ao == pytest.approx(once.ao, abs=1e-12)


def test_got10k_speed_is_the_mean_of_each_frames_rate():
    times = [np.array([0.5, 0.1, 0.0, np.nan]), np.array([-1.0, 0.1])]
    assert got10k_scores([np.ones(5)], times).speed == pytest.approx((2 + 10 + 10) / 3)
    assert got10k_scores([np.ones(5)], [np.full(5, np.nan)]).speed is None
    assert got10k_scores([np.ones(5)]).speed is None


def test_got10k_pools_frames_not_sequences_and_has_no_score_without_any():
    scores = got10k_scores([np.ones(30), np.zeros(10)])
    assert (scores.ao, scores.sr50, scores.frames) == (0.75, 0.75, 40)
    assert np.isnan(got10k_scores([np.zeros(0)]).ao)


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
    assert all(map(np.array_equal, (pred, truth), before))


def test_trackingnet_scores_a_perfect_tracker_1_and_gives_a_lost_one_threshold_zero():
    truth = boxes_of(11, 1000)
    scores = trackingnet_scores([trackingnet_curves(truth, truth)])
    assert (scores.success, scores.precision, scores.norm_precision) == (1.0, 1.0, 1.0)
    scores = trackingnet_scores([trackingnet_curves(truth + 5000, truth)])
    assert scores.success == pytest.approx(0.025 + 0.975 / 1000)  # the first frame is given
    assert scores.precision == pytest.approx(1 / 1000)


def test_trackingnet_rounds_halves_to_even_before_it_compares():
    truth = np.array([[0.0, 0, 10, 10]] * 2)
    pred = moved(truth, 0.5)
    assert trackingnet_curves(pred, truth).success[-1] == 1.0
    assert trackingnet_curves(moved(pred, 1), truth).precision[0] == 0.5


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_trackingnet_rounds_what_the_file_says_whatever_the_arithmetic(seed):
    # x + w - x is not always w, and a half that is not one rounds the other way.
    rng = np.random.default_rng(seed)
    truth = np.round(rng.uniform(10, 300, (20, 4)), 2)
    pred = np.round(rng.uniform(10, 300, (20, 4)), 2)
    pred[:, 2:] = np.floor(pred[:, 2:]) + 0.5
    ours = trackingnet_curves(xywh_to_xyxy(pred), xywh_to_xyxy(truth))
    whole = trackingnet_curves(xywh_to_xyxy(np.round(pred)), xywh_to_xyxy(np.round(truth)))
    assert all(map(np.array_equal, ours, whole))


def test_trackingnet_never_counts_a_frame_whose_annotation_has_no_size_as_near():
    truth = np.array([[0.0, 0, 10, 10], [5, 5, 5, 15]])
    curves = trackingnet_curves(truth + np.array([0.0, 0, 4, 4]), truth)
    assert curves.norm_precision[-1] == 0.5
    assert curves.precision[-1] == 1.0


def test_trackingnet_scores_are_areas():
    truth = np.array([[0.0, 0, 100, 100]] * 2)
    curves = trackingnet_curves(moved(truth, 25), truth)
    scores = trackingnet_scores([curves])
    assert curves.precision.tolist() == [0.5] * 10 + [1.0] * 11
    assert scores.precision == pytest.approx(0.5 * 0.475 + 0.525)
