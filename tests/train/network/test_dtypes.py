"""Number types and devices: what is narrow stays near float32, and nothing needs float64."""

import copy

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lorat.evaluate.track.memory.feed import TemplateInput
from lorat.evaluate.track.predictor import Predictor
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.deploy import devices
from lorat.train.network.deploy.devices import pick_device, pick_dtype
from lorat.train.network.deploy.processor import Measured
from lorat.train.network.variants import hold_matrices_in
from lorat.train.step.loss import Objective

CPU, CUDA, METAL = (torch.device(kind) for kind in ("cpu", "cuda", "mps"))


def step_inputs(batch=2):
    draw = torch.Generator().manual_seed(7)
    template, search = (
        torch.randint(0, 256, (batch, 1, 3, side, side), generator=draw, dtype=torch.uint8) for side in (112, 224)
    )
    mask = torch.rand(batch, 1, 8, 8, generator=draw) > 0.5
    positive = torch.zeros(batch, 1, 16, 16, dtype=torch.bool)
    positive[..., 4:7, 5:9] = True
    box = torch.tensor([[5.0, 4.0, 9.0, 7.0]]).expand(batch, 1, 4) / 16
    return template, mask, search, None, positive, box, positive.sum()[None].float(), torch.ones(())


@pytest.fixture
def merged(tiny):
    network, variant = tiny
    merge_adapters(network)
    return network.eval().requires_grad_(False), variant


def targets(count=3):
    rng = np.random.default_rng(0)
    crops = rng.uniform(0, 255, (count, 224, 224, 3)).astype(np.float32)
    template = rng.uniform(0, 255, (112, 112, 3)).astype(np.float32)
    mask = np.zeros((8, 8), dtype=np.bool_)
    mask[2:6, 3:5] = True
    return [TemplateInput(template, mask)] * count, crops


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.6), (torch.float16, 0.08)], ids=["bfloat16", "float16"])
def test_narrow_weights_give_nearly_the_boxes_of_float32(merged, dtype, near):
    network, variant = merged
    narrow = copy.deepcopy(network)
    hold_matrices_in(narrow, dtype)
    templates, crops = targets()
    rows = []
    for net, kind in ((network, torch.float32), (narrow, dtype)):
        predictor = Predictor(net, variant, CPU, kind)
        tokens = predictor.embed(templates)
        assert tokens.dtype == torch.float32
        prediction = net.track(tokens, predictor.engine._normalise(torch.from_numpy(crops)))
        assert prediction.score_map.dtype == prediction.boxes.dtype == torch.float32
        rows.append(prediction.boxes * variant.search_size)
        assert np.isfinite(predictor.predict(tokens, crops).rows).all()
    assert 0 < (rows[0] - rows[1]).abs().max() < near


class NoDouble(TorchDispatchMode):
    """Fails on the first operation that gives a float64 tensor."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                assert tensor.dtype not in (torch.float64, torch.complex128), function
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_step_computes_nothing_in_float64(tiny, dtype):
    network, variant = tiny
    objective = Objective(network.train(), variant, dtype)
    with NoDouble():
        objective(*step_inputs()).total.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tracking_computes_nothing_in_float64(merged, dtype):
    network, variant = merged
    hold_matrices_in(network, dtype)
    templates, crops = targets()
    with NoDouble():
        predictor = Predictor(network, variant, CPU, dtype)
        predictor.predict(predictor.embed(templates), crops)


def on_fake_cuda(network, mode):
    """Move a network to a CUDA device that PyTorch only imagines."""
    for module in network.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    fake = mode.from_tensor(tensor.detach())
                    with mode:
                        fake = fake.to("cuda")
                    trained = tensor.requires_grad
                    is_buffer = table is module._buffers
                    table[name] = fake if is_buffer else torch.nn.Parameter(fake, trained)
    return network


class NoCopies(TorchDispatchMode):
    """Fails where a tensor goes from one device to another: the processor would wait for a GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            tensors = [t for t in (*args, result) if isinstance(t, torch.Tensor)]
            assert {t.device.type for t in tensors} == {"cuda"}, function
        return result


def test_all_tensors_of_a_step_are_on_the_networks_device_and_only_its_batch_is_copied(tiny):
    """A tensor made elsewhere would make an operation fail."""
    network, variant = tiny
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    objective = on_fake_cuda(Objective(network.train(), variant, torch.float32), mode)
    with mode:
        inputs = [None if t is None else mode.from_tensor(t).to("cuda") for t in step_inputs()]
        with NoCopies():
            losses = objective(*inputs)
    assert {loss.device.type for loss in losses} == {"cuda"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_tensors_of_a_tracked_frame_are_on_the_networks_device(merged, dtype):
    network, variant = merged
    hold_matrices_in(network, dtype)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    on_fake_cuda(network, mode)
    network.to = lambda device: network  # is there already
    with mode:
        predictor = Predictor(network, variant, CUDA, dtype)
        tokens = torch.zeros(3, 64, 64, device=CUDA)
        rows, _ = predictor._locate_rows(tokens, torch.zeros(3, 224, 224, 3, device=CUDA))
    assert rows.shape == (3, 5)
    assert rows.device.type == "cuda"


def test_auto_takes_cuda_then_metal_then_the_processor(monkeypatch):
    for cuda, metal, kind in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda metal=metal: metal)
        assert pick_device("auto").type == kind


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_device_that_the_machine_lacks_is_refused(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device"):
        pick_device(name)


def test_auto_takes_the_number_type_that_the_device_is_fast_at(monkeypatch, tiny):
    network, _ = tiny
    for speedup, taken in ((3.0, torch.bfloat16), (0.5, torch.float32)):
        rounds = [(speedup, 1.0)] * 9
        monkeypatch.setattr(devices, "fast_dtype", lambda product, rounds=rounds: Measured.of(rounds).dtype)
        assert pick_dtype("auto", CPU, network) == taken
    assert pick_dtype("auto", METAL, network) == torch.float32
    for major, tracking, training in ((7, torch.float16, torch.float32), (9, *[torch.bfloat16] * 2)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, m=major: (m, 0))
        assert pick_dtype("auto", CUDA, network) == tracking
        assert pick_dtype("auto", CUDA, network, training=True) == training


def test_named_number_types_are_taken_where_the_device_has_them(monkeypatch, tiny):
    network, _ = tiny
    for device in (CPU, CUDA):
        assert pick_dtype("bfloat16", device, network) == torch.bfloat16
        assert pick_dtype("float16", device, network) == torch.float16
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: major < 14)
    with pytest.raises(UserError, match="macOS 14"):
        pick_dtype("bfloat16", METAL, network)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: True)
    assert pick_dtype("bfloat16", METAL, network) == torch.bfloat16
    with pytest.raises(UserError, match="did you mean 'bfloat16'"):
        pick_dtype("bfloat", CPU, network)
