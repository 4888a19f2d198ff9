"""What LoRA costs beside the formula as it reads: products, activations, buffers."""

import copy
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lorat.configs.schema import LoraConfig
from lorat.train.network.blocks import layers
from lorat.train.network.blocks.eva import GatedFeedForward, RotaryAttention
from lorat.train.network.blocks.layers import Dense
from lorat.train.network.blocks.lora import LoraLinear, add_adapters
from lorat.train.network.variants import assemble, hold_matrices_in
from lorat.train.step.loss import tracking_loss
from tests.train.network.conftest import crops
from tests.train.network.plain_lora import PlainLora, make_plain, pairs_by_name


def loss_of(network, batch=2, dtype=torch.float32):
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        prediction = network(*crops(batch))
    positive = torch.zeros(batch, 16, 16, dtype=torch.bool)
    positive[:, 4:9, 5:11] = True
    box = torch.tensor([[5.0, 4.0, 11.0, 9.0]]).expand(batch, 4) / 16
    return tracking_loss(prediction, positive, box, positive.sum()).total


def gradients(network):
    return {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def test_training_is_that_of_the_formula_as_it_reads(tiny):
    network = tiny[0].train()
    plain = make_plain(copy.deepcopy(network))
    for one, other in zip(pairs_by_name(network).items(), pairs_by_name(plain).items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
    losses = [loss_of(network), loss_of(plain)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.backward()
    expected = pairs_by_name(plain, gradients=True)
    for name, gradient in pairs_by_name(network, gradients=True).items():
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5 * scale, msg=name)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch is built without oneDNN")
@pytest.mark.parametrize("results", [(), ("q", "k", "v")])
def test_a_layer_and_its_gradients_are_the_same_by_onednn(results, monkeypatch):
    torch.manual_seed(4)
    layer = LoraLinear(nn.Linear(96, 288), LoraConfig(rank=32), results)
    plain = nn.ModuleList(PlainLora.parts_of(layer)).double()
    x, slope = torch.randn(4, 320, 96), torch.randn(4, 320, 288)
    x_layer, x_plain = x.clone().requires_grad_(), x.double().requires_grad_()
    monkeypatch.setattr(layers, "_is_onednn_faster", lambda: True)
    with Called() as called:
        y = layer(x_layer)
        y.backward(slope)
    expected = torch.cat([part(x_plain) for part in plain], dim=-1)
    expected.backward(slope.double())
    assert called.times["mkldnn::_linear_pointwise"] >= 4
    assert layer.lora_a.grad.is_contiguous()
    assert layer.lora_b.grad.is_contiguous()
    pairs = (torch.cat([part.a.grad for part in plain]), torch.stack([part.b.grad for part in plain]))
    for ours, theirs in zip(
        (y, x_layer.grad, layer.lora_a.grad, layer.lora_b.grad), (expected, x_plain.grad, *pairs), strict=True
    ):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5 * scale)


class Called(TorchDispatchMode):
    """Counts the calls of every operation."""

    def __init__(self):
        super().__init__()
        self.times = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.times[function.name().partition(".")[0]] += 1
        return function(*args, **(kwargs or {}))


class Saved:
    """Counts the bytes that autograd keeps, each storage once, but for those it is told to."""

    def __init__(self, apart):
        self.apart = {t.untyped_storage().data_ptr() for t in apart}
        self.storages = {}
        self.tensors = []

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda t: t)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)

    def _pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.apart:
            self.storages[storage.data_ptr()] = storage  # held, so that no address comes again
            self.tensors.append(tensor.detach())
        return tensor

    @property
    def bytes(self):
        return sum(storage.nbytes() for storage in self.storages.values())


@pytest.mark.parametrize("results", [(), ("q", "k", "v")])
def test_a_layer_keeps_its_input_alone_and_once(results):
    layer = LoraLinear(nn.Linear(32, 96), LoraConfig(rank=4), results)
    hold_matrices_in(layer, torch.bfloat16)
    x = torch.randn(50, 32, dtype=torch.bfloat16, requires_grad=True)
    with Saved(layer.parameters()) as saved, torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert saved.bytes == x.nbytes


def test_separate_projections_keep_one_copy_of_their_input():
    attention = RotaryAttention(*(Dense(32, 32) for _ in range(4)), heads=2)
    mlp = GatedFeedForward(Dense(32, 32), Dense(32, 32), nn.Identity(), Dense(32, 32))
    block = nn.ModuleDict({"attn": attention, "mlp": mlp}).requires_grad_(False)
    add_adapters(block, LoraConfig(rank=4, targets=("q", "k", "v", "mlp")))
    x = torch.randn(1, 50, 32, requires_grad=True).mul(2.0)
    for module, others in ((attention, (0, torch.randn(2, 50, 8))), (mlp, ())):
        with Saved(module.parameters()) as saved, torch.autocast("cpu", torch.bfloat16):
            module(x, *others)
        inputs = [t for t in saved.tensors if torch.equal(t, x.detach().bfloat16())]
        assert len({t.data_ptr() for t in inputs}) == 1


