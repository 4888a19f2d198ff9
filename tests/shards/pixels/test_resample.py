"""Crops sampled from stored windows equal crops cut from the frame."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.shards.pixels.geometry import adjust, crop_frame, crop_transform
from lorat.shards.pixels.jitter import Jitter, jitter_window
from lorat.shards.pixels.resample import (
    Window,
    context_window,
    cut_window,
    sample_crop,
    sample_turned_crop,
    template_window,
    turn_box,
)


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)


def test_from_an_unshrunk_window_the_crop_is_that_of_the_frame(frame):
    rng = np.random.default_rng(1)
    mean = frame.reshape(-1, 3).mean(axis=0)
    for _ in range(30):
        x, y, w, h = rng.uniform((0, 0, 20, 20), (540, 380, 95, 95))
        box = np.array([x, y, x + w, y + h])
        window = context_window(box, (640, 480), 12.0, 96, 1024)
        drawn = jitter_window(box, 4.0, 224, rng, Jitter())
        if drawn is None:
            continue
        adjusted = adjust(drawn, (640, 480), (224, 224))
        crop, missing = sample_crop(cut_window(frame, window), window, adjusted, 224, mean)
        if missing == 0.0:
            expected = crop_frame(frame, adjusted, (224, 224), np.rint(mean))
            assert np.abs(crop.astype(float) - expected).mean() < 0.6


def test_from_a_shrunk_window_the_crop_is_that_of_the_shrunk_frame(frame):
    box = np.array([200.0, 100.0, 440.0, 340.0])
    window = context_window(box, (640, 480), 12.0, 96, 1024)
    assert window.size == (256, 192)
    adjusted = adjust(crop_transform(box, 4.0, (224, 224)), (640, 480), (224, 224))
    crop, missing = sample_crop(cut_window(frame, window), window, adjusted, 224, (0, 0, 0))
    smooth = cv2.resize(cv2.resize(frame, (256, 192), interpolation=cv2.INTER_AREA), (640, 480))
    expected = crop_frame(smooth, adjusted, (224, 224), (0, 0, 0))
    assert missing == 0.0
    assert np.abs(crop - expected).mean() < 2.0


def test_outside_the_frame_is_the_mean_and_outside_the_window_edges_repeat(frame):
    box = np.array([300.0, 200.0, 330.0, 230.0])
    window = Window((280, 180), (350, 250), (70, 70))
    adjusted = adjust(crop_transform(box, 50.0, (128, 128)), (640, 480), (128, 128))
    crop, missing = sample_crop(cut_window(frame, window), window, adjusted, 128, (9, 8, 7))
    assert 0.13 < missing < 0.14  # nearly all of the frame, which is a seventh of the crop
    np.testing.assert_array_equal(crop[0, 0], [9, 8, 7])
    x1, y1, _, _ = adjusted.covered
    np.testing.assert_array_equal(crop[y1, x1], frame[180, 280])


def test_windows_hold_the_object_stay_in_the_frame_and_are_never_enlarged():
    rng = np.random.default_rng(2)
    for _ in range(200):
        x, y, w, h = rng.uniform((-50, -50, 4, 4), (600, 440, 300, 300))
        box = np.clip([x, y, x + w, y + h], 0, [640, 480, 640, 480])
        if (box[2:] - box[:2] < 1).any():
            continue
        for window in (context_window(box, (640, 480), 12.0, 96, 1024), template_window(box, (640, 480), 96)):
            assert min(window.origin) >= 0
            assert window.end[0] <= 640 and window.end[1] <= 480
            assert window.size[0] <= window.end[0] - window.origin[0]
            assert window.size[1] <= window.end[1] - window.origin[1]
            if window.end[0] - window.origin[0] > 500:
                assert max(window.size) <= 1024
        window = context_window(box, (640, 480), 12.0, 96, 1024)
        assert (window.origin <= box[:2]).all() and (window.end >= box[2:]).all()


def test_a_template_window_is_what_the_template_shows():
    box = np.array([300.0, 200.0, 340.0, 240.0])
    window = template_window(box, (640, 480), 96)
    source = adjust(crop_transform(box, 2.0, (112, 112)), (640, 480), (112, 112)).source
    assert (*window.origin, *window.end) == source


def test_a_crop_turned_by_nothing_is_the_crop(frame):
    box = np.array([300.0, 200.0, 360.0, 250.0])
    window = context_window(box, (640, 480), 12.0, 96, 1024)
    adjusted = adjust(crop_transform(box, 4.0, (128, 128)), (640, 480), (128, 128))
    stored = cut_window(frame, window)
    plain, _ = sample_crop(stored, window, adjusted, 128, (0, 0, 0))
    turned, missing = sample_turned_crop(stored, window, adjusted, 128, (0, 0, 0), (640, 480), 0.0, (64.0, 64.0))
    assert missing == 0.0
    assert np.abs(turned.astype(int) - plain).max() <= 1


def test_the_object_turns_in_place_and_its_box_holds_it():
    canvas = np.zeros((480, 640, 3), dtype=np.uint8)
    cv2.ellipse(canvas, (320, 240), (40, 15), 0, 0, 360, (255, 255, 255), -1)
    box = np.array([280.0, 225.0, 361.0, 256.0])
    window = context_window(box, (640, 480), 12.0, 96, 1024)
    adjusted = adjust(crop_transform(box, 4.0, (224, 224)), (640, 480), (224, 224))
    flat = adjusted.transform.apply(box)
    stored = cut_window(canvas, window)
    for angle in (-2.5, -np.pi / 2, 0.4, np.pi / 2, 3.0):
        centre = ((flat[0] + flat[2]) / 2, (flat[1] + flat[3]) / 2)
        crop, _ = sample_turned_crop(stored, window, adjusted, 224, (0, 0, 0), (640, 480), angle, centre)
        rows, columns = np.nonzero(crop[..., 0] > 127)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(seen, turn_box(flat, angle), atol=2.0)
        tilt = np.cov(columns, rows)[0, 1]
        assert abs(np.sin(2 * angle)) < 0.1 or np.sign(tilt) == np.sign(np.sin(2 * angle))


def test_a_turned_crop_is_padded_outside_the_frame(frame):
    box = np.array([0.0, 0.0, 60.0, 60.0])
    window = context_window(box, (640, 480), 12.0, 96, 1024)
    adjusted = adjust(crop_transform(box, 4.0, (128, 128)), (640, 480), (128, 128))
    stored, centre = cut_window(frame, window), (64.0, 64.0)
    crop, missing = sample_turned_crop(stored, window, adjusted, 128, (9, 8, 7), (640, 480), np.pi, centre)
    assert missing == 0.0
    np.testing.assert_array_equal(crop[127, 127], [9, 8, 7])
    assert (crop[0, 0] != [9, 8, 7]).any()


@settings(max_examples=60, deadline=None)
@given(
    origin=st.tuples(st.integers(0, 40), st.integers(0, 30)),
    part=st.tuples(st.integers(60, 600), st.integers(60, 440)),
    shrink=st.floats(1.0, 7.0),
)
def test_a_stored_pixel_lies_where_the_map_says_whatever_the_shrinking(origin, part, shrink):
    end = (origin[0] + part[0], origin[1] + part[1])
    window = Window(origin, end, (round(part[0] / shrink), round(part[1] / shrink)))
    ramps = np.zeros((480, 640, 3), dtype=np.float32)  # each pixel says where its centre lies
    ramps[..., 0] = np.arange(640) + 0.5
    ramps[..., 1] = (np.arange(480) + 0.5)[:, None]
    stored = cut_window(ramps, window)
    assert stored.shape == (window.size[1], window.size[0], 3)
    for axis in (0, 1):
        scale = part[axis] / window.size[axis]
        place = origin[axis] + (np.arange(window.size[axis]) + 0.5) * scale
        # A mean over fractions of pixels is up to an eighth of a pixel off.
        np.testing.assert_allclose(stored[..., axis].mean(axis=axis), place, atol=0.13)


@pytest.mark.parametrize("detail", [3, 6, 12])
@pytest.mark.parametrize("shrink", [1.1, 1.5, 1.9, 2.1, 3.0, 3.9, 5.0])
def test_shrinking_is_close_to_the_mean_of_the_area(detail, shrink):
    rng = np.random.default_rng(detail)
    noise = rng.normal(128, 20, (480 // detail, 640 // detail, 3)).clip(0, 255).astype(np.uint8)
    frame = cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
    for part in ((640, 480), (301, 299)):  # the second is odd, so it is not halved
        window = Window((0, 0), part, (round(part[0] / shrink), round(part[1] / shrink)))
        area = cv2.resize(frame[: part[1], : part[0]], window.size, interpolation=cv2.INTER_AREA)
        assert np.abs(cut_window(frame, window).astype(int) - area).mean() < 4.0
