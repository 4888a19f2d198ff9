"""Graphs of SPMTrack and LoRATv2 take and give their state or memory, and compute what the networks do."""

import json

import numpy as np
import pytest
import torch

from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.deploy.graphs import export_graphs
from lorat.train.network.variants import assemble
from tests.train.network.family import loratv2, spmtrack


def built(variant):
    """A network as it tracks, with loud random weights."""
    torch.manual_seed(5)
    network = assemble(variant, None).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            parameter.data.fill_(0.5)
    merge_adapters(network)
    return network.requires_grad_(False)


def crops(side, *count):
    return torch.rand(*count, side, side, 3) * 255


def normalised(images, variant):
    return ((images / 255 - torch.tensor(variant.mean)) / torch.tensor(variant.std)).movedim(-1, -3)


def run(runtime, file, **inputs):
    session = runtime.InferenceSession(file)
    return [torch.from_numpy(found) for found in session.run(None, {name: x.numpy() for name, x in inputs.items()})]


@pytest.fixture(scope="module")
def runtime():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnxruntime")


def assert_same(found, prediction):
    for mine, theirs in zip(found, prediction, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-3 * max(1.0, theirs.abs().max().item()))


def test_spmtracks_state_goes_in_and_comes_out(runtime, tmp_path):
    variant = spmtrack()
    network = built(variant)
    track, embed = export_graphs(tmp_path / "net.onnx", network, variant)
    template, mask, frames = crops(84, 1, 3), torch.rand(1, 3, 6, 6) > 0.5, crops(126, 2, 1)
    (tokens,) = run(runtime, embed, template=template, template_mask=mask)
    state, own = torch.zeros(1, 1, 64), None
    memory = network.remember(normalised(template, variant), mask)
    for frame in frames:
        *found, state = run(runtime, track, template_tokens=tokens, search=frame, state=state)
        prediction, own = network.follow(memory, normalised(frame, variant), own)
        assert_same(found, prediction)
        assert_same([state], [own])
    assert embed.stat().st_size < 0.2 * track.stat().st_size


@pytest.mark.parametrize("phase", [1, 2])
def test_loratv2s_memory_goes_from_graph_to_graph(runtime, tmp_path, phase):
    variant = loratv2(phase)
    network = built(variant)
    track, embed, *others = export_graphs(tmp_path / "net.onnx", network, variant)
    template, mask, search = crops(84, 1), torch.rand(1, 6, 6) > 0.5, crops(variant.search_size, 1)
    (memory,) = run(runtime, embed, template=template, template_mask=mask)
    inputs = normalised(template, variant)[:, None], mask[:, None]
    if phase == 1:
        assert others == []
        assert_same(
            run(runtime, track, memory=memory, search=search),
            network.predict(*inputs, normalised(search, variant)[:, None])[0],
        )
        return
    for reference in crops(84, 2, 1):  # another takes the place of the first
        (memory,) = run(runtime, others[0], template_memory=memory[..., :40, :], reference=reference)
        wanted = network.predict(*inputs, normalised(search, variant)[:, None], normalised(reference, variant))[0]
        assert_same(run(runtime, track, memory=memory, search=search), wanted)


def test_torch_export_holds_the_streams_that_a_graph_computes(tmp_path):
    variant = loratv2(2)
    files = export_graphs(tmp_path / "net.pt2", built(variant), variant)
    held = {"metadata.json": ""}
    program = torch.export.load(files[2], extra_files=held)
    assert json.loads(held["metadata.json"])["graph"] == "reference"
    assert {name.split(".mlp.fc1.")[1][0] for name in program.state_dict if ".mlp.fc1." in name} == {"1"}
    memory, reference = torch.zeros(1, 3, 2, 2, 40, 32), crops(84, 1)
    assert program.module()(template_memory=memory, reference=reference).shape == (1, 3, 2, 2, 76, 32)
