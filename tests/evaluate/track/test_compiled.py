"""A compiled evaluation: one graph for whatever is under way, and results of its own."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch._dynamo.testing import CompileCounterWithBackend

from lorat.evaluate.cli import main
from lorat.evaluate.track.batch import Work, group_sizes, track_clips
from lorat.evaluate.track.predictor import Predictor
from lorat.train.network.deploy import devices


@pytest.fixture
def graphs(monkeypatch):
    """Counts graphs, and runs them as they are: what a C++ compiler makes of them is not asked."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    real = torch.compile
    monkeypatch.setattr(devices.torch, "compile", lambda f, **options: real(f, backend=counter, **options))
    yield counter
    torch._dynamo.reset()


@pytest.mark.parametrize(("method", "batch"), [("lorat", 3), ("lorat", 9), ("spmtrack", 3), ("loratv2", 3)])
def test_sequences_that_begin_and_end_are_tracked_by_one_graph(small, make_clip, graphs, method, batch):
    lengths = (7, 1, 4, 9, 2, 3, 5, 6, 8)
    work = [Work(make_clip(f"s{n}", frames, n)) for n, frames in enumerate(lengths)]
    eager = small(method)
    plain = {o.work.clip.name: o.result for o in track_clips(eager, work, batch=batch)}
    predictor = Predictor(eager.network, eager.variant, eager.device, torch.float32)
    predictor.compile(group_sizes(batch, predictor.device)[0])
    for outcome in track_clips(predictor, work, batch=batch):
        expected = plain[outcome.work.clip.name]
        np.testing.assert_allclose(outcome.result.boxes, expected.boxes, rtol=0, atol=0.01)
        np.testing.assert_allclose(outcome.result.scores, expected.scores, rtol=0, atol=1e-4)
    assert graphs.frame_count == 1


def test_the_option_compiles_and_its_results_do_not_mix_with_others(tiny_weights, got10k_raw, tmp_path, graphs):
    out = tmp_path / "out"
    command = [f"--weights={tiny_weights}", f"--raw={got10k_raw}", f"--out={out}", "--no-video"]
    command += ["--datasets=got10k-val", "--device=cpu", "--dtype=float32"]
    done = CliRunner().invoke(main, [*command, "--compile"])
    assert done.exit_code == 0, done.output
    assert graphs.frame_count == 1
    assert json.loads((out / "tracker.json").read_text())["dtype"] == "float32 compiled"
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 2
    assert "--compile" in refused.stderr
