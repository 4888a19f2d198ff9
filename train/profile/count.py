"""What a variant costs, counted on tensors without contents: nothing is computed, nothing is held.

The network and a whole training step (forward, loss, backward, optimiser) run on PyTorch's fake tensors, which have
shapes and number types but no memory, so that any variant and batch can be counted on any machine within seconds.

Operations are those of PyTorch's own counter: two for a multiply-add, in matrix products, convolutions and attention
alone. Memory is what tensors hold at a time. Not counted: workspaces inside kernels, what an allocator loses between
tensors, buckets of gradients that several processes average.
"""

import weakref
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from lorat.configs.schema import TrainConfig, VariantConfig
from lorat.train.data.batches import Batch
from lorat.train.distributed.world import World
from lorat.train.network.blocks.lorat import LoRAT
from lorat.train.network.variants import assemble, hold_matrices_in
from lorat.train.step.loss import Objective
from lorat.train.step.optimizer import build_optimizer
from lorat.train.step.step import Engine, update

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is trained, and how."""

    variant: VariantConfig
    train: TrainConfig
    device: torch.device
    """It need not be here."""
    dtype: torch.dtype
    """Of autocast, and of frozen matrices."""

    @property
    def pairs(self) -> int:
        """Pairs that pass the network at once: a micro-batch."""
        return self.train.batch_size // self.train.accumulate

    def with_pairs(self, pairs: int) -> "Setting":
        """Return the setting with other micro-batches, of which a step has as many as before."""
        size = pairs * self.train.accumulate
        return replace(self, train=self.train.model_copy(update={"batch_size": size}))


class Part(NamedTuple):
    """Numbers of parameters."""

    name: str
    every: int
    trained: int


@dataclass(frozen=True, slots=True)
class FrameCost:
    """Operations while tracking, LoRA merged."""

    template: int
    """Once a sequence."""
    track: int
    """A frame, the template's tokens known."""
    whole: int
    """Template and search with all tokens in the last block too, as papers count."""
    tokens: int
    """Of template and search."""


class StepOperations(NamedTuple):
    """Operations of a whole training step; those that checkpointing repeats are not `forward`."""

    forward: int
    every: int


@dataclass(frozen=True, slots=True)
class StepMemory:
    """What a training step holds, in bytes, at the time of one micro-batch."""

    pairs: int
    """In a micro-batch."""
    weights: int
    optimiser: int
    gradients: int
    """Once all are there."""
    activations: int
    """What the forward pass leaves for the backward pass."""
    peak: int
    """The most that is held at a time, all together; less than the sum, since gradients come as activations go."""


def count_parameters(variant: VariantConfig) -> tuple[Part, ...]:
    """Return the parameters of the network in training form, part by part."""
    every, trained = Counter[str](), Counter[str]()
    for name, parameter in empty_network(variant, torch.float32).named_parameters():
        part = "LoRA" if name.rpartition(".")[2].startswith("lora_") else "backbone"
        part = {"head": "head", "token_type_embed": "token types"}.get(name.split(".")[0], part)
        every[part] += parameter.numel()
        trained[part] += parameter.numel() * parameter.requires_grad
    names = ("backbone", "LoRA", "token types", "head")
    return tuple(Part(name, every[name], trained[name]) for name in names)


def count_frame(variant: VariantConfig) -> FrameCost:
    """Count the operations of one frame in float32; other number types need the same."""
    network = empty_network(variant.model_copy(update={"lora": None}), torch.float32)
    side, grid = variant.template_size, network.template_grid
    with _fake(), torch.no_grad():
        materialise(network, _CPU).eval()
        template, mask = torch.zeros(1, 3, side, side), torch.zeros(1, grid, grid)
        search = torch.zeros(1, 3, variant.search_size, variant.search_size)
        with _counter() as embedding:
            known = network.embed_template(template, mask)
        with _counter() as tracking:
            network.track(known, search)
        last, forward = network.blocks[-1], network.blocks[-1].forward
        # The last block computes the template's tokens too; they are dropped after it.
        last.forward = lambda tokens, skip, *context: forward(tokens, 0, *context)[:, skip:]
        with _counter() as whole:
            network(template, search, mask)
    tokens = grid**2 + network.search_grid**2
    counts = [counter.get_total_flops() for counter in (embedding, tracking, whole)]
    return FrameCost(counts[0], counts[1], counts[2], tokens)


def count_operations(setting: Setting) -> StepOperations:
    """Let a training step run on fake tensors and count its operations."""
    setting = _stood_in_for(setting)
    network = empty_network(setting.variant, setting.dtype)
    with _fake(), _counter() as counter:
        engine = step_engine(materialise(network, _CPU), setting)
        forward: list[int] = []
        engine.objective.register_forward_hook(lambda *_: forward.append(counter.get_total_flops()))
        update(engine, setting.train, made_up_batch(setting, network), 0)
    return StepOperations(forward[0] * setting.train.accumulate, counter.get_total_flops())