def test_the_formula_as_it_reads_keeps_three_copies_of_the_input_and_the_weights():
    layer = LoraLinear(nn.Linear(32, 96), LoraConfig(rank=4), ("q", "k", "v"))
    plain = nn.ModuleList(PlainLora.parts_of(layer))
    hold_matrices_in(layer, torch.bfloat16)
    x = torch.randn(50, 32, requires_grad=True).mul(2.0)  # float32, as norms give it
    kept = []
    for side, forward in ((layer, layer), (plain, lambda x: [part(x) for part in plain])):
        with Saved(side.parameters()) as saved, torch.autocast("cpu", torch.bfloat16):
            forward(x)
        kept.append(saved.bytes)
    assert kept[0] == x.nbytes / 2
    assert kept[1] > 3 * x.nbytes / 2 + layer.weight.nbytes


def test_a_layer_takes_fewer_operations_than_the_formula_as_it_reads(monkeypatch):
    monkeypatch.setattr(layers, "_is_onednn_faster", lambda: False)  # PyTorch's counter does not know its products
    layer = LoraLinear(nn.Linear(768, 2304), LoraConfig(), ("q", "k", "v"))
    plain = nn.ModuleList(PlainLora.parts_of(layer))
    counts = []
    for forward in (layer, lambda x: torch.cat([part(x) for part in plain], dim=-1)):
        x = torch.randn(2560, 768, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            forward(x).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] < 0.96 * counts[1]


class Products(TorchDispatchMode):
    """Lists the shapes of matrix products."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            left, right = args[-2:]
            self.shapes.append((left.shape[0], left.shape[1], right.shape[1]))
        return function(*args, **(kwargs or {}))


def test_query_key_and_value_share_the_base_product_and_their_first_factors_one():
    layer = LoraLinear(nn.Linear(32, 96), LoraConfig(rank=4), ("q", "k", "v"))
    x = torch.randn(50, 32, requires_grad=True)
    with Products() as forward:
        y = layer(x)
    assert forward.shapes == [(50, 32, 96)]
    with Products() as backward:
        y.sum().backward()
    assert backward.shapes.count((50, 96, 32)) == 1  # the base product, for the gradient of x
    assert backward.shapes.count((50, 32, 12)) == 1  # x through all first factors
    assert backward.shapes.count((32, 50, 12)) == 1  # the gradient of all first factors


def test_frozen_tensors_have_no_gradient_after_a_step(tiny):
    network = tiny[0].train()
    loss_of(network).backward()
    assert all((p.grad is None) == (not p.requires_grad) for p in network.parameters())
    assert not any(p.requires_grad for n, p in network.named_parameters() if n.endswith("qkv.weight"))


@pytest.mark.parametrize("drop_path", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointed_activations_change_no_gradient(make_variant, drop_path, dtype):
    torch.manual_seed(1)
    variant = make_variant(dropout=0.1).model_copy(update={"drop_path": drop_path})
    network = assemble(variant, None).train()
    results, kept = [], []
    for network.checkpoint_activations in (False, True):
        torch.manual_seed(3)
        with Saved(network.parameters()) as saved:
            loss = loss_of(network, batch=4, dtype=dtype)
        loss.backward()
        results.append({n: g.clone() for n, g in gradients(network).items()})
        kept.append(saved.bytes)
        network.zero_grad()
    assert results[0].keys() == results[1].keys()
    assert [n for n in results[0] if not torch.equal(results[0][n], results[1][n])] == []
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("lora", [{}, {"targets": ("q", "v")}, {"dropout": 0.1}])
def test_a_training_step_compiles_whole(make_variant, lora, checkpointed):
    torch.manual_seed(1)
    network = assemble(make_variant(**lora), None).train()
    network.checkpoint_activations = checkpointed
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    losses = []
    for side in (network, compiled):
        torch.manual_seed(3)
        losses.append(loss_of(side))
        losses[-1].backward()
        if side is network:
            expected = gradients(network)
            network.zero_grad()
    if "dropout" in lora:
        assert losses[1].isfinite()
        return
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    for name, gradient in gradients(network).items():
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5 * scale)


RANK = """
import copy, sys, torch
import torch.distributed as dist
from torch import nn
from lorat.configs.schema import LoraConfig
from lorat.train.network.blocks.eva import GatedFeedForward, RotaryAttention
from lorat.train.network.blocks.layers import Dense
from lorat.train.network.blocks.lora import LoraLinear, add_adapters

rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
torch.set_num_threads(1)
torch.manual_seed(0)
layers = [LoraLinear(nn.Linear(6, 12), LoraConfig(rank=2, targets=t), ("q", "k", "v"))
          for t in (("q", "v"), ("q", "k", "v"))]
network = nn.Sequential(layers[0], nn.Linear(12, 6), layers[1])
alone = copy.deepcopy(network)
wrapped = nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)
batch = torch.randn(2, 5, 6)
for _ in range(2):
    network.zero_grad()
    wrapped(batch[rank]).square().sum().backward()
alone(batch).square().sum().div(2).backward()
for (name, p), q in zip(network.named_parameters(), alone.parameters()):
    assert (p.grad is None) == (q.grad is None), name
    assert p.grad is None or torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-6), name
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_have_the_gradients_of_one(tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path / "meeting"), str(rank)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
