"""Augmentation keeps boxes on their objects and draws from its generator alone."""

from __future__ import annotations

import numpy as np
import pytest

from lorat.configs.schema import AugmentConfig
from lorat.train.augment import augment_pair

OFF = AugmentConfig(flip=0, colour_jitter=0, grey_solarise_blur=False)


def marked(side: int, box: tuple[int, int, int, int]) -> np.ndarray:
    image = np.zeros((side, side, 3), dtype=np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = (200, 120, 40)
    return image


@pytest.fixture
def pair():
    boxes = ((4, 6, 12, 20), (30, 10, 50, 18))
    images = (marked(32, boxes[0]), marked(64, boxes[1]))
    return images, tuple(np.array(b, dtype=np.float64) for b in boxes)


def test_without_augmentation_nothing_changes(pair):
    images, boxes = augment_pair(*pair, np.random.default_rng(0), OFF)
    for before, after in zip((*pair[0], *pair[1]), (*images, *boxes), strict=True):
        np.testing.assert_array_equal(before, after)


def test_boxes_flip_with_their_images(pair):
    config = OFF.model_copy(update={"flip": 1.0})
    images, boxes = augment_pair(*pair, np.random.default_rng(0), config)
    for image, box in zip(images, boxes, strict=True):
        rows, columns = np.nonzero(image[..., 0])
        expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        np.testing.assert_array_equal(box, expected)


def test_template_and_search_flip_independently(pair):
    config = OFF.model_copy(update={"flip": 0.5})
    seen = set()
    for seed in range(40):
        _, boxes = augment_pair(*pair, np.random.default_rng(seed), config)
        seen.add((boxes[0][0] == 4, boxes[1][0] == 30))
    assert len(seen) == 4


def test_the_same_generator_gives_the_same_pair_and_inputs_stay_as_they_are(pair):
    config = AugmentConfig(motion_blur=0.5)
    copies = [image.copy() for image in pair[0]]
    first, _ = augment_pair(*pair, np.random.default_rng(5), config)
    again, _ = augment_pair(*pair, np.random.default_rng(5), config)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    for image, copy in zip(pair[0], copies, strict=True):
        np.testing.assert_array_equal(image, copy)


def test_exactly_one_of_grey_solarise_and_blur_is_drawn_and_shared(pair):
    config = OFF.model_copy(update={"grey_solarise_blur": True})
    kinds = []
    for seed in range(90):
        images, _ = augment_pair(*pair, np.random.default_rng(seed), config)
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
    flat = (np.full((8, 8, 3), 100, np.uint8),) * 2
    values = np.array(
        [
            augment_pair(flat, pair[1], np.random.default_rng(s), config)[0][0][0, 0, 0]
            for s in range(300)
        ]
    )
    # On a flat grey image only brightness shows: 60 … 140, truncated.
    assert values.min() >= 58 and values.max() <= 140
    assert values.min() < 66 and values.max() > 134


def test_a_motion_blur_keeps_the_brightness(pair):
    config = OFF.model_copy(update={"motion_blur": 1.0})
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    images, _ = augment_pair((pair[0][0], noise), pair[1], np.random.default_rng(2), config)
    np.testing.assert_array_equal(images[0], pair[0][0])
    assert abs(images[1].mean() - noise.mean()) < 2
    assert images[1].std() < noise.std()
