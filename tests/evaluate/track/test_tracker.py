from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorat.configs.schema import BackboneConfig, LoraConfig, VariantConfig
from lorat.evaluate.track.memory.feed import MIN_OBJECT_SIZE, search_window
from lorat.evaluate.track.predictor import Predictor, penalty_window, select_box
from lorat.evaluate.track.tracker import Cut, TargetState, Tracker, check_first_box, finish
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import CropTransform
from lorat.shards.pixels.jpeg import read_image
from lorat.train.network.trained import load_network

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def published() -> Path:
    folder = Path(__file__).parents[4] / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("no published trace here")
    return folder


def _state(box) -> TargetState:
    return TargetState(np.asarray(box, float), np.array([9.0, 8.0, 7.0], np.float32), None)


def test_post_processing_equals_the_published_arrays():
    arrays = np.load(GOLDEN / "g6_postprocess_16.npz")
    window = penalty_window(16)
    choice = select_box(torch.from_numpy(arrays["score_map"]), torch.from_numpy(arrays["boxes"]), window, 0.45)
    np.testing.assert_array_equal(window.flatten().numpy(), arrays["window"])
    np.testing.assert_array_equal(choice.cell.numpy(), arrays["best_index"])
    np.testing.assert_array_equal((choice.box * 224.0).numpy(), arrays["out_box"])
    np.testing.assert_array_equal(choice.score.numpy(), arrays["out_confidence"])


@pytest.mark.parametrize("weights", ["merged", "lora"])
@pytest.mark.parametrize("name", ["seqA", "seqB"])
def test_boxes_and_scores_follow_the_published_trace(published, weights, name):
    variant = VariantConfig(
        name="trace",
        backbone=BackboneConfig(
            timm="vit_small_patch14_dinov2", pretrained=False, args={"embed_dim": 64, "depth": 3, "num_heads": 4}
        ),
        lora=LoraConfig(rank=8, alpha=16),
        template_size=112,
        search_size=224,
    )
    trace = np.load(published / "g7_trace.npz")
    path = published / f"g7_tiny_tracker_{weights}_state.safetensors"
    network, variant = load_network(path, variant=variant)
    tracker = Tracker(Predictor(network, variant, torch.device("cpu"), torch.float32))
    files = sorted((published / f"g7_{name}").glob("*.jpg"))
    tracker.start(read_image(files[0]), trace[f"{name}/gt"][0])
    np.testing.assert_array_equal(tracker.state.mean, trace[f"{name}/template_image_mean"])
    assert (trace[f"{name}/margin"] > 1e-4).all()
    for index, file in enumerate(files[1:], start=1):
        box, score, _ = tracker.track(read_image(file))
        np.testing.assert_allclose(box, trace[f"{name}/boxes"][index], rtol=0, atol=1e-3)
        assert score == pytest.approx(trace[f"{name}/scores"][index], abs=1e-5)


def test_the_penalty_prefers_the_middle_of_equal_scores_but_reports_the_plain_score():
    logits = torch.full((2, 5, 5), -9.0)
    logits[0, 0, 1] = logits[0, 2, 2] = 0.0
    logits[1, 4, 0] = 9.0
    boxes = torch.arange(2 * 25 * 4, dtype=torch.float32).view(2, 5, 5, 4)
    choice = select_box(logits, boxes, penalty_window(5), 0.45)
    assert choice.cell.tolist() == [12, 20]
    assert choice.score[0].item() == pytest.approx(0.5)
    assert torch.equal(choice.box[1], boxes[1, 4, 0])


coordinate = st.floats(-500, 500, allow_nan=False)
side = st.floats(0.001, 400)


@given(coordinate, coordinate, side, side)
def test_search_windows_keep_the_centre_and_are_ten_pixels_at_least(x, y, w, h):
    window = search_window([x, y, x + w, y + h])
    assert (window[:2] + window[2:]) / 2 == pytest.approx([x + w / 2, y + h / 2], abs=1e-6)
    expected = [max(w, MIN_OBJECT_SIZE), max(h, MIN_OBJECT_SIZE)]
    assert window[2:] - window[:2] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("transform", "row", "box", "last"),
    [
        (((2.0, 4.0), (1.0, -4.0)), [101, 36, 201, 76, 0.5], [50, 10, 64, 20], [50, 10, 64, 20]),
        (((2.0, 2.0), (0.0, 0.0)), [-40, 4, -10, 30, 0.25], [0, 2, 0, 15], [10, 10, 20, 20]),
    ],
)
def test_a_box_is_cut_at_the_frame_and_becomes_the_last_box_unless_it_has_no_area(
    tiny_predictor, transform, row, box, last
):
    state, cut = _state([10, 10, 20, 20]), Cut(np.zeros((48, 64, 3), np.uint8), CropTransform(*transform))
    tracked, after = finish(tiny_predictor.memory(1), cut, np.array(row, float), None, state)
    assert (tracked.box.tolist(), tracked.score) == (box, row[4])
    assert after.box.tolist() == last and after.mean is state.mean


def test_a_target_left_outside_a_smaller_frame_sees_only_the_template_frames_colour(tiny_predictor):
    frame = np.zeros((30, 30, 3), dtype=np.uint8)
    crop, _ = tiny_predictor.cut_search(frame, np.array([900.0, 900, 920, 920]), np.array([9.0, 8.0, 7.0], np.float32))
    assert (crop == [9.0, 8.0, 7.0]).all()


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([1, 2, float("nan"), 4], "not four finite numbers"),
        ([1, 2, 3], "not four finite numbers"),
        ([5, 5, 5, 9], "no area"),
        ([70, 5, 80, 9], "outside the 64x48 frame"),
    ],
)
def test_a_first_box_that_cannot_be_tracked_is_refused(box, words):
    with pytest.raises(UserError, match=words):
        check_first_box(box, (64, 48))


def test_a_first_box_partly_outside_the_frame_is_kept_as_it_is():
    assert check_first_box((-5, -5, 10, 10), (64, 48)).tolist() == [-5, -5, 10, 10]


def test_tracking_before_start_and_frames_that_are_no_images_are_refused(tiny_predictor):
    tracker = Tracker(tiny_predictor)
    with pytest.raises(UserError, match="start"):
        tracker.track(np.zeros((8, 8, 3), np.uint8))
    for frame, words in ((np.zeros((8, 8, 3)), "float64"), (np.zeros((8, 8), np.uint8), r"\(8, 8\)")):
        with pytest.raises(UserError, match=words):
            tracker.start(frame, (1, 1, 4, 4))


def test_a_tracker_loaded_from_a_file_tracks_and_starts_over(tiny_weights, make_clip):
    clip = make_clip("a", 4)
    tracker = Tracker.load(tiny_weights, device="cpu", dtype="float32")
    frames = [read_image(path) for path in clip.frames]
    runs = []
    for _ in range(2):
        tracker.start(frames[0], clip.tracks[0].boxes[0])
        runs.append([tracker.track(frame) for frame in frames[1:]])
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first.box, second.box)
        assert first.score == second.score
        assert 0.0 < first.score < 1.0


def test_weights_that_give_no_finite_numbers_are_an_error_that_names_the_number_type(tiny_weights, make_clip):
    tracker = Tracker.load(tiny_weights, device="cpu", dtype="float32")
    torch.nn.init.constant_(tracker.predictor.network.head.reg_mlp.layers[-1].bias, float("nan"))
    frame = read_image(make_clip("a", 1).frames[0])
    tracker.start(frame, (20, 20, 40, 40))
    with pytest.raises(UserError, match="in float32: the weights are damaged; name whole ones"):
        tracker.track(frame)
