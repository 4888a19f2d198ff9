"""What a variant costs, counted on tensors without contents: nothing is computed, nothing is held.

The network and a whole training step (forward, loss, backward, optimiser) run on PyTorch's fake tensors, which have
shapes and number types but no memory, so that any variant and batch can be counted on any machine within seconds.
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
from torch.utils.flop_counter import flop_registry

from lorat.configs.schema import TrainConfig, VariantConfig
from lorat.train.data.batches import Batch
from lorat.train.distributed.world import World
from lorat.train.network.blocks.lorat import LoRAT
from lorat.train.network.variants import assemble, hold_matrices_in
from lorat.train.step.loss import Objective
from lorat.train.step.optimizer import build_optimizer
from lorat.train.step.step import Engine, update

_CPU = torch.device("cpu")
_ATEN = torch.ops.aten
_FORMULAS = flop_registry | {  # PyTorch's own counter does not know the processor's fused attention
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATEN._scaled_dot_product_flash_attention],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}


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


class FrameCost(NamedTuple):
    """Operations while tracking, LoRA merged."""

    template: int
    """Once a sequence."""
    track: int
    """A frame, the template's tokens known."""
    whole: int
    """Template and search with all tokens in the last block too, as papers count."""
    tokens: int
    """Of template and search."""


class StepCost(NamedTuple):
    """Operations of a whole training step, and the bytes that it holds at the time of one micro-batch."""

    forward: int
    """Operations, without those that checkpointing repeats."""
    operations: int
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
    return tuple(Part(name, every[name], trained[name]) for name in ("backbone", "LoRA", "token types", "head"))


def count_frame(variant: VariantConfig) -> FrameCost:
    """Count the operations of one frame in float32; other number types need the same."""
    network = empty_network(variant.model_copy(update={"lora": None}), torch.float32)
    side, grid = variant.template_size, network.template_grid
    with _fake(), torch.no_grad(), _Ledger() as ledger:
        materialise(network, _CPU).eval()
        template, mask = torch.zeros(1, 3, side, side), torch.zeros(1, grid, grid)
        search = torch.zeros(1, 3, variant.search_size, variant.search_size)
        known = network.embed_template(template, mask)
        embedding = ledger.operations
        network.track(known, search)
        before = ledger.operations
        last, forward = network.blocks[-1], network.blocks[-1].forward
        # The last block computes the template's tokens too; they are dropped after it.
        last.forward = lambda tokens, skip, *context: forward(tokens, 0, *context)[:, skip:]
        network(template, search, mask)
    return FrameCost(embedding, before - embedding, ledger.operations - before, grid**2 + network.search_grid**2)


def count_step(setting: Setting) -> StepCost:
    """Let a training step run on fake tensors, and count its operations and what it holds.

    Operations are those of PyTorch's own counter: two for a multiply-add, in matrix products, convolutions and
    attention alone. Memory is what tensors hold, the optimiser's state from the start, as in all steps but the first,
    and without ``train.compile``. Not counted: workspaces inside kernels, what an allocator loses between tensors,
    buckets of gradients that several processes average.
    """
    # GPUs are stood in for by the processor, in float16 for bfloat16: the same sizes, and attention is fused as there.
    away = setting.device.type != "cpu" and setting.dtype == torch.bfloat16
    setting = replace(setting, device=_CPU, dtype=torch.float16 if away else setting.dtype)
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
        after_forward: list[tuple[int, int]] = []
        engine.objective.register_forward_hook(lambda *_: after_forward.append((ledger.operations, ledger.live)))
        update(engine, setting.train, batch, 0)
    forward, live = after_forward[0]
    return StepCost(
        forward=forward * setting.train.accumulate,
        operations=ledger.operations,
        pairs=setting.pairs,
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
    return Engine(Objective(network, setting.variant, setting.dtype), optimizer, World(0, 1, setting.device))


def made_up_batch(setting: Setting, network: LoRAT) -> Batch:
    """Return a step's pairs of noise on the setting's device."""
    pairs, device = setting.train.batch_size, setting.device

    def noise(side: int) -> Tensor:
        return torch.randint(0, 256, (pairs, 3, side, side), dtype=torch.uint8, device=device)

    def ones(*shape: int, dtype: torch.dtype = torch.bool) -> Tensor:
        return torch.ones(pairs, *shape, dtype=dtype, device=device)

    return Batch(
        template=noise(setting.variant.template_size),
        search=noise(setting.variant.search_size),
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


class _Ledger(TorchDispatchMode):
    """Counts operations, and the bytes of tensors that were made inside it: those now, and the most so far."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if formula := _FORMULAS.get(func.overloadpacket):
            self.operations += formula(*args, **(kwargs or {}), out_val=result)
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
