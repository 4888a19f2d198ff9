from dataclasses import replace

import numpy as np
import pytest

from lorat.prep.toy.looks import make_look, make_occluder
from lorat.prep.toy.motion import Motion
from lorat.prep.toy.scene import POOLS, Layer, plan_scene, plan_still, render
from lorat.shards.rng import Draws

SIZE = (160, 120)


def scenes(count, length=40, pool="train"):
    return [plan_scene((0, "test", k), pool, SIZE, length) for k in range(count)]


def alone(scene, *layers, tracked=(0,)):
    """The scene with nothing in it but `layers`: black ground, no noise, no blur."""
    return replace(
        scene,
        layers=layers,
        tracked=tracked,
        ground=np.zeros_like(scene.ground),
        noise=np.full_like(scene.noise, 128),
        gain=np.ones(len(scene)),
        defocus=np.zeros(len(scene)),
        exposure=0.0,
    )


def resting(centre, halves=(20.0, 20.0), look=None, frames=1):
    motion = Motion(
        np.tile(np.array(centre, float), (frames, 1)), np.tile(np.array(halves, float), (frames, 1)), np.zeros(frames)
    )
    return Layer(look or make_look(0, 7), motion, 7)


def still_scene(*layers, tracked=(0,)):
    return alone(plan_still((0, "still"), "train", SIZE, 0), *layers, tracked=tracked)


def test_a_scene_depends_on_nothing_but_its_key():
    first, again = (list(render(s)) for s in scenes(1, 5) + scenes(1, 5))
    other = list(render(plan_scene((0, "test", 99), "train", SIZE, 5)))
    for a, b, c in zip(first, again, other, strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.boxes, b.boxes)
        assert not np.array_equal(a.image, c.image)


def test_a_box_is_the_tight_box_of_the_painted_pixels():
    for scene in scenes(12, 12):
        lone = alone(scene, scene.layers[scene.tracked[0]])
        for frame in render(lone):
            if frame.in_frame[0] == 0:
                continue
            ys, xs = np.nonzero(frame.image.any(axis=2))
            painted = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            box = np.clip(frame.boxes[0], 0, [*SIZE, *SIZE])
            # Antialiasing paints up to a pixel beyond the outline; a thin tip may fall short.
            assert np.abs(painted - box).max() < 2.5


def test_a_box_does_not_depend_on_what_stands_before_the_object():
    for scene in scenes(10, 10):
        lone = alone(scene, scene.layers[scene.tracked[0]])
        for whole, single in zip(render(scene), render(lone), strict=True):
            assert np.array_equal(whole.boxes, single.boxes)
            assert whole.visible[0] <= single.visible[0]


def test_the_visible_share_counts_pixels_in_the_frame_with_nothing_before_them():
    cover = make_occluder(Draws(1))
    target = resting((80, 60), look=cover)
    free = next(render(still_scene(target)))
    assert free.visible[0] == free.in_frame[0] == 1
    hidden = next(render(still_scene(target, resting((80, 60), (40, 40), cover))))
    assert hidden.visible[0] == 0
    assert hidden.in_frame[0] == 1
    half = next(render(still_scene(target, resting((100, 60), (20, 40), cover))))
    assert half.visible[0] == pytest.approx(0.5, abs=0.05)
    cut = next(render(still_scene(resting((0, 60), look=cover))))
    assert cut.in_frame[0] == cut.visible[0] == pytest.approx(0.5, abs=0.05)
    gone = next(render(still_scene(resting((-50, 60), look=cover))))
    assert gone.in_frame[0] == gone.visible[0] == 0


def test_the_first_frame_shows_the_whole_object():
    for pool in POOLS:
        for scene in scenes(25, 12, pool):
            first = next(render(scene))
            box = first.boxes[0]
            assert first.visible[0] == 1 and (box[:2] >= 0).all() and (box[2:] <= SIZE).all()


def test_objects_wander_in_small_steps_with_bursts():
    steps, overlaps = [], []
    for scene in scenes(40, 60):
        layer = scene.layers[scene.tracked[0]]
        boxes = np.array([layer.box(t) for t in range(len(scene))])
        sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
        steps += list(np.hypot(*np.diff(layer.motion.centres, axis=0).T) / sides[1:])
        inner = np.minimum(boxes[0, 2:], boxes[:, 2:]) - np.maximum(boxes[0, :2], boxes[:, :2])
        shared = np.clip(inner, 0, None).prod(1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        overlaps.append(np.mean(shared / (areas + areas[0] - shared)))
    assert np.median(steps) < 0.2
    assert np.quantile(steps, 0.9) < 0.5
    assert 0.6 < np.max(steps) < 1.5
    assert np.mean(overlaps) < 0.2, "a tracker that never moves must fail"


def test_some_scenes_hide_their_object_and_some_let_it_leave_and_return():
    hidden = left = returned = 0
    for scene in scenes(60, 60):
        seen = [(frame.in_frame[0], frame.visible[0]) for frame in render(scene)]
        inside, visible = np.array(seen).T
        hidden += bool(((visible == 0) & (inside > 0)).any())
        outside = np.flatnonzero(inside == 0)
        left += bool(len(outside))
        returned += bool(len(outside) and visible[outside[-1] + 1 :].any())
    assert hidden >= 2 and left >= 3 and returned >= 2


def test_some_scenes_have_look_alikes_blur_defocus_and_changing_light():
    plans = scenes(40)
    own = [[layer.object_id for layer in scene.layers].count(target(scene)) for scene in plans]
    for has in (
        [count > 1 for count in own],
        [scene.exposure > 0 for scene in plans],
        [scene.defocus.max() > 0.5 for scene in plans],
        [np.ptp(scene.gain) > 0.1 for scene in plans],
    ):
        assert 3 < sum(has) < 40


def target(scene):
    return scene.layers[scene.tracked[0]].object_id


def test_pools_are_disjoint_and_scenes_keep_to_theirs():
    pools = list(POOLS.values())
    for k, pool in enumerate(pools):
        for other in pools[k + 1 :]:
            assert not range(max(pool[0], other[0]), min(pool[-1], other[-1]) + 1)
    for pool, ids in POOLS.items():
        for scene in scenes(10, 3, pool):
            assert all(layer.object_id in ids for layer in scene.layers if layer.object_id is not None)


def test_an_outline_fills_the_unit_square_and_look_alikes_share_colours_but_not_the_picture():
    look, *alike = (make_look(0, 5, k) for k in range(3))
    for other in alike:
        assert (other.colour, other.texture) == (look.colour, look.texture)
        assert not np.array_equal(other.levels[0], look.levels[0])
    assert alike[1].shape == look.shape
    for outline in (make_look(0, k).outline for k in range(60)):
        assert np.allclose([outline.min(0), outline.max(0)], [[-1, -1], [1, 1]])


@pytest.mark.parametrize("size", [(96, 96), (128, 300), (640, 360)])
def test_any_frame_size_works(size):
    frames = list(render(plan_scene((3, "size"), "val", size, 8)))
    assert all(frame.image.shape == (size[1], size[0], 3) for frame in frames)
    assert frames[0].visible[0] == 1


def test_a_still_shows_several_objects_that_hardly_cover_each_other():
    visible = []
    for k in range(20):
        frame = next(render(plan_still((0, k), "train", (320, 240), 4)))
        visible += list(frame.visible / np.maximum(frame.in_frame, 1e-9))
        assert 2 <= len(frame.boxes) <= 4
    assert np.mean(np.array(visible) > 0.85) > 0.9
