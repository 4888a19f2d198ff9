"""Pairs are pure functions of their number, uniform over sequences, and near in time."""

from collections import Counter
from pathlib import Path

import numpy as np

from lorat.prep.build.plan import most_pairs
from lorat.prep.pairs.crop import CropOptions, search_window, try_jitter
from lorat.prep.pairs.draw import MAX_GAPS, draw_sample
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.shards.pixels.geometry import adjust, crop_transform
from lorat.shards.pixels.jitter import Jitter, _draw_window
from lorat.shards.rng import Draws


def clip(name: str, visible: list[bool], tracks: int = 1) -> Clip:
    flags = np.array(visible)
    boxes = np.where(flags[:, None], [1.0, 2.0, 30.0, 40.0], np.nan)
    files = FrameFiles(Path("/nowhere"), range(len(visible)), "%d.jpg")
    return Clip("toy", "train", name, files, (Track(boxes, flags),) * tracks, len(visible))


def test_a_pair_depends_on_its_number_alone():
    clips = [clip("a", [True] * 50), clip("b", [True] * 300)]
    forwards = [draw_sample(clips, "toy-train", 42, i) for i in range(50)]
    backwards = [draw_sample(clips, "toy-train", 42, i) for i in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert forwards != [draw_sample(clips, "toy-train", 43, i) for i in range(50)]
    assert forwards != [draw_sample(clips, "toy-val", 42, i) for i in range(50)]


def test_sequences_are_drawn_equally_however_long():
    clips = [clip("short", [True] * 2), clip("long", [True] * 2000), clip("still", [True])]
    counts = Counter(draw_sample(clips, "toy-train", 1, i).clip for i in range(3000))
    assert all(900 < counts[i] < 1100 for i in range(3))


def test_frames_are_visible_near_and_different_where_they_can_be():
    rng = np.random.default_rng(0)
    clips = [clip("a", (rng.random(400) < 0.3).tolist()), clip("b", [False, True, False])]
    for i in range(800):
        pair = draw_sample(clips, "toy-train", 5, i)
        visible = clips[pair.clip].tracks[pair.track].visible
        assert visible[pair.templates[0]] and visible[pair.searches[0]]
        assert abs(pair.templates[0] - pair.searches[0]) <= MAX_GAPS["pair"]
        assert (pair.templates[0] == pair.searches[0]) == (pair.clip == 1)


def test_every_other_frame_in_reach_is_drawn():
    clips = [clip("a", [True] * 5)]
    seen = {(p.templates[0], p.searches[0]) for p in (draw_sample(clips, "x", 0, i) for i in range(600))}
    assert seen == {(a, b) for a in range(5) for b in range(5) if a != b}


def test_four_pairs_are_worth_drawing_for_every_visible_object():
    assert most_pairs([clip("a", [True, False, True], tracks=2), clip("b", [True])]) == 4 * 5


def test_the_jitter_trial_agrees_with_the_windows_that_training_draws():
    options = CropOptions()
    rng = np.random.default_rng(3)
    for number, (box, frame) in enumerate(
        [([300, 200, 360, 250], (1280, 720)), ([5, 5, 60, 300], (320, 320)), ([0, 0, 8, 9], (90, 90))]
    ):
        box = np.array(box, dtype=np.float64)
        trials = [try_jitter(box, frame, options, Draws("t", number, i)) for i in range(40)]
        share = sum(t.accepted for t in trials) / sum(t.tried for t in trials)
        nominal = crop_transform(box, 4.0, (224, 224))
        drawn = [_draw_window(box, nominal, 224, rng, Jitter()) for _ in range(2400)]
        assert abs(share - np.mean([ok for _, ok in drawn])) < 0.05
        stored = search_window(box, frame, options)
        sources = [adjust(w, frame, (224, 224)).source for w, ok in drawn if ok]
        leaves = [
            s[0] < stored.origin[0] or s[1] < stored.origin[1] or s[2] > stored.end[0] or s[3] > stored.end[1]
            for s in sources
        ]
        outside = sum(t.outside for t in trials) / sum(t.accepted for t in trials)
        assert abs(outside - np.mean(leaves)) < 0.05


def test_a_smaller_gap_keeps_frames_nearer_and_the_default_is_the_published_one():
    clips = [clip("a", [True] * 300)]
    pairs = [draw_sample(clips, "toy-train", 5, i, max_gap=7) for i in range(400)]
    assert {abs(p.templates[0] - p.searches[0]) for p in pairs} == set(range(1, 8))
    default = [draw_sample(clips, "toy-train", 5, i) for i in range(400)]
    assert default == [draw_sample(clips, "toy-train", 5, i, max_gap=100) for i in range(400)]
    assert max(abs(p.templates[0] - p.searches[0]) for p in default) > 90


def test_the_default_draw_is_what_it_always_was():
    """Computed before there were options: shards that were built then go on."""
    rng = np.random.default_rng(1)
    clips = [clip("a", (rng.random(400) < 0.3).tolist()), clip("c", [True] * 9)]
    drawn = [
        (d.clip, d.track, *d.templates, *d.searches) for d in (draw_sample(clips, "toy-train", 42, i) for i in range(8))
    ]
    assert drawn == [
        (0, 0, 168, 224),
        (0, 0, 247, 154),
        (0, 0, 18, 112),
        (1, 0, 3, 6),
        (1, 0, 2, 8),
        (0, 0, 128, 110),
        (0, 0, 242, 224),
        (1, 0, 8, 3),
    ]


def test_causal_pairs_look_ahead_wherever_a_later_frame_is_in_reach():
    visible = [False, True, True, False, True, False, False, False, False, True]  # frames 1, 2, 4 and 9
    clips = [clip("a", visible), clip("far", [True, *[False] * 40, True]), clip("still", [True])]
    pairs = [draw_sample(clips, "x", 0, i, max_gap=4, causal=True) for i in range(1500)]
    seen = Counter((p.clip, p.templates[0], p.searches[0]) for p in pairs)
    assert set(seen) == {(0, 1, 2), (0, 1, 4), (0, 2, 4), (1, 0, 0), (1, 41, 41), (2, 0, 0)}
    assert abs(seen[0, 1, 2] + seen[0, 1, 4] - seen[0, 2, 4]) < 100  # both templates alike
