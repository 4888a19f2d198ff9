"""What a variant costs, counted on tensors without contents: nothing is computed, nothing is held.

The network and a whole training step (forward, loss, backward, optimiser) run on PyTorch's fake
tensors, which have shapes and number types but no memory, so that any variant and batch can be
counted on any machine within seconds.

Operations are counted as `torch.utils.flop_counter` does: two for a multiply-add, in matrix
products, convolutions and attention alone. Memory is what tensors hold at a time. Not counted:
workspaces inside kernels, what an allocator loses between tensors, buckets of gradients that
several processes average.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from lorat.configs.schema import TrainConfig, VariantConfig
from lorat.train.data.batches import Batch
from lorat.train.distributed.world import World
from lorat.train.network.blocks.lorat import LoRAT
from lorat.train.network.variants import assemble, hold_matrices_in
from lorat.train.step.engine import Engine, make_scaler
from lorat.train.step.faults import Watch
from lorat.train.step.objective import Objective
from lorat.train.step.optimizer import build_optimizer
from lorat.train.step.step import update

__all__ = [
    "FrameCost",
    "Part",
    "Setting",
    "StepCost",
    "count_frame",
    "count_parameters",
    "count_step",
    "empty_network",
    "made_up_batch",
    "materialise",
    "prepare",
]

_PARTS = ("backbone", "LoRA", "token types", "head")
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

    def with_pairs(self, pairs: int) -> Setting:
        """Return the setting with other micro-batches, of which a step has as many as before."""
        size = pairs * self.train.accumulate
        return replace(self, train=self.train.model_copy(update={"batch_size": size}))


@dataclass(frozen=True, slots=True)
class Part:
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


@dataclass(frozen=True, slots=True)
class StepCost:
    """A training step. Operations are of the whole step, bytes of the time of one micro-batch."""

    pairs: int
    """In a micro-batch."""
    forward: int
    """Operations of all forward passes, of those in the backward pass (checkpointing) none."""
    flops: int
    """Operations forward and backward."""
    weights: int
    """Bytes, like all below."""
    optimiser: int
    gradients: int
    """Once all are there."""
    activations: int
    """What the forward pass leaves for the backward pass."""
    peak: int
    """The most that is held at a time, all together; less than the sum, since gradients come as
    activations go."""


def count_parameters(variant: VariantConfig) -> list[Part]:
    """Return the parameters of the network in training form, part by part."""
    every, trained = dict.fromkeys(_PARTS, 0), dict.fromkeys(_PARTS, 0)
    for name, parameter in empty_network(variant, torch.float32).named_parameters():
        part = _part_of(name)
        every[part] += parameter.numel()
        trained[part] += parameter.numel() * parameter.requires_grad
    return [Part(name, every[name], trained[name]) for name in _PARTS]


def _part_of(name: str) -> str:
    if name.startswith("head."):
        return "head"
    if name == "token_type_embed":
        return "token types"
    return "LoRA" if name.rpartition(".")[2].startswith("lora_") else "backbone"


def count_frame(variant: VariantConfig) -> FrameCost:
    """Count the operations of one frame in float32; other number types need the same."""
    network = empty_network(variant.model_copy(update={"lora": None}), torch.float32)
    with FakeTensorMode(), torch.no_grad():
        materialise(network, _CPU).eval()
        side, grid = variant.template_size, network.template_grid
        template, mask = torch.zeros(1, 3, side, side), torch.zeros(1, grid, grid)
        search = torch.zeros(1, 3, variant.search_size, variant.search_size)
        with _Ledger() as embedding:
            known = network.embed_template(template, mask)
        with _Ledger() as tracking:
            network.track(known, search)
        with _whole_last_block(network), _Ledger() as whole:
            network(template, search, mask)
    tokens = network.template_grid**2 + network.search_grid**2
    return FrameCost(embedding.flops, tracking.flops, whole.flops, tokens)


def count_step(setting: Setting) -> StepCost:
    """Let a training step run on fake tensors and count.

    The optimiser's state is there from the start, as it is in all steps but the first. GPUs are
    stood in for by the processor, in float16 for bfloat16: the same sizes, and attention is fused,
    as it is there. The step is counted as it is without ``train.compile``.
    """
    away = setting.device.type != "cpu" and setting.dtype == torch.bfloat16
    setting = replace(setting, device=_CPU, dtype=torch.float16 if away else setting.dtype)
    network = empty_network(setting.variant, setting.dtype)
    with FakeTensorMode(), _Ledger() as ledger:
        materialise(network, _CPU)
        objective, optimizer = prepare(network, setting)
        weights = ledger.live
        trained = [p for p in network.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        gradients = ledger.live - weights
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        optimiser = ledger.live - weights
        batch = made_up_batch(setting, network)
        held, seen = ledger.live, []
        ledger.peak, ledger.flops = held, 0
        objective.register_forward_hook(lambda *_: seen.append((ledger.live, ledger.flops)))
        scaler = make_scaler(torch.float32, _CPU)  # it would keep two numbers
        world = World(0, 1, _CPU)
        engine = Engine(objective, objective, optimizer, scaler, world, Watch(world))
        update(engine, setting.train, batch, 0)
    live, first_forward = seen[0]
    return StepCost(
        pairs=setting.pairs,
        forward=first_forward * setting.train.accumulate,
        flops=ledger.flops,
        weights=weights,
        optimiser=optimiser,
        gradients=gradients,
        activations=live - held,
        peak=ledger.peak,
    )


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
    for module in network.modules():
        for name, old in list(module.named_parameters(recurse=False)):
            new = torch.empty(old.shape, dtype=old.dtype, device=device)
            if old.dim() > 1:
                new.normal_(std=0.02)
            else:
                new.fill_(0.0 if name == "bias" else 1.0)
            setattr(module, name, nn.Parameter(new, old.requires_grad))
        for name, held in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.zeros(held.shape, dtype=held.dtype, device=device))
    return network


def prepare(network: LoRAT, setting: Setting) -> tuple[Objective, torch.optim.Optimizer]:
    """Return what `lorat.train.step.step.update` takes, made as the trainer makes it."""
    network.train()
    network.checkpoint_activations = setting.train.checkpoint_activations
    optimizer = build_optimizer(network, setting.train.weight_decay)
    return Objective(network, setting.variant, setting.dtype), optimizer


def made_up_batch(setting: Setting, network: LoRAT) -> Batch:
    """Return a step's pairs of noise on the setting's device."""
    pairs, variant, device = setting.train.batch_size, setting.variant, setting.device

    def noise(side: int) -> Tensor:
        shape = (pairs, 3, side, side)
        return torch.randint(0, 256, shape, dtype=torch.uint8, device=device)

    def ones(*shape: int, dtype: torch.dtype = torch.bool) -> Tensor:
        return torch.ones(pairs, *shape, dtype=dtype, device=device)

    template, search = network.template_grid, network.search_grid
    return Batch(
        template=noise(variant.template_size),
        search=noise(variant.search_size),
        template_mask=ones(template, template),
        positive=ones(search, search),
        box=torch.tensor([0.25, 0.25, 0.75, 0.75], device=device).repeat(pairs, 1),
        position=ones(dtype=torch.int64),
        missing=ones(dtype=torch.float32),
        keys=("",) * pairs,
        damaged=((),) * pairs,
        seconds=np.zeros((pairs, 2), dtype=np.float32),
    )


@contextmanager
def _whole_last_block(network: LoRAT) -> Iterator[None]:
    """Let the last block compute the template's tokens too; they are dropped after it."""
    skipped: list[int] = []

    def compute_all(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens, skip, *context = inputs
        skipped.append(skip)
        return tokens, 0, *context

    def drop(_: nn.Module, __: tuple[Any, ...], tokens: Tensor) -> Tensor:
        return tokens[:, skipped.pop() :]

    last = network.blocks[-1]
    hooks = last.register_forward_pre_hook(compute_all), last.register_forward_hook(drop)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)


def _linear(x: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return 2 * x.numel() * weight.shape[0]


def _formulas() -> dict[Any, Callable[..., int]]:
    """Return PyTorch's formulas and those of operations that its table does not know."""
    aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
    fused = "_scaled_dot_product_flash_attention_for_cpu"
    own = {(aten, fused): _attention, (aten, f"{fused}_backward"): _attention_backward}
    own[mkldnn, "_linear_pointwise"] = _linear
    return flop_registry | {
        getattr(module, name): formula
        for (module, name), formula in own.items()
        if hasattr(module, name)
    }


class _Ledger(TorchDispatchMode):
    """Counts operations, and the bytes of the tensors that were made inside it.

    `FlopCounterMode` gives the same operations, but keeps tensors alive that training frees.

    Attributes:
        flops: operations so far.
        live: bytes now.
        peak: the most bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.formulas = _formulas()
        self.flops = 0
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = self.formulas.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
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
