"""``lorat-eval vot`` with the real toolkit, and the tracker as the toolkit starts it."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lorat.evaluate.cli import main
from lorat.evaluate.track.batch import Tracked, Work, track_clips
from lorat.evaluate.track.predictor import Predictor
from lorat.evaluate.vot.dialogue import pixel_cover
from lorat.prep.trees.base.regions import parse_regions
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.pixels.geometry import xywh_to_xyxy
from lorat.train.network.trained import save_weights
from tests.evaluate.vot.sequences import FRAMES, mask, write_sequences


@pytest.fixture
def evaluate(toolkit, tiny_weights, monkeypatch):
    """Call the command for a stack and sequences in a folder, to track with LoRAT or a given predictor's network;
    returns the outcome and the workspace.
    """
    monkeypatch.setenv("LORAT_VOT_TOOLKIT", toolkit)
    monkeypatch.setenv("VOT_RESULTS_BINARY", "0")  # the toolkit's own switch: trajectories as text
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def call(stack: str, sequences: Path, *more: str, of: Predictor | None = None):
        workspace = sequences.with_name("workspace")
        if of is not None:
            save_weights(tiny_weights, of.network, of.variant)
        options = [f"--workspace={workspace}", f"--sequences={sequences}", f"--weights={tiny_weights}", *more]
        return CliRunner().invoke(main, ["vot", stack, *options, "--device=cpu", "--dtype=float32"]), workspace

    return call


def own_boxes(predictor, sequences: Path) -> dict[str, np.ndarray]:
    """Clip → (N, 4) xyxy as lorat-eval tracks it."""
    clips = read_clips(DATASETS["vot"], "all", sequences)
    done = list(track_clips(predictor, [Work(clip) for clip in clips], batch=2, threads=1))
    assert all(isinstance(item, Tracked) for item in done)
    return {item.work.clip.name: xywh_to_xyxy(item.result.boxes) for item in done}


def same_boxes(trajectory: str, own: np.ndarray) -> None:
    """All but the first frame, where the toolkit notes a start, are the pixels under our boxes."""
    boxes, codes = parse_regions(trajectory, "trajectory", "")
    assert codes[0] == 1 and len(boxes) == FRAMES
    np.testing.assert_array_equal(boxes[1:], [pixel_cover(box) for box in own[1:]])
    assert len(np.unique(boxes[1:], axis=0)) > 3  # it moves


def test_a_multistart_stack_is_tracked_as_lorat_eval_tracks_scored_and_packed(evaluate, small, tmp_path):
    """By SPMTrack, in whose process an anchor follows another and must find nothing of it."""
    sequences, spmtrack = write_sequences(tmp_path / "sequences", count=1), small("spmtrack")
    outcome, workspace = evaluate("vot2022/shorttermbox", sequences, of=spmtrack)
    assert outcome.exit_code == 0, outcome.output
    said = dict(line.split(": ", 1) for line in outcome.output.splitlines() if ": " in line)
    own = own_boxes(spmtrack, sequences)["seq-0"]
    with zipfile.ZipFile(said["pack"]) as pack:
        for file in ("unsupervised/seq-0/seq-0_001.txt", "baseline/seq-0/seq-0_00000000.txt"):
            same_boxes(pack.read(file).decode(), own)
        assert "baseline/seq-0/seq-0_00000011.txt" in pack.namelist()  # backwards
        assert "realtime/seq-0/seq-0_00000000.txt" in pack.namelist()
        scores = pack.read("unsupervised/seq-0/seq-0_001_confidence.value").decode().split()
        assert all(0.0 < float(score) <= 1.0 for score in scores[1:])
    assert "accuracy" in json.dumps(json.loads(Path(said["scores"]).read_text())).lower()
    assert "<html" in Path(said["report"]).read_text()
    assert (workspace / "LoRAT.safetensors").is_file()


def test_objects_given_as_masks_are_tracked_together_as_each_alone(evaluate, small, tmp_path):
    """By LoRATv2, with a memory for each."""
    sequences = write_sequences(tmp_path / "sequences", objects=3, count=1, write=mask)
    loratv2 = small("loratv2")
    outcome, workspace = evaluate("vots2024/main", sequences, "--name=Tiny-3", of=loratv2)
    assert outcome.exit_code == 0, outcome.output
    own = own_boxes(loratv2, sequences)
    results = workspace / "results/Tiny-3/baseline/seq-0"
    for number in (1, 2, 3):
        same_boxes((results / f"seq-0_{number:03d}_001.txt").read_text(), own[f"seq-0_{number:03d}"])


def test_an_object_outside_the_frame_ends_the_command_with_one_line(evaluate, tmp_path):
    sequences = write_sequences(tmp_path / "sequences", count=1)
    truth = sequences / "seq-0/groundtruth.txt"
    truth.write_text("-60,-50,20,20\n" + "10,10,20,20\n" * (FRAMES - 1))
    outcome, workspace = evaluate("tests/basic", sequences)
    (log,) = (workspace / "logs").glob("LoRAT_*.log")
    assert outcome.exit_code == 1
    reason = "first box (-60, -50, -40, -30): outside the 96x72 frame; correct the first box"
    failed = f"Error: tests/basic: the tracker failed at sequence seq-0: {reason} (log: {log})"
    assert outcome.stderr.strip().splitlines()[-1] == f"{failed}; the same command goes on"
    assert f"Error: {reason}" in log.read_text().splitlines()


@pytest.mark.parametrize(
    ("box", "cover"),
    [
        ((10.2, 20.7, 40.9, 60.1), (10, 20, 31, 41)),
        ((10.0, 20.0, 40.0, 60.0), (10, 20, 30, 40)),
        ((10.0, 20.0, 40.00005, 60.5), (10, 20, 30, 41)),
        ((0.0, 0.0, 0.3, 0.3), (0, 0, 1, 1)),
        ((12.5, 40.0, 12.5, 60.0), (0, 0, 0, 0)),
    ],
)
def test_a_box_is_reported_as_the_pixels_that_it_touches(box, cover):
    assert tuple(pixel_cover(box)) == cover
