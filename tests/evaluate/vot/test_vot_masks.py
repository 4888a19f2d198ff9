"""Masks in VOT's challenges: the real toolkit with a small SAM, and TraX's masks by themselves."""

import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trax
from click.testing import CliRunner

from lorat.evaluate.cli import main
from lorat.evaluate.segment.settings import SegmentSettings
from lorat.evaluate.track.tracker import Targets
from lorat.evaluate.vot.dialogue import Dialogue
from lorat.prep.trees.base.regions import parse_mask
from lorat.shards.pixels.jpeg import read_image
from tests.evaluate.conftest import SIZE, moving_box
from tests.evaluate.segment.tiny import save_tiny_sam
from tests.evaluate.vot.sequences import FRAMES, mask, write_sequences


def placed(line: str) -> np.ndarray:
    """The whole frame's mask of a line of a trajectory."""
    whole = np.zeros(SIZE[::-1], dtype=bool)
    if parsed := parse_mask(line):
        x, y, pixels = parsed
        whole[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    return whole


def test_a_stack_of_masks_is_tracked_segmented_scored_and_packed(
    toolkit, tiny_weights, tiny_predictor, tmp_path, monkeypatch
):
    monkeypatch.setenv("VOT_RESULTS_BINARY", "0")  # the toolkit's own switch: trajectories as text
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sequences = write_sequences(tmp_path / "sequences", objects=2, count=1, write=mask)
    sam, workspace = save_tiny_sam(tmp_path / "sam.pth"), tmp_path / "workspace"
    segment = [f"--segment-weights={sam}", "--segment-shared"]
    told = [f"--workspace={workspace}", f"--sequences={sequences}", f"--weights={tiny_weights}", f"--toolkit={toolkit}"]
    exact = ["--device=cpu", "--dtype=float32"]

    def evaluate(*more: str):
        return CliRunner().invoke(main, ["vot", "tests/multiobject", *told, *exact, *more])

    outcome = evaluate("--segment=sam", *segment)
    assert outcome.exit_code == 0, outcome.output
    said = dict(line.split(": ", 1) for line in outcome.output.splitlines() if ": " in line)
    own = [f"--results={workspace / 'results/LoRAT/baseline'}", f"--sequences={workspace}"]
    assert CliRunner().invoke(main, ["score-masks", *own, f"--json={tmp_path / 'scores.json'}"]).exit_code == 0
    ours = json.loads((tmp_path / "scores.json").read_text())["mean"]
    theirs = json.loads((workspace / "analysis/LoRAT.json").read_text())["results"]["baseline"]["results"]
    quality, _, (accuracy, robustness, _), errors = (each[0] for each in theirs)
    names = ("quality", "accuracy", "robustness", "nre", "dre", "adq")
    assert [ours[name] for name in names] == pytest.approx([quality[0], accuracy, robustness, *errors])
    with zipfile.ZipFile(said["pack"]) as pack:
        lines = [pack.read(f"baseline/seq-0/seq-0_{number:03d}_001.txt").decode().split("\n") for number in (1, 2)]
    targets = Targets(tiny_predictor)
    segmenter = SegmentSettings(segment="sam", segment_weights=sam, segment_shared=True).load(torch.device("cpu"))
    frames = [read_image(sequences / f"seq-0/color/{number:08d}.jpg") for number in range(1, FRAMES + 1)]
    # A mask's box is of whole pixels.
    targets.start(frames[0], [np.floor(moving_box(0, 0) + 5 * number) for number in (0, 1)])
    seen = set()
    for index, frame in enumerate(frames[1:], 1):
        expected = segmenter(frame, [found.box for found in targets.track(frame)])
        for own, truth in zip(lines, expected, strict=True):
            np.testing.assert_array_equal(placed(own[index]), truth)
            seen.add(truth.tobytes())
    assert len(seen) > FRAMES
    refused = evaluate()
    assert refused.exit_code == 2 and "holds results of other weights, other options" in refused.stderr


@pytest.fixture
def dialogue(monkeypatch):
    """A dialogue with a server that is asked and answers here."""
    answers, asked = [], []

    class Server:
        def __init__(self, regions, *_, **__) -> None:
            self.regions = regions

        def wait(self):
            return asked.pop(0)

        def status(self, objects) -> None:
            answers.append(objects)

    monkeypatch.setattr(trax, "Server", Server)
    return SimpleNamespace(ask=asked.append, answers=answers)


def test_the_pixels_of_a_first_mask_decide_the_first_box(dialogue):
    window = np.zeros((20, 30), dtype=np.uint8)
    window[5:9, 7:12] = 1
    objects = [(trax.Mask.create(window, 40, 10), {}), (trax.Rectangle.create(1.5, 2.25, 10.0, 20.5), {})]
    image = {"color": SimpleNamespace(path=lambda: "frame.jpg")}
    dialogue.ask(SimpleNamespace(type=trax.TraxStatus.INITIALIZE, objects=objects, image=image))
    dialogue.ask(SimpleNamespace(type=trax.TraxStatus.QUIT))
    (request,) = Dialogue(masks=True).requests()
    np.testing.assert_array_equal(request.boxes, [[47, 15, 52, 19], [1.5, 2.25, 11.5, 22.75]])


def test_masks_are_sent_whole_and_a_lost_objects_is_empty(dialogue):
    masks = np.zeros((2, 12, 9), dtype=bool)
    masks[0, 3:7, 2:5] = True
    Dialogue(masks=True).answer(np.zeros((2, 4)), [0.5, 0.5], masks)
    (sent,) = dialogue.answers
    assert all(region.offset() == (0, 0) and properties == {} for region, properties in sent)
    np.testing.assert_array_equal([region.array() > 0 for region, _ in sent], masks)
