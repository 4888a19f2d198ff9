"""Pairs are pure functions of their number, uniform over sequences, and near in time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from lorat.prep.pairs import MAX_GAP, draw_pair, object_frames
from lorat.prep.trees.clip import Clip, FrameFiles, Track


def clip(name: str, visible: list[bool], tracks: int = 1) -> Clip:
    flags = np.array(visible)
    boxes = np.where(flags[:, None], [1.0, 2.0, 30.0, 40.0], np.nan)
    files = FrameFiles(Path("/nowhere"), range(len(visible)), "%d.jpg")
    return Clip("toy", "train", name, files, (Track(boxes, flags),) * tracks, len(visible))


def test_a_pair_depends_on_its_number_alone():
    clips = [clip("a", [True] * 50), clip("b", [True] * 300)]
    forwards = [draw_pair(clips, "toy-train", 42, i) for i in range(50)]
    backwards = [draw_pair(clips, "toy-train", 42, i) for i in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert forwards != [draw_pair(clips, "toy-train", 43, i) for i in range(50)]
    assert forwards != [draw_pair(clips, "toy-val", 42, i) for i in range(50)]


def test_sequences_are_drawn_equally_however_long():
    clips = [clip("short", [True] * 2), clip("long", [True] * 2000), clip("still", [True])]
    counts = Counter(draw_pair(clips, "toy-train", 1, i).clip for i in range(3000))
    assert all(900 < counts[i] < 1100 for i in range(3))


def test_frames_are_visible_near_and_different_where_they_can_be():
    rng = np.random.default_rng(0)
    clips = [clip("a", (rng.random(400) < 0.3).tolist()), clip("b", [False, True, False])]
    for i in range(800):
        pair = draw_pair(clips, "toy-train", 5, i)
        visible = clips[pair.clip].tracks[pair.track].visible
        assert visible[pair.template] and visible[pair.search]
        assert abs(pair.template - pair.search) <= MAX_GAP
        assert (pair.template == pair.search) == (pair.clip == 1)


def test_every_other_frame_in_reach_is_drawn():
    clips = [clip("a", [True] * 5)]
    seen = {(p.template, p.search) for p in (draw_pair(clips, "x", 0, i) for i in range(600))}
    assert seen == {(a, b) for a in range(5) for b in range(5) if a != b}


def test_object_frames_count_every_visible_object():
    assert object_frames([clip("a", [True, False, True], tracks=2), clip("b", [True])]) == 5