def count_memory(setting: Setting) -> StepMemory:
    """Let a training step run on fake tensors and count what it holds.

    The optimiser's state is there from the start, as it is in all steps but the first. The step is counted as it is
    without ``train.compile``.
    """
    setting = _stood_in_for(setting)
    network = empty_network(setting.variant, setting.dtype)
    with _fake(), _Ledger() as ledger:
        engine = step_engine(materialise(network, _CPU), setting)
        engine.scaler = torch.amp.GradScaler("cpu", enabled=False)  # it would keep two numbers
        weights = ledger.live
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        gradients = ledger.live - weights
        engine.optimizer.step()
        engine.optimizer.zero_grad(set_to_none=True)
        optimiser = ledger.live - weights
        batch = made_up_batch(setting, network)
        ledger.peak = held = ledger.live
        after_forward: list[int] = []
        engine.objective.register_forward_hook(lambda *_: after_forward.append(ledger.live))
        update(engine, setting.train, batch, 0)
    return StepMemory(
        pairs=setting.pairs,
        weights=weights,
        optimiser=optimiser,
        gradients=gradients,
        activations=after_forward[0] - held,
        peak=ledger.peak,
    )


def _stood_in_for(setting: Setting) -> Setting:
    """Return the setting on the processor, as the stand-in for any device.

    GPUs are stood in for in float16 for bfloat16: the same sizes, and attention is fused as there.
    """
    away = setting.device.type != "cpu" and setting.dtype == torch.bfloat16
    return replace(setting, device=_CPU, dtype=torch.float16 if away else setting.dtype)


def empty_network(variant: VariantConfig, dtype: torch.dtype) -> LoRAT:
    """Return the network in training form on the meta device, frozen matrices in `dtype`."""
    with torch.device("meta"):
        network = assemble(variant, None)
    hold_matrices_in(network, dtype)
    return network


def materialise(network: LoRAT, device: torch.device) -> LoRAT:
    """Move a network from the meta device to `device`, in place, with values to compute with.

    Matrices are random, norms and scales pass on what they get; nothing is learnt from them.
    """
    network.to_empty(device=device)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    for held in network.buffers():
        held.zero_()
    return network


def step_engine(network: LoRAT, setting: Setting) -> Engine:
    """Return what `lorat.train.step.step.update` takes, made as the trainer makes it."""
    network.train()
    network.checkpoint_activations = setting.train.checkpoint_activations
    optimizer = build_optimizer(network, setting.train.weight_decay)
    objective = Objective(network, setting.variant, setting.dtype)
    return Engine(objective, optimizer, World(0, 1, setting.device))


def made_up_batch(setting: Setting, network: LoRAT) -> Batch:
    """Return a step's pairs of noise on the setting's device."""
    pairs, variant, device = setting.train.batch_size, setting.variant, setting.device

    def noise(side: int) -> Tensor:
        shape = (pairs, 3, side, side)
        return torch.randint(0, 256, shape, dtype=torch.uint8, device=device)

    def ones(*shape: int, dtype: torch.dtype = torch.bool) -> Tensor:
        return torch.ones(pairs, *shape, dtype=dtype, device=device)

    return Batch(
        template=noise(variant.template_size),
        search=noise(variant.search_size),
        template_mask=ones(network.template_grid, network.template_grid),
        positive=ones(network.search_grid, network.search_grid),
        box=torch.tensor([0.25, 0.25, 0.75, 0.75], device=device).repeat(pairs, 1),
        position=ones(dtype=torch.int64),
        missing=ones(dtype=torch.float32),
        keys=("",) * pairs,
        damaged=((),) * pairs,
        seconds=np.zeros((pairs, 2), dtype=np.float32),
    )


def _fake() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=True)  # the meta tensors of an empty network


def _counter() -> FlopCounterMode:
    """Return PyTorch's counter, told of the processor's fused attention, which it does not know."""
    aten, formulas = torch.ops.aten, {}
    formulas[aten._scaled_dot_product_flash_attention_for_cpu] = lambda query, key, value, *_, **__: sdpa_flop_count(
        query, key, value
    )
    formulas[aten._scaled_dot_product_flash_attention_for_cpu_backward] = lambda grad, query, key, value, *_, **__: (
        sdpa_backward_flop_count(grad, query, key, value)
    )
    return FlopCounterMode(display=False, custom_mapping=formulas)


class _Ledger(TorchDispatchMode):
    """Counts the bytes of the tensors that were made inside it: those now, and the most so far."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf.untyped_storage())
        return result

    def _enter(self, storage: torch.UntypedStorage) -> None:
        # A storage keeps its Python object, and so its id, for as long as a tensor holds it.
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, id(storage), size)

    def _leave(self, identity: int, size: int) -> None:
        self._known.discard(identity)
        self.live -= size
