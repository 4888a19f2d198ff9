"""A swapped background leaves the object where it is and hides what lay around it."""

from __future__ import annotations

import numpy as np
import pytest

from lorat.train.data.backgrounds import swap_background

BOX = np.array([20.0, 24.0, 44.0, 40.0])


def scene() -> tuple[np.ndarray, np.ndarray]:
    crop = np.full((64, 64, 3), 90, dtype=np.uint8)
    crop[24:40, 20:44] = (250, 10, 10)
    return crop, np.full((33, 51, 3), 200, dtype=np.uint8)


@pytest.mark.parametrize("seed", range(20))
def test_the_object_keeps_its_place_before_the_other_image(seed):
    crop, other = scene()
    mixed = swap_background(crop, BOX, other, np.random.default_rng(seed))
    assert mixed.shape == crop.shape and mixed.dtype == np.uint8
    np.testing.assert_array_equal(mixed[30:34, 28:36], crop[30:34, 28:36])
    changed = (mixed == 200).all(axis=-1).mean()
    assert 0.3 < changed < 1.0


def test_some_crops_keep_pieces_of_the_old_surroundings_and_some_do_not():
    crop, other = scene()
    far = np.ones((64, 64), dtype=bool)
    far[16:48, 10:54] = False
    pieces = [
        (swap_background(crop, BOX, other, np.random.default_rng(seed))[far] == 90).any()
        for seed in range(40)
    ]
    assert any(pieces) and not all(pieces)


def test_a_box_cut_by_the_crop_keeps_its_visible_part():
    crop = np.full((64, 64, 3), 30, dtype=np.uint8)
    mixed = swap_background(
        crop, np.array([-20.0, -20.0, 12.0, 12.0]), scene()[1], np.random.default_rng(1)
    )
    np.testing.assert_array_equal(mixed[:4, :4], crop[:4, :4])


def test_the_same_generator_gives_the_same_crop():
    crop, other = scene()
    first, second = (swap_background(crop, BOX, other, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (crop[24:40, 20:44] == (250, 10, 10)).all()
