"""The join of results and ground truth."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.evaluate.measure.scores import dataset_scores, never_moving_results
from lorat.evaluate.results.files import SequenceResult
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import xywh_to_xyxy, xyxy_to_xywh
from tests.evaluate import boxes

GOLDEN = Path(__file__).parents[2] / "golden"


def clip_of(boxes, visible=None, dataset="lasot", split="test", **changes):
    """A clip of one track; `boxes` are xyxy, a row a frame."""
    n = len(boxes)
    visible = np.ones(n, bool) if visible is None else visible
    fields = {
        "name": "car-1",
        "frames": FrameFiles(Path("frames"), range(1, n + 1), "%08d.jpg"),
        "tracks": (Track(boxes, visible, changes.pop("cover", None), changes.pop("flagged", None)),),
        "annotated": n,
        "size": (500, 400),
    }
    return Clip(dataset=dataset, split=split, **(fields | changes))


def result_of(boxes, name="car-1", seconds=0.02):
    n = len(boxes)
    return SequenceResult(name, xyxy_to_xywh(boxes), np.ones(n), np.full(n, seconds))


boxes_of = partial(boxes.boxes_of, n=20)


def test_scores_of_a_split_equal_the_published_report():
    # The report that the published handler wrote for these sequences as TNL2K test.
    clips, results = [], {}
    with np.load(GOLDEN / "g9_writer_inputs.npz") as arrays:
        for name in ("x1", "x2", "x3"):
            truth, exist = arrays[f"TNL2K/{name}/gt"], arrays[f"TNL2K/{name}/exist"]
            clips.append(clip_of(truth, exist, dataset="tnl2k", name=name))
            results[name] = result_of(arrays[f"TNL2K/{name}/pred"], name)
    scores = dataset_scores(clips, [results])
    expected = [0.5067019429471757, 0.594753086566925, 0.5188271800676981, 0.604629635810852, 0.8922839562098185]
    assert measures(scores)[:5] == pytest.approx(tuple(expected), abs=1e-6)
    assert scores.norm_precision_corrected < scores.curves.norm_precision_20


def test_every_sequence_weighs_the_same_whatever_its_length():
    short, long = boxes_of(0, n=10), boxes_of(1, n=90)
    clips = [clip_of(short, name="a"), clip_of(long, name="b")]
    lost = long + 1000
    lost[0] = long[0]
    scores = dataset_scores(clips, [{"a": result_of(short, "a"), "b": result_of(lost, "b")}])
    assert scores.curves.op50 == pytest.approx((1 + 1 / 90) / 2)
    assert [s.curves.op50 for s in scores.sequences] == pytest.approx([1, 1 / 90])
    assert [s.name for s in scores.sequences] == ["a", "b"]
    assert (scores.dataset, scores.split) == ("lasot", "test")


def test_frames_per_second_are_all_frames_over_all_seconds():
    short, long = boxes_of(0, n=10), boxes_of(1, n=90)
    clips = [clip_of(short, name="a"), clip_of(long, name="b")]
    results = {"a": result_of(short, "a", 0.5), "b": result_of(long, "b", 0.05)}
    scores = dataset_scores(clips, [results])
    assert scores.fps == pytest.approx(100 / 9.5)
    assert [s.fps for s in scores.sequences] == pytest.approx([2, 20])
    results["a"] = result_of(short, "a", np.nan)
    assert dataset_scores(clips, [results]).fps is None


@pytest.mark.parametrize(
    ("dataset", "published", "corrected"),
    [
        ("lasot", 0.75, None),
        ("vasttrack", 0.75, None),
        ("lasot_ext", 1.0, 0.75),
        ("tnl2k", 1.0, 0.75),
        ("uav123", 1.0, 0.75),
    ],
)
def test_a_corrected_value_stands_beside_every_flattering_one(dataset, published, corrected):
    boxes = boxes_of(2)
    visible = np.arange(20) < 15
    clip = clip_of(boxes, visible, dataset=dataset)
    scores = dataset_scores([clip], [{"car-1": result_of(boxes)}])
    assert scores.curves.norm_precision_20 == published
    assert scores.norm_precision_corrected == corrected
    assert scores.sequences[0].invalid_frames == 5
    seen = clip_of(boxes, dataset=dataset)
    assert dataset_scores([seen], [{"car-1": result_of(boxes)}]).norm_precision_corrected is None


def test_sequences_without_absent_frames_enter_the_corrected_mean():
    boxes = boxes_of(2)
    clips = [clip_of(boxes, dataset="tnl2k", name="a"), clip_of(boxes, np.arange(20) < 15, dataset="tnl2k", name="b")]
    scores = dataset_scores(clips, [{name: result_of(boxes, name) for name in "ab"}])
    assert scores.norm_precision_corrected == 0.875


def test_only_annotated_frames_are_scored():
    boxes = boxes_of(3)
    truth = boxes.copy()
    truth[12:] = np.nan
    visible = np.arange(20) < 12
    clip = clip_of(truth, visible, annotated=12)
    (scores,) = dataset_scores([clip], [{"car-1": result_of(boxes)}]).sequences
    assert scores.frames == 12 and scores.curves.op50 == 1.0


def test_a_split_that_hides_its_ground_truth_has_no_scores():
    truth = np.full((20, 4), np.nan)
    truth[0] = [10, 20, 30, 40]
    hidden = clip_of(truth, np.arange(20) < 1, dataset="got10k", annotated=1)
    assert dataset_scores([hidden], [{}]) is None
    seen = clip_of(boxes_of(4), dataset="got10k", name="seen")
    scores = dataset_scores([hidden, seen], [{"seen": result_of(boxes_of(4), "seen")}])
    assert scores.unscored == ("car-1",) and len(scores.sequences) == 1


def test_missing_and_short_results_are_refused_by_name():
    clip = clip_of(boxes_of(5))
    with pytest.raises(UserError, match=r"lasot-test: 1 of 1 sequences have no result.*car-1"):
        dataset_scores([clip], [{}])
    with pytest.raises(UserError, match=r"car-1 has 19 boxes for 20 annotated frames"):
        dataset_scores([clip], [{"car-1": result_of(boxes_of(5)[:19])}])


def test_the_toolkits_measures_join_where_the_ground_truth_allows():
    boxes = boxes_of(6)
    val = clip_of(boxes, dataset="got10k", split="val", cover=np.full(20, 8))
    scores = dataset_scores([val], [{"car-1": result_of(boxes)}])
    assert scores.got10k.ao == pytest.approx(1.0) and scores.got10k.frames == 19
    assert scores.trackingnet is None
    train = clip_of(boxes, dataset="trackingnet", split="train")
    scores = dataset_scores([train], [{"car-1": result_of(boxes)}])
    assert scores.trackingnet.success == pytest.approx(1.0) and scores.got10k is None


def test_the_baseline_repeats_the_first_box_and_has_no_speed():
    boxes = boxes_of(7)
    results = never_moving_results([clip_of(boxes)])
    np.testing.assert_allclose(xywh_to_xyxy(results["car-1"].boxes), boxes[[0] * 20])
    scores = dataset_scores([clip_of(boxes)], [results])
    assert scores.fps is None and 1 / 21 < scores.curves.auc < 1


def measures(scores):
    c = scores.curves
    corrected = scores.norm_precision_corrected
    return (c.auc, c.op50, c.op75, c.precision_20, c.norm_precision_20, corrected)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["lasot", "lasot_ext", "tnl2k", "uav123"]),
    st.sampled_from(["published", "matlab"]),
)
def test_scores_of_runs_are_the_mean_of_each_runs_scores(seed, dataset, convention):
    rng = np.random.default_rng(seed)
    clips, runs = [], [{}, {}, {}]
    for name in "ab":
        truth = boxes_of(rng.integers(10**6), n=int(rng.integers(5, 30)))
        visible = rng.random(len(truth)) < 0.8
        clips.append(clip_of(truth, visible, dataset=dataset, name=name))
        for run in runs:
            run[name] = result_of(truth + rng.normal(0, 8, (len(truth), 1)), name)
    together = dataset_scores(clips, runs, convention)
    alone = [dataset_scores(clips, [run], convention) for run in runs]
    assert (together.runs, alone[0].runs) == (3, 1)
    for mean, *values in zip(measures(together), *map(measures, alone), strict=True):
        if mean is None:
            assert values == [None] * 3
        else:
            assert mean == pytest.approx(np.mean(values), abs=1e-12)
    for mean, *curves in zip(together.curves, *(scores.curves for scores in alone), strict=True):
        np.testing.assert_allclose(mean, np.mean(curves, axis=0), atol=1e-12)


def test_equal_runs_score_as_one_to_the_last_bit():
    clips = [clip_of(boxes_of(seed, n=30), name=f"car-{seed}") for seed in (1, 2)]
    run = {clip.name: result_of(boxes_of(9, n=30), clip.name) for clip in clips}
    one, two = dataset_scores(clips, [run]), dataset_scores(clips, [run, run])
    assert measures(one) == measures(two)
    np.testing.assert_array_equal(one.curves.success, two.curves.success)


def test_frames_of_all_runs_are_pooled_where_frames_are():
    boxes = boxes_of(6)
    lost = boxes + 1000
    lost[0] = boxes[0]
    val = clip_of(boxes, dataset="got10k", split="val", cover=np.full(20, 8))
    runs = [{"car-1": result_of(boxes, seconds=0.5)}, {"car-1": result_of(lost, seconds=0.1)}]
    scores = dataset_scores([val], runs)
    assert scores.got10k.ao == pytest.approx(0.5) and scores.got10k.frames == 38
    assert scores.got10k.speed == pytest.approx((2 + 10) / 2)
    assert scores.fps == pytest.approx(40 / 12)
    runs[1] = {"car-1": result_of(lost, seconds=np.nan)}
    assert dataset_scores([val], runs).got10k.speed == pytest.approx(2)
    assert dataset_scores([val], runs[1:]).got10k.speed is None


def test_trackingnets_areas_are_of_the_mean_over_runs_and_sequences():
    boxes = boxes_of(6)
    lost = boxes + 1000
    lost[0] = boxes[0]
    clip = clip_of(boxes, dataset="trackingnet", split="train")
    runs = [{"car-1": result_of(boxes)}, {"car-1": result_of(lost)}]
    scores = dataset_scores([clip], runs).trackingnet
    assert scores.precision == pytest.approx((1 + 1 / 20) / 2)


def test_a_sequence_that_one_run_lacks_is_named():
    clips = [clip_of(boxes_of(1), name=name) for name in "ab"]
    run = {name: result_of(boxes_of(1), name) for name in "ab"}
    with pytest.raises(UserError, match=r"1 of 2 sequences have no result in every run.* b;"):
        dataset_scores(clips, [run, {"a": run["a"]}])


@pytest.mark.parametrize(
    ("dataset", "one_based"),
    [("lasot", True), ("lasot_ext", False), ("tnl2k", False), ("vasttrack", True), ("otb", False), ("uav123", False)],
)
def test_the_matlab_convention_judges_the_values_on_disk(dataset, one_based):
    boxes = boxes_of(2)
    boxes[5] = [0, 50, 40, 90]  # x is 1 on disk where pixels count from 1 there
    boxes[6] = [-1, 50, 40, 90]
    clip = clip_of(boxes, dataset=dataset)
    scores = dataset_scores([clip], [{"car-1": result_of(boxes)}], "matlab")
    assert scores.convention == "matlab"
    assert scores.curves.auc == pytest.approx(20 / 21 * (0.95 if one_based else 0.9))
    assert scores.curves.precision_20 == scores.curves.norm_precision_20 == 1.0


def test_the_matlab_convention_has_nothing_to_correct():
    there = np.arange(20) < 15
    clip = clip_of(boxes_of(2), there, dataset="lasot_ext", flagged=~there)
    scores = dataset_scores([clip], [{"car-1": result_of(boxes_of(2))}], "matlab")
    assert (scores.curves.norm_precision_20, scores.norm_precision_corrected) == (0.75, None)


@pytest.mark.parametrize("dataset", ["got10k", "nfs30", "trackingnet"])
def test_sets_whose_matlab_rules_are_not_known_are_scored_as_published(dataset):
    boxes = boxes_of(2)
    clip = clip_of(boxes, np.arange(20) < 15, dataset=dataset, split="val")
    runs = [{"car-1": result_of(boxes_of(3))}]
    asked, published = dataset_scores([clip], runs, "matlab"), dataset_scores([clip], runs)
    assert asked.convention == published.convention == "published"
    assert measures(asked) == measures(published)


def test_a_lost_sequence_is_dropped_from_the_matlab_mean_alone():
    # Frame 1 is given, so only an invalid one leaves the curve at zero.
    truth, found = boxes_of(1), boxes_of(2)
    truth[:, 0] = -1.0
    clips = [clip_of(truth, name="lost", dataset="tnl2k"), clip_of(found, name="b", dataset="tnl2k")]
    run = {"lost": result_of(truth, "lost"), "b": result_of(found, "b")}
    scores = dataset_scores(clips, [run], "matlab")
    assert scores.sequences[0].curves.auc == 0.0
    assert scores.curves.auc == scores.sequences[1].curves.auc == pytest.approx(20 / 21)
    assert scores.curves.precision_20 == 1.0


@pytest.mark.parametrize("convention", ["published", "matlab"])
def test_attributes_are_scored_over_the_sequences_that_have_them(convention):
    good, bad = boxes_of(1), boxes_of(2)
    clips = [clip_of(good, name="airplane-1"), clip_of(bad, name="airplane-9")]
    results = [result_of(good, "airplane-1"), result_of(bad[[0] * 20], "airplane-9")]
    scores = dataset_scores(clips, [{r.name: r for r in results}], convention)
    by_code = {item.code: item for item in scores.attributes}
    assert {code: item.sequences for code, item in by_code.items()} == {
        **{"IV": 1, "POC": 2, "ROT": 2, "SV": 2, "LR": 2, "ARC": 1}
    }
    assert by_code["SV"].curves.auc == scores.curves.auc
    assert by_code["IV"].curves.auc == scores.sequences[1].curves.auc
    np.testing.assert_array_equal(by_code["IV"].curves.success, scores.sequences[1].curves.success)
    mine = dataset_scores([clip_of(good)], [{"car-1": result_of(good)}])
    assert mine.attributes == ()
