"""Graphs in int8 track nearly as the network does, and say by what they were scaled."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lorat.evaluate.calibrate.examples import calibration_clips, draw_examples
from lorat.evaluate.cli import main
from lorat.evaluate.measure.ope import overlaps
from lorat.evaluate.track.predictor import Predictor
from lorat.evaluate.track.settings import TrackerSettings
from lorat.evaluate.track.tracker import Targets
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.errors import UserError
from lorat.train.network.deploy.runtimes import read_metadata
from tests.evaluate.conftest import moving_box, picture, write_frames
from tests.evaluate.mistakes import one_line_error

WEIGHTS = "run/checkpoints/epoch_0010/model.safetensors"


def exported(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str):
    monkeypatch.chdir(folder)
    command = ["export-weights", "--int8", f"--weights={WEIGHTS}", "--out=net" + arguments[0], *arguments[1:]]
    return CliRunner().invoke(main, command)


def boxes(weights: Path) -> np.ndarray:
    targets = Targets(Predictor.load(TrackerSettings(weights=(weights,), dtype="float32", device="cpu")))
    targets.start(picture(0, 0), [moving_box(0, 0)])
    return np.array([targets.track(picture(index, 0))[0][0] for index in range(1, 6)])


@pytest.mark.parametrize(("suffix", "form"), [(".xml", "--openvino"), (".onnx", "--onnx")])
def test_an_int8_graph_tracks_nearly_as_the_network(suffix, form, tiny_weights, got10k_raw, tmp_path, monkeypatch):
    pytest.importorskip("nncf" if suffix == ".xml" else "onnxruntime")
    monkeypatch.setattr("lorat.evaluate.calibrate.examples.CROPS", 12)
    monkeypatch.setattr("lorat.evaluate.calibrate.examples.CHECKED", 4)
    scaled = [f"--calibrate={got10k_raw}"] if suffix == ".xml" else []
    done = exported(tmp_path, monkeypatch, suffix, form, *scaled)
    assert done.exit_code == 0, done.output + str(done.exception)
    known = read_metadata(Path(f"net{suffix}"))
    assert known["numbers"] == "int8" and known["graph"] == "track"
    if scaled:
        assert "12 search crops and their templates, of sequences of got10k-val 3" in done.stdout
        assert "overlap float32's by" in done.stdout
        assert json.loads(known["calibration"]) == {"search_crops": 12, "sequences": {"got10k-val": 3}}
        assert Path("net.bin").stat().st_size < 0.6 * 4 * 115_000  # of so many weights, a part of them in float32
    assert "numbers" not in read_metadata(Path(f"net.template{suffix}"))
    exact, coarse = boxes(tiny_weights), boxes(Path(f"net{suffix}"))
    assert not np.array_equal(coarse, exact) and overlaps(exact, coarse).mean() > 0.9


def test_examples_are_drawn_alike_each_time_and_others_for_another_purpose(small, got10k_raw):
    clips = calibration_clips(TreeOptions(raw=got10k_raw))
    predictor = small("spmtrack")
    drawn = [draw_examples(predictor, clips, 5, what) for what in ("one", "one", "another")]
    first, again, other = ([example["search"].numpy() for example in draw.inputs] for draw in drawn)
    assert len(first) == 5 and np.array_equal(first, again) and not np.array_equal(first, other)
    assert drawn[0].inputs[1]["state"].any()  # handed on from the frame before


def test_examples_are_of_different_frames_and_of_trees_of_ones_own_too(tiny_predictor, tmp_path, said):
    for number in range(3):
        folder = tmp_path / f"generic/mine/{number}"
        write_frames(folder, 9, number)
        boxes = (moving_box(index, number) for index in range(9))
        (folder / "groundtruth.txt").write_text("".join(f"{x1},{y1},{x2 - x1},{y2 - y1}\n" for x1, y1, x2, y2 in boxes))
    clips, used = calibration_clips(TreeOptions(raw=tmp_path)), set()
    assert [line for line in said.messages if "only 3 sequences" in line]
    first = draw_examples(tiny_predictor, clips, 8, "one", used=used)
    draw_examples(tiny_predictor, clips, 4, "another", used=used)
    assert [*first.sequences] == ["generic-all"] and len(used) >= 12  # as many frames as crops
    everything = draw_examples(tiny_predictor, clips, 30, "all", used=used)  # there are fewer frames
    assert len(everything.inputs) == 30 and len(used) <= 24


def test_what_is_damaged_is_left_out_unless_it_is_most(tiny_predictor, got10k_raw, said):
    whole = calibration_clips(TreeOptions(raw=got10k_raw))
    ((first, *_),) = whole
    for number in (0, 3, 4):
        first.frames[number].write_bytes(b"damaged")
    first.tracks[0].boxes[1] += 1e4
    drawn = draw_examples(tiny_predictor, whole, 12, "scales")
    assert len(drawn.inputs) == 12 and drawn.sequences == {"got10k-val": 2}
    (line,) = (line for line in said.messages if "left out" in line)
    assert f"got10k-val, {first.name}: " in line
    with pytest.raises(UserError, match=rf"10 of 10 places .*got10k-val, {first.name}: "):
        draw_examples(tiny_predictor, [[first]], 12, "scales")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((".xml", "--openvino"), ("--calibrate",)),
        ((".onnx", "--onnx", "--calibrate=run"), ("--calibrate", "--onnx")),
        ((".pt2", "--torch-export"), ("--int8", "--torch-export")),
        ((".xml", "--openvino", "--calibrate=run"), ("--calibrate run", "no sequences")),
    ],
)
def test_what_int8_lacks_is_one_line(arguments, words, tiny_weights, tmp_path, monkeypatch):
    pytest.importorskip("nncf")
    one_line_error(exported(tmp_path, monkeypatch, *arguments), *words)
