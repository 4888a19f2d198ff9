"""Crops, boxes and masks equal those that the published system computed."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.shards.pixels.geometry import (
    Adjusted,
    CropTransform,
    adjust,
    box_mask,
    clip_boxes,
    crop_frame,
    crop_transform,
    rasterise,
    xywh_to_xyxy,
    xyxy_to_xywh,
)

GOLDEN = Path(__file__).parents[2] / "golden"


def as_array(transform: CropTransform) -> np.ndarray:
    return np.array([transform.scale, transform.translation])


def as_transform(params: np.ndarray) -> CropTransform:
    return CropTransform(tuple(params[0]), tuple(params[1]))


@pytest.fixture(scope="module")
def crops():
    return np.load(GOLDEN / "g1_crops_part.npz")


def test_crop_windows_equal_the_published_ones_for_every_box_factor_and_size():
    golden = np.load(GOLDEN / "g1_geometry_params.npz")
    for b, box in enumerate(golden["boxes"]):
        for f, factor in enumerate(golden["area_factors"]):
            for s, size in enumerate(golden["output_sizes"]):
                transform = crop_transform(box, factor, (size, size))
                np.testing.assert_allclose(as_array(transform), golden["params"][b, f, s], rtol=0, atol=1e-9)
                mapped = transform.apply(box)
                np.testing.assert_allclose(mapped, golden["mapped_boxes"][b, f, s], atol=1e-9)
                np.testing.assert_allclose(transform.invert(mapped), golden["mapped_back_boxes"][b, f, s], atol=1e-9)


def test_adjusted_windows_and_crops_equal_the_published_ones(crops):
    images = [crops["image0"], crops["image1"]]
    untouched = 0
    for case in range(len(crops["case_size"])):
        image, size = images[crops["case_image"][case]], int(crops["case_size"][case])
        adjusted = adjust(as_transform(crops["case_params"][case]), image.shape[1::-1], (size, size))
        expected = crops["case_adjusted_params"][case]
        if np.isnan(expected).any():
            untouched += 1
            assert adjusted.covered is None
            continue
        # The published parameters are float32.
        np.testing.assert_allclose(as_array(adjusted.transform), expected, rtol=3e-6, atol=1e-6)
        mean = image.reshape(-1, 3).mean(axis=0)
        crop = crop_frame(image, adjusted, (size, size), mean)
        np.testing.assert_allclose(crop.sum(dtype=np.float64), crops["case_sum"][case], rtol=1e-6)
        squares = (crop.astype(np.float64) ** 2).sum()
        np.testing.assert_allclose(squares, crops["case_sumsq"][case], rtol=1e-6)
    assert untouched == 20


@pytest.mark.parametrize(("part", "count"), [(True, 2), (False, 48)])
def test_every_pixel_of_a_crop_equals_the_published_one(request, part, count):
    arrays = np.load((GOLDEN if part else request.getfixturevalue("golden")) / f"g1_crops{'_part' * part}.npz")
    names = [name for name in arrays.files if name.startswith("crop_")]
    assert len(names) == count
    for name in names:
        case, size = int(name[-4:]), int(name.split("_")[1])
        image = [arrays["image0"], arrays["image1"]][arrays["case_image"][case]]
        adjusted = adjust(as_transform(arrays["case_params"][case]), image.shape[1::-1], (size, size))
        crop = crop_frame(image, adjusted, (size, size), arrays["case_image_mean"][case])
        # OpenCV and PyTorch round source positions differently in float32: 4e-3 of 255.
        np.testing.assert_allclose(crop.transpose(2, 0, 1), arrays[name], rtol=0, atol=5e-3)


@pytest.mark.parametrize(("size", "template"), [(224, 112), (378, 196)])
def test_token_masks_and_positive_cells_equal_the_published_ones(size, template):
    golden = np.load(GOLDEN / f"g3_labels_{size}.npz")
    for box, mask in zip(golden["z_boxes"], golden["z_masks"], strict=True):
        np.testing.assert_array_equal(box_mask(box, template, template // 14), mask.astype(bool))
    for box, cells in zip(golden["x_boxes"], golden["x_label_maps"], strict=True):
        np.testing.assert_array_equal(box_mask(box, size, size // 14), cells)


def test_a_window_beside_the_frame_shows_only_the_padding_colour():
    adjusted = adjust(CropTransform((1.0, 1.0), (500.0, 0.0)), (40, 30), (32, 32))
    crop = crop_frame(np.zeros((30, 40, 3), np.uint8), adjusted, (32, 32), [1.5, 2.5, 3.5])
    assert adjusted.covered is None
    assert np.isfinite(as_array(adjusted.transform)).all()
    np.testing.assert_array_equal(crop, np.broadcast_to(np.float32([1.5, 2.5, 3.5]), (32, 32, 3)))


numbers = st.floats(-500, 500, allow_nan=False)


@given(st.tuples(numbers, numbers, st.floats(1, 300), st.floats(1, 300)))
def test_box_layouts_turn_into_each_other_and_back(xywh):
    np.testing.assert_allclose(xyxy_to_xywh(xywh_to_xyxy(xywh)), xywh, atol=1e-9)


@given(st.tuples(numbers, numbers, numbers, numbers))
def test_rasterised_rectangles_hold_the_box_but_for_a_ten_thousandth(box):
    x1, y1, x2, y2 = rasterise(box)
    assert x1 <= box[0] and y1 <= box[1]
    assert x2 >= box[2] - 1e-4 and y2 >= box[3] - 1e-4


@given(
    st.tuples(st.floats(-50, 300), st.floats(-50, 200), st.floats(3, 200), st.floats(3, 200)),
    st.sampled_from([2.0, 4.0, 5.0]),
    st.sampled_from([112, 224, 378]),
)
def test_adjusting_moves_a_box_by_less_than_a_source_pixel(xywh, factor, size):
    box = xywh_to_xyxy(xywh)
    transform = crop_transform(box, factor, (size, size))
    adjusted = adjust(transform, (320, 240), (size, size))
    if adjusted.covered is None:
        return
    inside = clip_boxes(box, (320, 240))
    moved = np.abs(transform.apply(inside) - adjusted.transform.apply(inside))
    assert (moved <= 1.0 + 2 * max(transform.scale)).all()


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(112, 400),
    width=st.integers(20, 400),
    size=st.tuples(st.integers(3, 48), st.integers(3, 44)),
    seed=st.integers(0, 99),
)
def test_rows_that_are_in_no_result_are_skipped_without_a_trace(height, width, size, seed):
    """The crop is the plain bilinear resize of its source part, however much that is shrunk."""
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    identity = CropTransform((1.0, 1.0), (0.0, 0.0))
    adjusted = Adjusted(identity, (0, 0, *size), (0, 0, width, height))
    crop = crop_frame(frame, adjusted, size, (0, 0, 0))
    plain = cv2.resize(frame.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(crop, plain, rtol=0, atol=1e-3)


def test_a_crop_is_written_where_it_is_wanted():
    frame = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for box in ((50, 40, 70, 60), (-5, -5, 20, 18), (0, 0, 120, 90)):
        transform = crop_transform(np.array(box, float), 4.0, (32, 32))
        adjusted = adjust(transform, (120, 90), (32, 32))
        out = np.full((2, 32, 32, 3), np.nan, np.float32)
        given = crop_frame(frame, adjusted, (32, 32), (1, 2, 3), out[1])
        assert given.base is out and np.isnan(out[0]).all()
        np.testing.assert_array_equal(out[1], crop_frame(frame, adjusted, (32, 32), (1, 2, 3)))
