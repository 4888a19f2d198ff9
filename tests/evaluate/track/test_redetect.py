"""A lost object is sought over the frame and taken back, by a network that sees what is bright."""

import json
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from lorat.evaluate.cli import main
from lorat.evaluate.track.batch import Work, track_clips
from lorat.evaluate.track.predictor import Found, Predictor
from lorat.evaluate.track.seek import places_of
from lorat.evaluate.track.tracker import Tracker
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.shards.pixels.geometry import xyxy_to_xywh

SIZE, SIDE = (320, 240), 16
GONE, BACK, COUNT = 4, 9, 64


def box_of(index: int) -> np.ndarray:
    """A box that leaves in one corner and comes back in the other."""
    x, y = (10.0 + index, 10.0) if index < GONE else (280.0, 200.0)
    return np.array([x, y, x + SIDE, y + SIDE])


def frame_of(index: int) -> np.ndarray:
    frame = np.full((SIZE[1], SIZE[0], 3), 60, np.uint8)
    if not GONE <= index < BACK:
        x, y = box_of(index)[:2].astype(int)
        frame[y : y + SIDE, x : x + SIDE] = 255
    return frame


@pytest.fixture
def sighted(small) -> Callable[[str], Predictor]:
    """A tracker of a method that boxes what is bright in a crop, and is sure of it if there is something."""

    def predict(memory, crops, state=None):
        rows = np.zeros((len(crops), 10))
        for row, crop in zip(rows, crops, strict=True):
            ys, xs = np.nonzero(crop[..., 1] > 180)
            seen = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, 0.8) if len(xs) else (24, 24, 40, 40, 0.1)
            row[:5] = row[5:] = seen
        return Found(rows, None if state is None else state + 1)

    def build(method: str = "lorat") -> Predictor:
        predictor = small(method)
        predictor.predict = predict
        return predictor

    return build


def track(predictor: Predictor):
    tracker = Tracker(predictor)
    tracker.start(frame_of(0), box_of(0))
    return tracker, [tracker.track(frame_of(index)) for index in range(1, COUNT)]


def test_an_object_that_comes_back_elsewhere_is_found_only_if_it_is_sought(sighted):
    predictor = sighted()
    _, found = track(predictor)
    states = ["tracked"] * (GONE - 1) + ["unsure"] + ["lost"] * (COUNT - GONE - 1)
    assert [each.state for each in found] == states
    predictor.seeks = True
    _, found = track(predictor)
    again = [each.state for each in found].index("tracked", GONE)
    turns = 2 * len(places_of(SIZE, 1.5 * 4 * SIDE, np.zeros(2)))
    assert BACK <= again <= GONE + 20 + turns + 2
    assert [each.state for each in found[again:]] == ["tracked"] * (COUNT - 1 - again)
    np.testing.assert_allclose(found[-1].box, box_of(COUNT), atol=3)


def test_what_is_seen_elsewhere_is_not_learnt_unless_it_is_the_object(sighted):
    """As SPMTrack shows, which learns from every frame."""
    predictor = sighted("spmtrack")
    tracker, _ = track(predictor)
    assert tracker.state.kept.count == COUNT - 1
    predictor.seeks = True
    tracker, found = track(predictor)
    # After a while every other look is elsewhere, and the last finds it.
    missed = ([each.state for each in found].count("lost") - 20) // 2 - 1
    assert missed > 0 and tracker.state.kept.count == COUNT - 1 - missed
    assert float(tracker.state.kept.state[0, 0]) == COUNT - 1 - missed


def test_side_by_side_objects_are_sought_as_alone(sighted, tmp_path):
    predictor = sighted()
    predictor.seeks = True
    for index in range(COUNT):
        cv2.imwrite(str(tmp_path / f"{index + 1:08d}.png"), frame_of(index))
    clips = []
    for number, length in enumerate((COUNT, 7, COUNT - 9, 3, COUNT - 20)):
        boxes = np.stack([box_of(index) for index in range(length)])
        files = FrameFiles(tmp_path, range(1, length + 1), "%08d.png")
        clips.append(Clip("got10k", "val", f"s{number}", files, (Track(boxes, np.ones(length, bool)),), length))
    _, found = track(predictor)
    for end in track_clips(predictor, [Work(clip) for clip in clips], batch=3, threads=2):
        boxes, states = end.result.boxes[1:], end.result.states[1:].tolist()
        np.testing.assert_allclose(boxes, xyxy_to_xywh(np.stack([each.box for each in found[: len(boxes)]])))
        assert states == [each.state for each in found[: len(boxes)]]


@given(st.integers(20, 2000), st.integers(20, 2000), st.floats(10, 900), st.floats(0, 1), st.floats(0, 1))
def test_places_cover_the_frame_and_the_nearest_comes_first(width, height, side, x, y):
    near = np.array([x * width, y * height])
    places = places_of((width, height), side, near)
    distance = np.hypot(*(places - near).T)
    assert (np.diff(distance) >= 0).all()
    for point in np.stack(np.meshgrid([0, x * width, width], [0, y * height, height]), -1).reshape(-1, 2):
        assert (np.abs(places - point).max(axis=1) <= side / 2 + 1e-6).any()


def test_results_with_and_without_seeking_do_not_mix(tiny_weights, got10k_raw, tmp_path):
    fixed = ["--weights", str(tiny_weights), "--raw", str(got10k_raw), "--dtype=float32", "--device=cpu", "--no-video"]
    fixed += [f"--out={tmp_path / 'out'}", "--datasets=got10k-val", "--limit=1"]
    assert CliRunner().invoke(main, [*fixed, "--redetect"]).exit_code == 0
    assert json.loads((tmp_path / "out/metrics.json").read_text())["tracker"]["redetect"] is True
    refused = CliRunner().invoke(main, fixed)
    assert refused.exit_code == 2 and "--redetect" in refused.stderr
