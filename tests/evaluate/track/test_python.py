"""`lorat.evaluate.Tracker`, as docs/python.md tells its users."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lorat.evaluate import Judge, Tracker
from lorat.evaluate.track.predictor import Predictor
from lorat.evaluate.track.settings import TrackerSettings
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.jpeg import Range16, read_image
from tests.evaluate.conftest import moving_box, picture, write_frames
from tests.evaluate.small_videos import write_video

PAGE = Path(__file__).parents[3] / "docs/python.md"
FIRST = (20, 18, 42, 35)


def test_the_pages_example_runs_and_says_what_the_tracker_says(tiny_weights, tmp_path, monkeypatch, capsys):
    write_frames(tmp_path / "frames", 5, 0)
    shutil.copy(tiny_weights, tmp_path)
    write_video(tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(code, PAGE, "exec"), names)
    tracker, frames = Tracker.load(tiny_weights), [read_image(file) for file in sorted(Path("frames").glob("*.jpg"))]
    tracker.start(frames[0], FIRST)
    found = [tracker.track(frame) for frame in frames[1:]]
    np.testing.assert_array_equal(names["boxes"], [each.box for each in found])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [f"{n} {box.round(1)} {score:.2f} {state}" for n, (box, score, state) in enumerate(found, 1)]
    assert len(lines) == 8 and Path("last.png").is_file()


def test_frames_of_numpy_pil_and_torch_are_one_frame(tiny_predictor):
    plain = [picture(index, 1) for index in range(3)]
    tensors = [torch.from_numpy(frame) for frame in plain]
    kinds = [
        plain,
        [Image.fromarray(frame) for frame in plain],
        tensors,
        [tensor.permute(2, 0, 1).contiguous() for tensor in tensors],
        [np.asfortranarray(frame) for frame in plain],
    ]
    runs = []
    for frames in kinds:
        tracker = Tracker(tiny_predictor)
        tracker.start(frames[0], moving_box(0, 1))
        runs.append([tracker.track(frame).box for frame in frames[1:]])
    for run in runs[1:]:
        np.testing.assert_array_equal(run, runs[0])


def test_settings_are_what_one_has(tiny_weights, tmp_path, monkeypatch):
    loaded = Tracker.load(device=torch.device("cpu"), dtype=torch.bfloat16, run=str(tmp_path / "run"), range16="auto")
    assert (loaded.predictor.device, loaded.predictor.dtype) == (torch.device("cpu"), torch.bfloat16)
    seen = []
    monkeypatch.setattr(Predictor, "load", seen.append)
    Tracker.load(str(tiny_weights), tiny_weights, variant=Path("v.yaml"), range16="7000,8000", redetect=True)
    wanted = {"variant": "v.yaml", "range16": Range16(7000, 8000), "redetect": True}
    assert seen == [TrackerSettings(weights=(tiny_weights, tiny_weights), **wanted)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engin": "onnx"}, "unknown setting 'engin'.* did you mean 'engine'"),
        ({"engine": "OpenVINO"}, "unknown engine 'OpenVINO'.* did you mean 'openvino'"),
        ({"engine": "tensorrt"}, "unknown engine 'tensorrt'; known: onnx, openvino, torch"),
        ({"resize": "linear"}, "unknown resize 'linear'"),
        ({"range16": "high"}, "range16 high"),
        ({"run": 3}, "run=3: give a value of type Path"),
        ({"redetect": "yes"}, "redetect='yes': give a value of type bool"),
        ({"device": 0}, "device=0: give a value of type str"),
        ({"dtype": torch.float64}, "unknown number type 'float64'"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(settings, words, tiny_weights):
    with pytest.raises(UserError, match=words):
        Tracker.load(**{"weights": tiny_weights} | settings)


@pytest.mark.parametrize("box", ["20,18,42,35", [[1, 2, 3, 4], [1, 2, 3]], None, "abcd", (1, 2, 3)])
def test_what_is_no_box_is_one_line(tiny_predictor, box):
    tracker = Tracker(tiny_predictor)
    for start in (tracker.start, tracker.start_all):
        with pytest.raises(UserError, match=r"first box .*four"):
            start(picture(0, 1), box)
    with pytest.raises(UserError, match="no target; call start"):
        _ = tracker.state
    tracker.start(picture(0, 1), torch.tensor([20, 18, 42, 35], dtype=torch.bfloat16))
    assert tracker.state.box.tolist() == [20, 18, 42, 35]


@pytest.mark.parametrize(
    "frame",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(3, 8, 8).bfloat16(),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        [[1, 2], [3, 4]],
    ],
)
def test_what_is_no_frame_is_refused_by_shape_and_type(tiny_predictor, frame):
    with pytest.raises(UserError, match=r"a frame of shape \(.*\) and type .*; give \(height, width, 3\) uint8 RGB"):
        Tracker(tiny_predictor).start(frame, (1, 1, 4, 4))


def test_rows_of_different_lengths_are_no_frame(tiny_predictor):
    with pytest.raises(UserError, match="rows of different lengths"):
        Tracker(tiny_predictor).start([[1, 2], [3]], FIRST)


def test_objects_tracked_together_are_tracked_as_alone_and_judged_by_ones_own_thresholds(tiny_predictor):
    frames, boxes = [picture(index, 0) for index in range(4)], [moving_box(0, 0), (5.0, 5, 30, 60)]
    together = Tracker(tiny_predictor, judge=Judge(unsure=1.0, lost=1.0, found=1.0, least=1.0))
    together.start_all(frames[0], boxes)
    found = [together.track_all(frame) for frame in frames[1:]]
    assert [[each.state for each in row] for row in found] == [["unsure"] * 2, ["lost"] * 2, ["lost"] * 2]
    for which, box in enumerate(boxes):
        alone = Tracker(tiny_predictor)
        alone.start(frames[0], box)
        expected = [alone.track(frame).box for frame in frames[1:]]
        np.testing.assert_allclose([row[which].box for row in found], expected, rtol=0, atol=0.01)


def test_the_package_imports_nothing_before_the_tracker_is_asked_for():
    code = """
import sys
import lorat.evaluate as package
print("torch" in sys.modules, package.Tracker.__name__, "torch" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said == "False Tracker True\n"
    with pytest.raises(ImportError, match="cannot import name 'Trucker'"):
        from lorat.evaluate import Trucker  # noqa: F401
