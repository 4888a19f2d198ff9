from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorat.prep.annotations.cleaning import clean
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track

SIZE = (100, 80)
INSIDE, OUTSIDE = (10, 10, 30, 30), (120, 10, 140, 30)


def clip_of(*tracks, covers=None):
    built = []
    for rows in tracks:
        boxes = np.array([row if row else (np.nan,) * 4 for row in rows], dtype=float)
        built.append(Track(boxes, np.isfinite(boxes).all(axis=1), covers))
    count = len(built[0].boxes)
    frames = FrameFiles(Path("seq"), range(1, count + 1), "%08d.jpg")
    return Clip("lasot", "train", "a-1", frames, tuple(built), count)


def test_boxes_are_cut_at_the_frame():
    cleaned = clean(clip_of([(-5, -5, 30, 200)]), SIZE)
    np.testing.assert_array_equal(cleaned.tracks[0].boxes, [[0, 0, 30, 80]])


def test_a_box_outside_or_on_the_border_becomes_invisible():
    cleaned = clean(clip_of([INSIDE, OUTSIDE, (100, 0, 110, 20), (-9, -9, 0, 20), INSIDE]), SIZE)
    assert cleaned.tracks[0].visible.tolist() == [True, False, False, False, True]
    assert np.isnan(cleaned.tracks[0].boxes[1:4]).all()


def test_an_absent_frame_is_never_revived():
    clip = clip_of([INSIDE, INSIDE, INSIDE])
    clip.tracks[0].visible[1] = False
    cleaned = clean(clip, SIZE)
    assert cleaned.tracks[0].visible.tolist() == [True, False, True]
    assert np.isnan(cleaned.tracks[0].boxes[1]).all()


def test_head_and_tail_are_cut_and_interior_gaps_stay():
    covers = np.arange(7)
    cleaned = clean(clip_of([None, OUTSIDE, INSIDE, None, INSIDE, None, None], covers=covers), SIZE)
    assert [path.name for path in cleaned.frames] == [f"{i:08d}.jpg" for i in (3, 4, 5)]
    assert cleaned.tracks[0].visible.tolist() == [True, False, True]
    assert cleaned.tracks[0].cover.tolist() == [2, 3, 4]
    assert (cleaned.annotated, cleaned.first) == (3, 2)


def test_the_span_is_that_of_all_tracks_together():
    cleaned = clean(clip_of([INSIDE, None, None, None], [None, None, INSIDE, None]), SIZE)
    assert len(cleaned.frames) == 3
    assert [track.visible.tolist() for track in cleaned.tracks] == [[True, False, False], [False, False, True]]


def test_tracks_without_a_visible_frame_go():
    cleaned = clean(clip_of([OUTSIDE], [INSIDE]), SIZE)
    assert len(cleaned.tracks) == 1
    np.testing.assert_array_equal(cleaned.tracks[0].boxes, [INSIDE])


@pytest.mark.parametrize(("rows", "size"), [([OUTSIDE, None], SIZE), ([INSIDE], (0, 80))])
def test_nothing_left_is_none_also_in_a_frame_of_size_zero(rows, size):
    assert clean(clip_of(rows), size) is None


coordinate = st.floats(-50, 150)


@given(st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), min_size=1, max_size=8))
def test_cleaning_keeps_its_promise_changes_no_argument_and_is_idempotent(rows):
    clip = clip_of([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in rows])
    before = clip.tracks[0].boxes.copy()
    cleaned = clean(clip, SIZE)
    np.testing.assert_array_equal(clip.tracks[0].boxes, before)
    if cleaned is None:
        return
    (track,) = cleaned.tracks
    boxes = track.boxes[track.visible]
    assert track.visible[0] and track.visible[-1]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= SIZE).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert np.isnan(track.boxes[~track.visible]).all()
    assert len(cleaned.frames) == len(track.boxes)
    np.testing.assert_array_equal(clean(cleaned, SIZE).tracks[0].boxes, track.boxes)
