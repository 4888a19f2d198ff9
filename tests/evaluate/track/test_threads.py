"""While it tracks, a tracker takes the cores that other work leaves."""

import pytest
import torch

from lorat.evaluate.track import predictor as predictor_module
from lorat.evaluate.track.tracker import Tracker
from lorat.shards.pixels.jpeg import read_image
from lorat.train.network.deploy import processor


@pytest.fixture
def tracker(tiny_weights, make_clip, monkeypatch):
    """One of a network that counts as large, begun beside other work that then ends."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    for name, value in {"is_small": False, "cores_a_rank": 2, "free_cores": 0.4}.items():
        monkeypatch.setattr(processor, name, lambda *args, value=value: value)
    monkeypatch.setattr(processor.CoreWatch, "mean", lambda watch: 2.0)
    monkeypatch.setattr(processor, "_WATCHED", 0.0)
    tracker = Tracker.load(tiny_weights, device="cpu", dtype="float32")
    clip = make_clip("one", 2)
    tracker.start(read_image(clip.frames[0]), clip.tracks[0].boxes[0])
    assert torch.get_num_threads() == 1
    return tracker, read_image(clip.frames[1])


def test_cores_that_come_free_are_taken(tracker):
    tracker, frame = tracker
    tracker.track(frame)
    assert torch.get_num_threads() == 2


def test_a_compiled_graph_keeps_the_number_that_it_is_for(tracker, monkeypatch):
    tracker, frame = tracker
    monkeypatch.setattr(predictor_module, "compile_whole", lambda function, device: function)
    tracker.predictor.compile(1)
    tracker.track(frame)
    assert torch.get_num_threads() == 1
