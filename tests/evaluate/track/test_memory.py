"""Trackers that remember: traces of the published systems, and what is kept of a target."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from lorat.configs.load import load_variant
from lorat.configs.schema import BackboneConfig, LoraConfig, VariantConfig
from lorat.evaluate.cli import main
from lorat.evaluate.track import predictor as predictors
from lorat.evaluate.track.memory import templates
from lorat.evaluate.track.memory.base import UNKNOWN, Seen
from lorat.evaluate.track.memory.feed import mean_colour, search_window
from lorat.evaluate.track.memory.templates import MOST_ENTRIES, PUBLISHED_RULES, Album, Entry, chosen
from lorat.evaluate.track.predictor import Predictor
from lorat.evaluate.track.tracker import (
    Cut,
    Targets,
    TargetState,
    TrackedBox,
    Tracker,
    begin,
    finish,
    locate,
    prepare_search,
)
from lorat.shards.pixels.geometry import CropTransform, adjust, box_mask, crop_transform
from lorat.shards.pixels.jpeg import read_image
from lorat.train.network.reading import read_weights
from lorat.train.network.trained import export_merged, load_network, save_weights

SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def spmtrack(rule: str = "quarter") -> VariantConfig:
    return VariantConfig(
        name="spmtrack-trace",
        method="spmtrack",
        backbone=BackboneConfig(timm="vit_small_patch14_dinov2", pretrained=False, args=SIZES),
        lora=LoraConfig(rank=4, alpha=8, experts=4),
        template_size=196,
        search_size=224,
        search_factor=5.0,
        templates=3,
        searches=2,
        memory_rule=rule,
    )


def loratv2(phase: int, threshold: float = 0.9) -> VariantConfig:
    return VariantConfig(
        name=f"loratv2-p{phase}-trace",
        method="loratv2",
        backbone=BackboneConfig(
            timm="vit_small_patch14_reg4_dinov2.lvd142m",
            layout="timm",
            prefix_tokens="registers",
            args=SIZES | {"img_size": 224},
        ),
        lora=LoraConfig(rank=4, alpha=4),
        template_size=84,
        search_size=112 if phase == 1 else 140,
        search_factor=4.0 if phase == 1 else 5.0,
        reference_size=None if phase == 1 else 84,
        reference_threshold=threshold,
    )


def predictor_of(golden: Path, tmp_path: Path, variant: VariantConfig) -> Predictor:
    """The published network of a trace."""
    options = {}
    if variant.method == "spmtrack":
        last = golden / "g11_spmtrack_tracker_state.safetensors"
    else:
        files = dict[str, dict[str, torch.Tensor]]()
        for name, tensor in load_file(golden / "g12_loratv2_tracker_states.safetensors").items():
            part, _, name = name.partition(".")
            files.setdefault(part, {})[name] = tensor
        for part, tensors in files.items():
            save_file(tensors, tmp_path / f"{part}.safetensors")
        backbone, first, second = (tmp_path / f"{part}.safetensors" for part in ("backbone", "p1", "p2"))
        last = first if variant.reference_size is None else second
        options = {"before": [] if last == first else [first], "backbone": backbone}
    network, variant = load_network(last, variant=variant, **options)
    return Predictor(network, variant, torch.device("cpu"), torch.float32)


def follow(tracker: Tracker, golden: Path, first: np.ndarray, look=lambda: None):
    """Track the frames of a trace, and look after each."""
    files, found = sorted((golden / "g7_seqA").glob("*.jpg")), []
    tracker.start(read_image(files[0]), first)
    for file in files[1:]:
        found.append(tracker.track(read_image(file)))
        look()
    return found


@pytest.fixture
def cells(monkeypatch) -> list[int]:
    """The cells that are chosen."""
    chosen_cells, select = [], predictors.select_box

    def selected(*arguments):
        choice = select(*arguments)
        chosen_cells.extend(choice.cell.tolist())
        return choice

    monkeypatch.setattr(predictors, "select_box", selected)
    return chosen_cells


def assert_crops(found, grids):
    """Crops (S, S, 3), averaged over the squares of a grid of theirs."""
    count, _, grid, _ = grids.shape
    side = len(found[0]) // grid
    means = np.stack(found).reshape(count, grid, side, grid, side, 3).mean((2, 4)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(means, grids, rtol=0, atol=1e-4 * np.abs(grids).max())


def assert_boxes(found, boxes, scores):
    np.testing.assert_allclose([each.box for each in found], boxes[1:], rtol=0, atol=1e-3)
    np.testing.assert_allclose([each.score for each in found], scores[1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", ["quarter", "third"])
def test_spmtrack_follows_the_published_trace(golden, tmp_path, rule, cells):
    arrays = np.load(golden / "g11_spmtrack_trace.npz")
    trace = {name.partition("/")[2]: arrays[name] for name in arrays.files if name.startswith(rule)}
    predictor = predictor_of(golden, tmp_path, spmtrack(rule))
    tracker, cut, cuts, looked, states = Tracker(predictor), predictor.cut_template, [], [], []
    predictor.cut_template = lambda *arguments: cuts.append(cut(*arguments)) or cuts[-1]

    def look():
        looked.append(tracker.state.kept.looked_at())
        states.append(tracker.state.kept.state[0].numpy())

    found = follow(tracker, golden, trace["boxes"][0], look)
    assert_boxes(found, trace["boxes"], trace["scores"])
    assert looked == [tuple(row) for row in trace["selection"].tolist()] and cells == trace["best_index"].tolist()
    if rule == "quarter":  # the other trace holds no more
        np.testing.assert_allclose(states, trace["state"], rtol=0, atol=1e-4)
        np.testing.assert_array_equal([each.mask for each in cuts], trace["memory_masks"][: len(cuts)])
        assert_crops([each.crop for each in cuts], trace["memory_crop_grid7"][: len(cuts)])
        for box, (scale, shift) in zip(trace["boxes"], trace["memory_crop_params"], strict=True):
            adjusted = adjust(crop_transform(box, 2.0, (196, 196)), (320, 240), (196, 196)).transform
            np.testing.assert_allclose((adjusted.scale, adjusted.translation), (scale, shift), rtol=1e-6)


def test_a_whole_file_of_spmtrack_tracks_without_another(golden, tmp_path):
    trace, whole = np.load(golden / "g11_spmtrack_trace.npz"), tmp_path / "whole.safetensors"
    file = read_weights(golden / "g11_spmtrack_tracker_state.safetensors", spmtrack())
    export_merged(file, whole, torch.float32)
    tracker = Tracker.load(whole, device="cpu", dtype="float32")
    assert_boxes(follow(tracker, golden, trace["quarter/boxes"][0]), trace["quarter/boxes"], trace["quarter/scores"])


@pytest.mark.parametrize("phase", [1, 2])
def test_loratv2_follows_the_published_trace(golden, tmp_path, phase, cells):
    arrays = np.load(golden / "g12_loratv2_trace.npz")
    trace = {name.partition("/")[2]: arrays[name] for name in arrays.files if name.startswith(f"p{phase}")}
    predictor = predictor_of(golden, tmp_path, loratv2(phase))
    tracker, last, renewed = Tracker(predictor), [], []
    masks, references, cut, reference = [], [], predictor.cut_template, predictor.cut_reference
    predictor.cut_template = lambda *arguments: masks.append(cut(*arguments)) or masks[-1]
    predictor.cut_reference = lambda *arguments: references.append(reference(*arguments)) or references[-1]

    def look():
        last.append(tracker.state.box)
        renewed.append(tracker.state.kept.seen is not None)

    found = follow(tracker, golden, trace["boxes"][0], look)
    assert_boxes(found, trace["boxes"], trace["scores"])
    np.testing.assert_allclose(last, trace["last_box"], rtol=0, atol=1e-3)
    np.testing.assert_array_equal([each.mask for each in masks], trace["template_mask"][None])
    assert cells == trace["best_index"].tolist()
    if phase == 2:  # the last frame's would be cut with the next
        frames = [0, *(number for number, now in enumerate(renewed, start=1) if now)]
        assert [number for number in frames if number < len(renewed)] == trace["reference_frames"].tolist()
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        assert_crops([(each / 255 - mean) / std for each in references], trace["reference_grid"])


def test_a_reference_that_no_score_renews_stays_the_first_frames(golden, tmp_path):
    boxes = np.load(golden / "g12_loratv2_trace.npz")["p2/boxes_never_updated"]
    found = follow(Tracker(predictor_of(golden, tmp_path, loratv2(2, threshold=1.0))), golden, boxes[0])
    np.testing.assert_allclose([each.box for each in found], boxes[1:], rtol=0, atol=1e-3)


@pytest.mark.parametrize("rule", ["quarter", "third"])
def test_the_choice_of_templates_is_the_published_one(golden, rule):
    arrays = np.load(golden / "g11_spmtrack_memory.npz")
    assert [chosen(int(count), rule) for count in arrays["frame"]] == [tuple(row) for row in arrays[rule].tolist()]


def test_masks_of_long_thin_boxes_are_clipped_to_the_grid(golden):
    arrays = np.load(golden / "g11_spmtrack_memory.npz")
    rows = (arrays[f"mask/{name}"] for name in ("boxes", "crop_params", "clipped"))
    for box, (scale, shift), mask in zip(*rows, strict=True):
        np.testing.assert_array_equal(box_mask(CropTransform(tuple(scale), tuple(shift)).apply(box), 196, 14), mask)


def test_the_last_box_after_boxes_that_miss_the_frame_is_the_published_one(golden, small):
    arrays = {n: a for n, a in np.load(golden / "g11_spmtrack_memory.npz").items() if n.startswith("last_box")}
    memory = small("lorat").memory(1)
    width, height = arrays["last_box/frame_size"]
    cut = Cut(np.zeros((height, width, 3), np.uint8), CropTransform((1.0, 1.0), (0.0, 0.0)))
    state, following = TargetState(arrays["last_box/start"], np.zeros(3, np.float32), None), []
    for box, kept in zip(arrays["last_box/predicted"], arrays["last_box/kept"], strict=True):
        _, state = finish(memory, cut, np.append(box, 0.5), None, state)
        np.testing.assert_allclose(state.box, kept, rtol=0, atol=1e-9)
        next_crop = crop_transform(search_window(state.box), 5.0, (224, 224))
        following.append((next_crop.scale, next_crop.translation))
    np.testing.assert_allclose(following, arrays["last_box/next_crop_params"], rtol=0, atol=1e-9)


ENTRY = Entry(np.zeros((1, 1, 3), np.uint16), np.zeros((1, 1), bool))


@pytest.mark.parametrize("rule", ["quarter", "third"])
@pytest.mark.parametrize("frames", [400, 5, 2])
def test_no_template_is_dropped_that_is_chosen_later_and_the_others_are(rule, frames):
    album, share = Album(rule, frames, {0: ENTRY}, torch.zeros(1, 1)), 1 / 4 if rule == "quarter" else 1 / 3
    for count in range(1, frames):
        assert album.count == count and album.looked_at() == chosen(count, rule)
        assert len(album.entries) <= 4 + share * frames
        album.add(ENTRY)


@pytest.mark.parametrize("rule", ["quarter", "third"])
@pytest.mark.parametrize("said", [None, 500])  # or less than there are
def test_of_a_sequence_that_may_have_no_end_a_fixed_number_is_held_of_what_the_rule_asks_for(rule, said):
    album, exact, near = Album(rule, said, {0: ENTRY}, torch.zeros(1, 1)), said or 340, 0 if said is None else 4 * said
    for count in range(1, 2100):
        if count < exact or count > near:
            off = np.abs(np.subtract(album.looked_at(), chosen(count, rule))).max()
            assert off <= (0 if count < exact else count / 200)
        assert album.count - 1 in album.entries  # is repeated where the next box has no sides
        assert len(album.entries) <= MOST_ENTRIES
        album.add(ENTRY)
    assert len(album.entries) > MOST_ENTRIES / 2


def frame_with(box: tuple[int, int, int, int]) -> np.ndarray:
    frame = np.full((72, 96, 3), 90, np.uint8)
    x1, y1, x2, y2 = box
    frame[y1:y2, x1:x2] = 200
    return frame


def test_a_box_past_a_corner_repeats_the_last_template_and_one_without_width_is_cut(small):
    memory = small("spmtrack").memory(1)
    frame = frame_with((20, 20, 40, 40))
    album = memory.begin(frame, np.array([20.0, 20, 40, 40]), mean_colour(frame), UNKNOWN)
    for box, same in (([96.0, 72, 96, 72], True), ([96.0, 20, 96, 40], False)):
        box, last = np.array(box), album.entries[album.count - 1]
        memory.note(album, Seen(frame, box, box, 0.9, torch.zeros(1, 64)))
        memory.learn(album)
        assert (album.entries[album.count - 1] is last) is same
    assert album.count == 3


def test_a_state_is_handed_on_and_fresh_after_a_start(small):
    frames = [frame_with((x, 20, x + 20, 40)) for x in range(20, 40, 4)]
    tracker = Tracker(small("spmtrack"))
    runs = []
    for _ in range(2):
        tracker.start(frames[0], (20, 20, 40, 40))
        assert not tracker.state.kept.state.any()
        runs.append([tracker.track(frame) for frame in frames[1:]])
        assert tracker.state.kept.state.any() and tracker.state.kept.count == 4  # the last is cut when it is needed
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first.box, second.box)


@pytest.mark.parametrize("method", ["spmtrack", "loratv2"])
def test_targets_of_one_video_are_each_tracked_as_alone(small, method):
    frames = [frame_with((x, 20, x + 20, 40)) for x in range(20, 60, 4)]
    boxes, predictor = np.array([[20.0, 20, 40, 40], [50, 30, 70, 44], [5, 5, 30, 60]]), small(method)
    targets, found = Targets(predictor), list[list[TrackedBox]]()
    for first in boxes:
        alone = Tracker(predictor)
        alone.start(frames[0], first)
        found.append([alone.track(frame) for frame in frames[1:]])
    targets.start(frames[0], boxes)
    for frame, *singly in zip(frames[1:], *found, strict=True):
        together = targets.track(frame)
        np.testing.assert_allclose([a.box for a in together], [a.box for a in singly], rtol=0, atol=0.01)
        np.testing.assert_allclose([a.score for a in together], [a.score for a in singly], rtol=0, atol=1e-4)


def test_what_loratv2_remembers_does_not_grow_and_its_slots_come_back(small):
    predictor = small("loratv2")
    memory, crops = predictor.memory(2), predictor.room_for_crops(1)
    renewed, remember = 0, predictor.engine.remember_reference
    place, size = memory.memory.data_ptr(), memory.memory.numel()

    def update(*arguments):
        nonlocal renewed
        renewed += 1
        return remember(*arguments)

    predictor.engine.remember_reference = update
    for _ in range(3):
        frame = frame_with((20, 20, 40, 40))
        state = begin(memory, frame, np.array([20.0, 20, 40, 40]))
        for index in range(200 if not renewed else 2):
            x = 10 + index % 50
            cut = prepare_search(predictor, memory, frame_with((x, 20, x + 20, 40)), state, crops[0])
            (answer,) = locate(predictor, memory, [state], crops).each()
            _, state = finish(memory, cut, *answer, state)
        assert len(memory.free) == 1
        memory.forget(state.kept)
    assert sorted(memory.free) == [0, 1] and renewed > 3
    assert (memory.memory.data_ptr(), memory.memory.numel()) == (place, size)


@pytest.mark.parametrize("method", ["spmtrack", "loratv2"])
def test_an_evaluation_goes_on_where_it_stopped(small, method, tmp_path, got10k_raw):
    predictor, weights, out = small(method), tmp_path / "model.safetensors", tmp_path / "out"
    save_weights(weights, predictor.network, predictor.variant)
    fixed = [f"--weights={weights}", f"--raw={got10k_raw}", "--dtype=float32", "--device=cpu", "--no-video"]

    def boxes(folder: Path) -> dict[str, str]:
        return {file.name: file.read_text() for file in sorted((folder / "results").rglob("*_00000?.txt"))}

    run = partial(CliRunner().invoke, main)
    done = run([*fixed, f"--out={out}", "--datasets=got10k-val"])
    assert done.exit_code == 0, done.output
    assert {"spmtrack": "SPMTrack tiny", "loratv2": "LoRATv2 tiny"}[method] in done.output
    whole = boxes(out)
    lost = next(file for file in (out / "results").rglob("*_000002.txt"))
    lost.unlink()
    assert len(whole) == 3 and run([*fixed, f"--out={out}", "--datasets=got10k-val"]).exit_code == 0
    assert boxes(out) == whole


def test_published_numbers_take_the_published_rule_of_a_data_set_and_results_say_so(
    small, tmp_path, got10k_raw, monkeypatch
):
    predictor, weights, out = small("spmtrack"), tmp_path / "model.safetensors", tmp_path / "out"
    save_weights(weights, predictor.network, predictor.variant)
    assert PUBLISHED_RULES == {"spmtrack-B-378": {"lasot": "third"}} and load_variant("spmtrack-B-378")
    monkeypatch.setattr(templates, "PUBLISHED_RULES", {"spmtrack-tiny": {"got10k": "third"}})
    fixed = [f"--weights={weights}", f"--raw={got10k_raw}", "--dtype=float32", "--device=cpu", "--no-video"]
    fixed += ["--datasets=got10k-val", "--sequences=GOT-10k_Val_000003"]

    def asked(*more: str) -> tuple[set[str], str]:
        rules = set[str]()
        monkeypatch.setattr(templates, "chosen", lambda count, rule: rules.add(rule) or chosen(count, rule))
        return rules, CliRunner().invoke(main, [*fixed, *more]).output

    assert "third" in asked(f"--out={out}", "--published")[0]
    assert json.loads((out / "metrics.json").read_text())["tracker"]["memory_rules"] == {"got10k": "third"}
    assert "of a third on got10k" in (out / "report.html").read_text()
    assert "--published" in asked(f"--out={out}")[1]
    assert asked(f"--out={tmp_path / 'other'}", "--limit=1")[0] == {"quarter"}
