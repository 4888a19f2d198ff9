"""Augmentation keeps boxes on their objects and draws from its generator alone.

A swapped background leaves the object where it is and hides what lay around it.
"""

import cv2
import numpy as np
import pytest

from lorat.configs.schema import AugmentConfig
from lorat.train.data.augment import _jitter_colours, augment_sample, swap_background

OFF = AugmentConfig(flip=0, colour_jitter=0, grey_solarise_blur=False)


def marked(side: int, box: tuple[int, int, int, int]) -> np.ndarray:
    image = np.zeros((side, side, 3), dtype=np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = (200, 120, 40)
    return image


@pytest.fixture
def pair():
    boxes = ((4, 6, 12, 20), (30, 10, 50, 18))
    images = (marked(32, boxes[0]), marked(64, boxes[1]))
    return list(images), [np.array(b, dtype=np.float64) for b in boxes]


def test_without_augmentation_nothing_changes(pair):
    images, boxes = augment_sample(*pair, np.random.default_rng(0), OFF, 1)
    for before, after in zip((*pair[0], *pair[1]), (*images, *boxes), strict=True):
        np.testing.assert_array_equal(before, after)


def test_boxes_flip_with_their_images(pair):
    config = OFF.model_copy(update={"flip": 1.0})
    images, boxes = augment_sample(*pair, np.random.default_rng(0), config, 1)
    for image, box in zip(images, boxes, strict=True):
        rows, columns = np.nonzero(image[..., 0])
        expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        np.testing.assert_array_equal(box, expected)


def test_template_and_search_flip_independently(pair):
    config = OFF.model_copy(update={"flip": 0.5})
    drawn = [augment_sample(*pair, np.random.default_rng(seed), config, 1)[1] for seed in range(40)]
    assert len({(boxes[0][0] == 4, boxes[1][0] == 30) for boxes in drawn}) == 4


def test_the_same_generator_gives_the_same_pair_and_inputs_stay_as_they_are(pair):
    config = AugmentConfig(motion_blur=0.5)
    copies = [image.copy() for image in pair[0]]
    first, _ = augment_sample(*pair, np.random.default_rng(5), config, 1)
    again, _ = augment_sample(*pair, np.random.default_rng(5), config, 1)
    for a, b in zip((*first, *pair[0]), (*again, *copies), strict=True):
        np.testing.assert_array_equal(a, b)


def test_exactly_one_of_grey_solarise_and_blur_is_drawn_and_shared(pair):
    config = OFF.model_copy(update={"grey_solarise_blur": True})
    kinds = []
    for seed in range(90):
        images, _ = augment_sample(*pair, np.random.default_rng(seed), config, 1)
        found = []
        for image, original in zip(images, pair[0], strict=True):
            grey = (image[..., 0] == image[..., 2]).all()
            solarised = (image == np.where(original < 128, original, 255 - original)).all()
            found.append("grey" if grey else "solarise" if solarised else "blur")
        assert found[0] == found[1]
        kinds.append(found[0])
    assert all(15 <= kinds.count(kind) <= 45 for kind in ("grey", "solarise", "blur"))


def test_colour_factors_stay_in_their_range(pair):
    config = OFF.model_copy(update={"colour_jitter": 0.4})
    flat = [np.full((8, 8, 3), 100, np.uint8)] * 2
    values = np.array(
        [augment_sample(flat, pair[1], np.random.default_rng(s), config, 1)[0][0][0, 0, 0] for s in range(300)]
    )
    # On a flat grey image only brightness shows: 60 … 140, truncated.
    assert values.min() >= 58 and values.max() <= 140
    assert values.min() < 66 and values.max() > 134


def test_a_motion_blur_keeps_the_brightness(pair):
    config = OFF.model_copy(update={"motion_blur": 1.0})
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    images, _ = augment_sample([pair[0][0], noise], pair[1], np.random.default_rng(2), config, 1)
    np.testing.assert_array_equal(images[0], pair[0][0])
    assert abs(images[1].mean() - noise.mean()) < 2
    assert images[1].std() < noise.std()


def exact_colours(crop: np.ndarray, seed: int, strength: float) -> np.ndarray:
    """The published formula in double precision, one operation after the other."""
    rng = np.random.default_rng(seed)
    order, factors = rng.permutation(3), rng.uniform(1 - strength, 1 + strength, 3)
    grey = np.array([0.299, 0.587, 0.114])
    image = crop.astype(np.float64)
    for change in order:
        if change == 0:
            other = np.zeros(1)
        elif change == 1:
            other = (image @ grey).mean()
        else:
            other = (image @ grey)[..., None]
        image = np.clip(image * factors[change] + (1 - factors[change]) * other, 0, 255)
    return np.floor(image + 1e-9)


def test_colours_are_those_of_the_formula_in_double_precision():
    rng = np.random.default_rng(3)
    different = 0
    for seed in range(30):
        crop = cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), (64, 64))
        before = crop.copy()
        got = _jitter_colours(crop, np.random.default_rng(seed), 0.4)
        np.testing.assert_array_equal(crop, before)
        expected = exact_colours(crop, seed, 0.4)
        assert np.abs(got - expected).max() <= 1
        different += np.count_nonzero(got != expected)
    assert different < 1e-3 * 30 * 64 * 64 * 3  # whole numbers that rounding puts just below


BOX = np.array([20.0, 24.0, 44.0, 40.0])


def scene() -> tuple[np.ndarray, np.ndarray]:
    crop = np.full((64, 64, 3), 90, dtype=np.uint8)
    crop[24:40, 20:44] = (250, 10, 10)
    return crop, np.full((33, 51, 3), 200, dtype=np.uint8)


@pytest.mark.parametrize("seed", range(20))
def test_the_object_keeps_its_place_before_the_other_image(seed):
    crop, other = scene()
    mixed, again = (swap_background(crop, BOX, other, np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(mixed, again)
    np.testing.assert_array_equal(crop, scene()[0])
    assert mixed.shape == crop.shape and mixed.dtype == np.uint8
    np.testing.assert_array_equal(mixed[30:34, 28:36], crop[30:34, 28:36])
    changed = (mixed == 200).all(axis=-1).mean()
    assert 0.3 < changed < 1.0


def test_some_crops_keep_pieces_of_the_old_surroundings_and_some_do_not():
    crop, other = scene()
    far = np.ones((64, 64), dtype=bool)
    far[16:48, 10:54] = False
    pieces = [(swap_background(crop, BOX, other, np.random.default_rng(seed))[far] == 90).any() for seed in range(40)]
    assert any(pieces) and not all(pieces)


def test_a_box_cut_by_the_crop_keeps_its_visible_part():
    crop = np.full((64, 64, 3), 30, dtype=np.uint8)
    mixed = swap_background(crop, np.array([-20.0, -20.0, 12.0, 12.0]), scene()[1], np.random.default_rng(1))
    np.testing.assert_array_equal(mixed[:4, :4], crop[:4, :4])
