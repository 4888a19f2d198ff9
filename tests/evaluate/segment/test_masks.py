"""Views and masks, with a network that draws ellipses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.evaluate.segment.segmenter import Segmenter
from lorat.evaluate.segment.views import mask_in_frame, own_views, shared_views
from lorat.shards.pixels.geometry import CropTransform, adjust
from tests.evaluate.segment.tiny import Ellipses

WIDTH, HEIGHT = 160, 120
FRAME = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def ellipse(box: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = box
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 < 1


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


BOXES = np.array([[40.0, 30.0, 80.0, 60.0], [100.5, 70.25, 140.0, 115.0], [2.0, 3.0, 30.0, 25.0]])


@pytest.mark.parametrize("shared", [False, True])
def test_masks_lie_on_the_frame_where_the_network_saw_the_objects(shared):
    masks = Segmenter(Ellipses(), shared=shared)(FRAME, BOXES)
    assert masks.shape == (3, HEIGHT, WIDTH) and masks.dtype == bool
    for mask, box in zip(masks, BOXES, strict=True):
        assert overlap(mask, ellipse(box)) > 0.9


def test_each_object_has_a_crop_of_its_own_as_published():
    network = Ellipses()
    masks = Segmenter(network)(FRAME, BOXES)
    assert [[len(own) for own in call] for call in network.calls] == [[1, 1, 1]]
    for mask, box in zip(masks, BOXES, strict=True):
        np.testing.assert_array_equal(Segmenter(Ellipses())(FRAME, box[None])[0], mask)
    # The crop of area factor 2, and the box in it rasterised outwards.
    side, (x1, y1, x2, y2) = Ellipses.side, BOXES[1]
    w, h = x2 - x1, y2 - y1
    scale = side / np.sqrt((w + (w + h) / 2) * (h + (w + h) / 2))
    middle = np.array([side / 2] * 2)
    half = np.array([w, h]) * scale / 2
    expected = np.concatenate([middle - half, middle + half])
    (found,) = network.calls[0][1]
    assert (found[:2] <= expected[:2] + 1).all() and (found[2:] >= expected[2:] - 1).all()
    assert (found == found.round()).all() and np.abs(found - expected).max() < 3


def test_a_crop_that_leaves_the_frame_is_padded_with_its_mean():
    class Look(Ellipses):
        def __call__(self, crops, boxes):
            self.corner = crops[0, 0, 0]
            return super().__call__(crops, boxes)

    network = Look()
    Segmenter(network)(FRAME, BOXES[2:])
    np.testing.assert_allclose(network.corner, FRAME.reshape(-1, 3).mean(axis=0), rtol=1e-5)


def test_objects_without_area_have_empty_masks_and_cost_nothing():
    network = Ellipses()
    boxes = np.array([[10.0, 10.0, 10.0, 40.0], BOXES[0], [0.0, 0.0, 0.0, 0.0]])
    masks = Segmenter(network)(FRAME, boxes)
    assert masks.any(axis=(1, 2)).tolist() == [False, True, False]
    assert [[len(own) for own in call] for call in network.calls] == [[1]]
    assert Segmenter(network)(FRAME, boxes[:1]).sum() == 0 and len(network.calls) == 1


def test_many_objects_go_through_the_network_a_few_at_a_time():
    network, many = Ellipses(), np.repeat(BOXES, 3, axis=0)
    masks = Segmenter(network)(FRAME, many)
    assert [len(call) for call in network.calls] == [3, 3, 3]
    np.testing.assert_array_equal(masks[::3], Segmenter(Ellipses())(FRAME, BOXES))


def test_neighbours_of_like_size_share_a_crop_and_others_keep_their_own():
    near = np.array([[40.0, 40.0, 60.0, 60.0], [200.0, 40.0, 220.0, 60.0], [55.0, 42.0, 73.0, 61.0]])
    small = np.array([[48.0, 48.0, 52.0, 52.0]])
    views = shared_views(np.concatenate([near, small]), 128)
    assert sorted(view.members for view in views) == [(0, 2), (1,), (3,)]
    network = Ellipses()
    Segmenter(network, shared=True)(np.zeros((100, 240, 3), np.uint8), near)
    assert [[len(own) for own in call] for call in network.calls] == [[2, 1]]


def test_a_lone_object_has_the_same_mask_whether_views_are_shared_or_not():
    for box in BOXES:
        own, shared = (Segmenter(Ellipses(), shared=shared)(FRAME, box[None]) for shared in (False, True))
        np.testing.assert_array_equal(own, shared)


@given(st.lists(st.tuples(*[st.floats(0, 500)] * 2, *[st.floats(1, 300)] * 2), min_size=1, max_size=40))
@settings(deadline=None, max_examples=60)
def test_a_shared_view_holds_its_members_own_views_at_no_less_than_half_their_scale(rows):
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in rows])
    own, views = own_views(boxes, 1024), shared_views(boxes, 1024)
    assert sorted(place for view in views for place in view.members) == list(range(len(boxes)))
    for view in views:
        assert len(view.members) <= 16
        for place in view.members:
            scale = own[place].transform.scale[0]
            assert view.transform.scale[0] >= scale / 2 * (1 - 1e-9)
            square = own[place].transform.invert(np.array([0.0, 0.0, 1024.0, 1024.0]))
            inside = view.transform.apply(square)
            assert (inside > -1e-6 * 1024).all() and (inside < 1024 * (1 + 1e-6)).all()


def laid(logits: np.ndarray, edges: str, box: np.ndarray = BOXES[1]) -> np.ndarray:
    side = 128
    (view,) = own_views(box[None], side)
    cut = adjust(view.transform, (WIDTH, HEIGHT), (side, side))
    return mask_in_frame(logits, cut.transform, side, (WIDTH, HEIGHT), edges)


def test_published_masks_are_of_every_pixel_that_a_cell_above_the_threshold_touches():
    """As the published system resamples: bilinearly, zeros outside, and every weight counts."""
    logits = np.random.default_rng(1).normal(size=(32, 32)).astype(np.float32)
    side, cells = 128, 32
    (view,) = own_views(BOXES[1:2], side)
    transform = adjust(view.transform, (WIDTH, HEIGHT), (side, side)).transform
    ratio = cells / side
    x = ((np.arange(WIDTH) + 0.5) * transform.scale[0] + transform.translation[0]) * ratio
    y = ((np.arange(HEIGHT) + 0.5) * transform.scale[1] + transform.translation[1]) * ratio
    grid = np.stack(np.meshgrid(2 * x / cells - 1, 2 * y / cells - 1), axis=-1)
    zeros_and_ones = torch.from_numpy((logits > 0).astype(np.float64))[None, None]
    sampled = F.grid_sample(zeros_and_ones, torch.from_numpy(grid)[None], padding_mode="zeros", align_corners=False)
    expected = sampled[0, 0].numpy() > 1e-9
    np.testing.assert_array_equal(laid(logits, "published"), expected)
    assert expected.any() and not expected.all()


def test_interpolated_masks_are_within_the_published_ones_and_closer_to_the_object():
    network = Ellipses()
    small = np.array([[30.0, 30.0, 130.0, 100.0]])
    true = ellipse(small[0])
    ours, published = (Segmenter(network, edges=edges)(FRAME, small)[0] for edges in ("interpolated", "published"))
    assert overlap(ours, true) > 0.95 > overlap(published, true) + 0.03
    assert published[ours].all() and published.sum() > 1.05 * ours.sum()


def test_nothing_is_said_of_pixels_outside_the_crop():
    ones = np.ones((32, 32), dtype=np.float32)
    for edges, beyond in (("interpolated", 0), ("published", 5)):
        mask = laid(ones, edges, BOXES[0])
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        side = np.sqrt((40 + 35) * (30 + 35))
        for middle, found in ((60.0, columns), (45.0, rows)):
            assert (
                abs(found[0] - (middle - side / 2)) <= 1 + beyond and abs(found[-1] - (middle + side / 2)) <= 1 + beyond
            )
    far = CropTransform((1.0, 1.0), (-5000.0, -5000.0))
    assert not mask_in_frame(ones, far, 128, (WIDTH, HEIGHT), "interpolated").any()
