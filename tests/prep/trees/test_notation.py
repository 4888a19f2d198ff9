"""Boxes in another notation are told from boxes as they should be, whatever is odd about those."""

from pathlib import Path

import numpy as np
import pytest

from lorat.prep.trees.base.clip import Clip, FrameFiles, make_track
from lorat.prep.trees.base.notation import Notation

SIZE = np.array([160.0, 120.0])


def paths(count: int = 12, objects: int = 8, lowest: float = 0.0) -> list[np.ndarray]:
    """(count, 4) x, y, w, h of objects that move through a frame of 160 x 120, and grow."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(objects):
        start, end = rng.uniform(lowest, 1, (2, 2)) * (SIZE - 40)
        side = rng.uniform(8, 25, 2) * np.linspace(1, 1.5, count)[:, None]
        found.append(np.hstack([np.linspace(start, end, count), side]))
    return found


def oddities(rows: list[np.ndarray], one_based: bool = False) -> list[str]:
    return counted(rows, one_based).oddities()


def counted(rows: list[np.ndarray], one_based: bool = False) -> Notation:
    notation = Notation()
    for number, xywh in enumerate(rows):
        frames = FrameFiles(Path("a"), range(len(xywh)), "%d.jpg")
        track = make_track(xywh, len(xywh), one_based=one_based)
        notation.add(Clip("toy", "train", f"s{number}", frames, (track,), len(xywh)), (160, 120))
    return notation


def normalised(xywh: np.ndarray) -> np.ndarray:
    return np.hstack([(xywh[:, :2] + xywh[:, 2:] / 2) / SIZE, xywh[:, 2:] / SIZE])


def corners(xywh: np.ndarray) -> np.ndarray:
    return np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])


@pytest.mark.parametrize("one_based", [False, True])
def test_normalised_boxes_and_corners_are_told_in_a_set_and_in_a_tenth_of_one(one_based):
    rows = paths()
    (what,) = oddities([normalised(each) for each in rows], one_based)
    assert "96 of 96 visible boxes have both sides below two pixels, such as in s0" in what
    assert "96 of them is above 1: normalised?" in what
    (what,) = oddities([*paths(objects=11), normalised(rows[0])], one_based)
    assert "12 of 144" in what and "s11" in what
    (what,) = oddities([corners(each) for each in rows], one_based)
    assert "96 would fit into the image as two corners: corners instead of sizes?" in what
    (tiny,) = oddities([np.hstack([each[:, :2], np.ones((12, 2))]) for each in rows])
    assert "both sides below two pixels" in tiny and "normalised" not in tiny


def test_corners_that_stay_in_the_frame_are_told_by_how_they_move():
    x = np.arange(12.0) * 2
    boxes = np.stack([20 + x, 10 + x, 30 + x, 30 + x], 1)  # no reading as sizes leaves the frame
    (what,) = oddities([boxes])
    assert what.startswith("width and height grow and shrink with x and y in 12 visible boxes, 12 would fit into")
    assert what.endswith("as two corners: corners instead of sizes?")
    (what,) = oddities([box[None] for box in boxes])  # stills, as COCO's, are compared with each other
    assert "12 visible boxes" in what and "corners" in what
    assert not oddities([box[None] for box in boxes[:11]])


def test_of_stills_the_odd_are_told_and_the_large_are_not():
    stills = [row[None] for each in paths() for row in each]
    assert "reach beyond" in oddities([corners(row) for row in stills])[0]
    place = np.random.default_rng(1).uniform(2, 20, (40, 2))
    big = [np.array([[*low, *(SIZE - 2 * low)]]) for low in place]  # as well a box as corners
    assert not oddities(stills) and not oddities(big)


def whole_frame() -> list[np.ndarray]:
    return [np.tile([0.0, 0.0, 160.0, 120.0], (12, 1))]


def beyond_the_frame() -> list[np.ndarray]:
    """Objects that leave it over the right border: 582 frames of VastTrack's test set."""
    return [np.hstack([np.linspace((100, 40), (158, 40), 12), np.full((12, 2), 30.0)]), *paths(objects=3, lowest=0.5)]


def left_of_the_frame() -> list[np.ndarray]:
    """x and y at or below 0: 14,555 frames of TNL2K's."""
    return [np.hstack([np.linspace((-20, -5), (30, 30), 12), np.full((12, 2), 25.0)]), *paths(objects=3)]


def approaching() -> list[np.ndarray]:
    """A large object that grows about the centre and beyond the frame on every side."""
    side = np.linspace(0.4, 1.2, 30)[:, None] * SIZE
    return [np.hstack([SIZE / 2 - side / 2, side])]


def with_slivers() -> list[np.ndarray]:
    """Objects that the border cuts to a pixel of width, as TrackingNet's interpolated boxes."""
    return [np.hstack([np.linspace((120, 40), (159, 40), 12), np.full((12, 1), 1.0), np.full((12, 1), 30.0)])]


@pytest.mark.parametrize("make", [paths, whole_frame, beyond_the_frame, left_of_the_frame, approaching, with_slivers])
@pytest.mark.parametrize("one_based", [False, True])
def test_what_official_annotations_hold_is_not_odd(make, one_based):
    assert not oddities(make(), one_based)
    for alone in make():
        assert not oddities([alone], one_based)


@pytest.mark.parametrize("notation", [lambda each: each, normalised, corners])
@pytest.mark.parametrize("make", [paths, whole_frame, beyond_the_frame, left_of_the_frame, approaching, with_slivers])
def test_clips_counted_together_give_what_each_gives_alone(make, notation, monkeypatch):
    rows = [*map(notation, [*make(), *(row[None] for row in make()[0])]), np.full((3, 4), np.nan)]
    together = counted(rows)
    told = together.oddities()
    monkeypatch.setattr("lorat.prep.trees.base.notation._AT_ONCE", 1)
    alone = counted(rows)
    assert told == alone.oddities()
    for name in ("boxes", "small", "unit", "beyond", "corners", "where"):
        assert getattr(together, name) == getattr(alone, name)
    sides = [each[:, 2:] for each in rows if np.isfinite(each).all() and (each[:, 2:] > 0).all() and len(each) > 1]
    assert together.moving.sides == pytest.approx(sum(len(each) * each.var(0).sum() for each in sides))


def test_a_set_without_a_visible_box_is_not_odd():
    assert not Notation().oddities() and not oddities([np.zeros((4, 4)), np.full((4, 4), np.nan)])
