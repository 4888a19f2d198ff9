"""Crops are cut as published unless told otherwise, and then as training on shards saw them."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lorat.evaluate.cli import main
from lorat.evaluate.track.batch import Work, track_clips
from lorat.evaluate.track.memory.crops import crop_around, search_scale, template_scale
from lorat.evaluate.track.memory.feed import mean_colour
from lorat.evaluate.track.predictor import Predictor
from lorat.evaluate.track.settings import TrackerSettings
from lorat.evaluate.track.tracker import Tracker
from lorat.shards.pixels.geometry import adjust, crop_frame, crop_transform, xywh_to_xyxy
from lorat.shards.pixels.jpeg import read_image
from lorat.shards.pixels.resample import SERVED, serving
from lorat.train.network.reading import read_weights
from lorat.train.network.trained import export_merged, save_weights

MEAN = np.array([90.0, 100.0, 110.0], dtype=np.float32)


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    rng = np.random.default_rng(4)
    return cv2.GaussianBlur(rng.integers(0, 256, (720, 1280, 3), dtype=np.uint8), (0, 0), 0.7)


def stripes(period: int) -> np.ndarray:
    columns = np.where(np.arange(1280) // period % 2, 255, 0).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(columns[None, :, None], (720, 1280, 3)))


def test_without_a_scale_the_crop_is_the_published_one(frame):
    box = (400.0, 200.0, 700.0, 500.0)
    crop, transform = crop_around(frame, box, 4.0, 224, MEAN, None)
    adjusted = adjust(crop_transform(box, 4.0, (224, 224)), (1280, 720), (224, 224))
    np.testing.assert_array_equal(crop, crop_frame(frame, adjusted, (224, 224), MEAN))
    assert transform == adjusted.transform


def test_an_object_that_shards_do_not_shrink_is_cut_alike(frame):
    box = (600.0, 300.0, 660.0, 350.0)
    assert search_scale(box, (1280, 720), SERVED[224]) == template_scale(box, (1280, 720), SERVED[224]) == 1.0
    published, _ = crop_around(frame, box, 4.0, 224, MEAN, None)
    shards, _ = crop_around(frame, box, 4.0, 224, MEAN, 1.0)
    assert np.abs(published - shards).max() <= 1.0  # 8-bit, as stored images are


def test_fine_stripes_become_grey_as_in_shards_and_false_patterns_as_published():
    box = (340.0, 60.0, 940.0, 660.0)
    scale = search_scale(box, (1280, 720), SERVED[224])
    assert scale == pytest.approx(96 / 600, abs=0.01)
    shards, transform = crop_around(stripes(1), box, 4.0, 224, MEAN, scale)
    published, same = crop_around(stripes(1), box, 4.0, 224, MEAN, None)
    assert transform == same
    inside = slice(100, 124)
    assert np.abs(shards[inside, inside] - 127.5).max() < 16
    assert np.ptp(published[inside, inside]) > 100


@pytest.mark.parametrize(("search_size", "side"), [(96, 96), (224, 96), (256, 128), (378, 128), (448, 128)])
def test_a_search_size_is_served_by_the_smallest_build_that_is_not_below_it(search_size, side):
    box = (500.0, 300.0, 800.0, 600.0)
    assert template_scale(box, (1920, 1080), SERVED[serving(search_size)]) == pytest.approx(side / 300, abs=0.003)


def test_the_scales_are_those_of_the_shards_that_the_weights_were_trained_on(tiny_weights, tiny_predictor, caplog):
    def stored(weights: Path, resize: str = "shards"):
        return Predictor.load(TrackerSettings(weights=(weights,), device="cpu", dtype="float32", resize=resize)).stored

    assert stored(tiny_weights, "published") is None and not caplog.messages
    assert stored(tiny_weights) == SERVED[224]
    assert "names no shards; --resize shards takes those of lorat-prep build --serve 224" in caplog.messages[-1]
    own = tiny_weights.with_name("own.safetensors")
    save_weights(own, tiny_predictor.network, tiny_predictor.variant, {"stored": "[10.0, 64, 512, 3.0]"})
    assert stored(own) == (10.0, 64, 512, 3.0) and len(caplog.messages) == 1
    merged = own.with_name("merged.safetensors")
    export_merged(read_weights(own), merged, torch.float32)
    assert stored(merged) == (10.0, 64, 512, 3.0)


def test_boxes_far_outside_or_longer_than_the_frame_have_a_scale():
    for box in ((900.0, 900.0, 920.0, 920.0), (-50.0, 10.0, 400.0, 20.0)):
        assert 0 < search_scale(box, (320, 240), SERVED[224]) <= 1.0


def large(predictor: Predictor) -> Predictor:
    network, variant = predictor.network, predictor.variant
    return Predictor(network, variant, predictor.device, predictor.dtype, SERVED[224])


def test_one_and_many_targets_are_cut_the_same_way(tiny_predictor, make_clip):
    predictor = large(tiny_predictor)
    work = [Work(make_clip("a", 6)), Work(make_clip("b", 4, 2))]
    for outcome in track_clips(predictor, work, batch=2):
        clip, tracker = outcome.work.clip, Tracker(predictor)
        tracker.start(read_image(clip.frames[0]), clip.tracks[0].boxes[0])
        boxes = [tracker.track(read_image(path)).box for path in list(clip.frames)[1:]]
        tracked = xywh_to_xyxy(outcome.result.boxes[1:])
        np.testing.assert_allclose(tracked, boxes, rtol=0, atol=0.01)


def test_the_predictor_hands_its_choice_to_the_template(tiny_predictor, frame):
    box = np.array([340.0, 60.0, 940.0, 660.0])
    predictors = (tiny_predictor, large(tiny_predictor))
    crops = [predictor.cut_template(frame, box, mean_colour(frame)).crop for predictor in predictors]
    assert np.abs(crops[0] - crops[1]).mean() > 4.0
    assert crops[1].std() < crops[0].std()


def test_results_of_both_ways_do_not_mix(tiny_weights: Path, got10k_raw: Path, tmp_path):
    fixed = ["--weights", str(tiny_weights), "--raw", str(got10k_raw), "--dtype=float32"]
    fixed += ["--device=cpu", "--no-video", f"--out={tmp_path / 'out'}", "--datasets=got10k-val"]
    assert CliRunner().invoke(main, [*fixed, "--resize=shards"]).exit_code == 0
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert document["tracker"]["resize"] == "shards"
    refused = CliRunner().invoke(main, fixed)
    assert refused.exit_code == 2 and "--resize" in refused.stderr
