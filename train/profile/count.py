"""What a variant costs, counted on tensors without contents: nothing is computed, nothing is held.

The network and a whole training step (forward, loss, backward, optimiser) run on PyTorch's fake tensors, which have
shapes and number types but no memory, so that any variant and batch can be counted on any machine within seconds.
"""

import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
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
from lorat.train.network.blocks.layers import is_factor
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.blocks.loratv2 import LoRATv2
from lorat.train.network.variants import empty_network, freeze_blocks
from lorat.train.network.weights.published import is_new
from lorat.train.step.average import average
from lorat.train.step.loss import Objective
from lorat.train.step.optimizer import build_optimizer
from lorat.train.step.step import Engine, update

_CPU = torch.device("cpu")
_ATEN, _FUSED = torch.ops.aten, "_scaled_dot_product_flash_attention"
_FORMULAS = flop_registry | {  # PyTorch's own counter does not know the processor's fused attention
    getattr(_ATEN, f"{_FUSED}_for_cpu{way}"): flop_registry[getattr(_ATEN, _FUSED + way)] for way in ("", "_backward")
}
_Fake = partial(FakeTensorMode, allow_non_fake_inputs=True)  # those of an empty network are on the meta device


class Setting(NamedTuple):
    """What is trained, and how."""

    variant: VariantConfig
    train: TrainConfig
    device: torch.device  # it need not be here
    dtype: torch.dtype  # of autocast, and of frozen matrices

    @property
    def pairs(self) -> int:
        """Pairs that pass the network at once: a micro-batch."""
        return self.train.batch_size // self.train.accumulate

    def with_pairs(self, pairs: int) -> "Setting":
        """Return the setting with other micro-batches, of which a step has as many as before."""
        train = self.train.model_copy(update={"batch_size": pairs * self.train.accumulate})
        return self._replace(train=train)


class FrameCost(NamedTuple):
    """Operations while tracking, LoRA merged."""

    template: int  # of all templates: once a sequence, or, with SPMTrack, where they change
    reference: int  # of a reference, where there is one
    track: int  # a frame, what came before known
    whole: int  # a training sample's templates and one search crop; the last block has all tokens, as papers count
    beside: int  # the same with LoRA beside its layers: each token meets each number of its pairs once


class StepCost(NamedTuple):
    """Operations of a whole training step, and the bytes that it holds at the time of one micro-batch."""

    forward: int  # operations, without those that checkpointing repeats
    operations: int
    weights: int
    optimiser: int
    gradients: int  # once all are there
    activations: int  # what the forward pass leaves for the backward pass
    peak: int
    """The most that is held at a time, all together; less than the sum, since gradients come as activations go."""


def count_parameters(variant: VariantConfig, frozen_blocks: int = 0) -> dict[str, tuple[int, int]]:
    """Return part → its parameters in training form, and how many of them are trained."""
    every, trained = Counter[str](), Counter[str]()
    freeze_blocks(network := empty_network(variant, torch.float32), frozen_blocks)
    for name, parameter in network.named_parameters():
        part = "LoRA" if is_factor(name) else "backbone" if not is_new(name) else "token types"
        part = "head" if name.startswith("head.") else part
        every[part] += parameter.numel()
        trained[part] += parameter.numel() * parameter.requires_grad
    return {part: (every[part], trained[part]) for part in ("backbone", "LoRA", "token types", "head")}


def count_frame(variant: VariantConfig) -> FrameCost:
    """Count the operations of one frame in float32; other number types need the same."""
    network = tracking_network(variant, torch.float32)
    with _Fake(), torch.no_grad(), _Ledger() as ledger:
        template, mask, search, reference = made_up_crops(variant, materialise(network, _CPU), _CPU)

        def cost(work: Callable[[], Any]) -> tuple[int, Any]:
            before, result = ledger.operations, work()
            return ledger.operations - before, result

        referred, tokens = 0, network.tokens
        known, memory = cost(lambda: network.remember(template, mask))
        if isinstance(network, LoRATv2):
            if reference is not None:
                referred, memory = cost(lambda: network.remember_reference(memory, reference))
            tokens += memory.shape[4]
        track, _ = cost(lambda: network.follow(memory, search))
        if not isinstance(network, LoRATv2):
            last, forward = network.blocks[-1], network.blocks[-1].forward
            # The last block computes the template's tokens too; they are dropped after it.
            last.forward = lambda x, skip, *context: forward(x, 0, *context)[:, skip:]
        whole, _ = cost(lambda: network.predict(template, mask, search[:, None], reference))
    numbers = 0 if _is_mixed(variant) else count_parameters(variant)["LoRA"][0] // variant.streams
    return FrameCost(known, referred, track, whole, whole + 2 * tokens * numbers)


def tracking_network(variant: VariantConfig, dtype: torch.dtype) -> OneStream:
    """Return the empty network that tracks, LoRA merged; a mixture of experts stays."""
    plain = variant if _is_mixed(variant) else variant.model_copy(update={"lora": None})
    return empty_network(plain, dtype).requires_grad_(False).eval()


def _is_mixed(variant: VariantConfig) -> bool:
    return variant.lora is not None and variant.lora.experts > 0


def made_up_crops(
    variant: VariantConfig, network: OneStream, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return one sequence's templates (1, N, 3, h, w), their masks, a search crop (1, 3, H, W), a reference or None."""
    count, grid, r = variant.templates, network.template_grid, variant.reference_size
    with device:
        template = torch.zeros(1, count, 3, variant.template_size, variant.template_size)
        search = torch.zeros(1, 3, variant.search_size, variant.search_size)
        mask = torch.ones(1, count, grid, grid, dtype=torch.bool)
        return template, mask, search, None if r is None else torch.zeros(1, 3, r, r)


def count_step(setting: Setting) -> StepCost:
    """Let a training step run on fake tensors; count its operations and what it holds. Operations are those of
    PyTorch's own counter: two for a multiply-add, in matrix products, convolutions and attention alone. Memory is what
    tensors hold, the optimiser's state from the start, without ``train.compile``. Not counted: workspaces inside
    kernels, what an allocator loses between tensors, buckets of gradients that several processes average.
    """
    # GPUs are stood in for by the processor, in float16 for bfloat16: the same sizes, and attention is fused as there.
    away = setting.device.type != "cpu" and setting.dtype == torch.bfloat16
    setting = setting._replace(device=_CPU, dtype=torch.float16 if away else setting.dtype)
    network = empty_network(setting.variant, setting.dtype)
    with _Fake(), _Ledger() as ledger:
        engine = step_engine(materialise(network, _CPU), setting)
        engine.scaler = torch.amp.GradScaler("cpu", enabled=False)  # it would keep two numbers
        weights = ledger.live
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        gradients = ledger.live - weights
        engine.optimizer.step()
        engine.optimizer.zero_grad(set_to_none=True)
        if setting.train.ema:
            average(engine.optimizer, setting.train.ema, 0)
        optimiser = ledger.live - weights
        batch = made_up_batch(setting, network)
        ledger.peak = held = ledger.live
        after_forward: list[tuple[int, int]] = []
        engine.objective.register_forward_hook(lambda *_: after_forward.append((ledger.operations, ledger.live)))
        update(engine, setting.train, batch, 0)
    forward, kept = after_forward[0][0] * setting.train.accumulate, after_forward[0][1] - held
    return StepCost(forward, ledger.operations, weights, optimiser, gradients, kept, ledger.peak)


def materialise(network: OneStream, device: torch.device) -> OneStream:
    """Move a network from the meta device to `device`, in place: matrices random, norms and scales without effect."""
    network.to_empty(device=device)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    for held in network.buffers():
        held.zero_()
    return network


def step_engine(network: OneStream, setting: Setting) -> Engine:
    """Return what `lorat.train.step.step.update` takes, made as the trainer makes it."""
    freeze_blocks(network, setting.train.frozen_blocks)
    network.train().checkpoint_activations = setting.train.checkpoint_activations
    optimizer = build_optimizer(network, setting.train.weight_decay)
    return Engine(Objective(network, setting.variant, setting.dtype), optimizer, World(0, 1, setting.device))


def made_up_batch(setting: Setting, network: OneStream) -> Batch:
    """Return a step's samples of noise on the setting's device."""
    variant, size = setting.variant, setting.train.batch_size
    templates, searches = (size, variant.templates), (size, variant.searches)
    cells = [(network.template_grid,) * 2, (network.search_grid,) * 2]

    def noise(*count: int, side: int) -> Tensor:
        return torch.randint(0, 256, (*count, 3, side, side), dtype=torch.uint8)

    with setting.device:
        return Batch(
            template=noise(*templates, side=variant.template_size),
            search=noise(*searches, side=variant.search_size),
            template_mask=torch.ones(*templates, *cells[0], dtype=torch.bool),
            positive=torch.ones(*searches, *cells[1], dtype=torch.bool),
            box=torch.tensor([0.25, 0.25, 0.75, 0.75]).repeat(*searches, 1),
            position=torch.ones(size, dtype=torch.int64),
            missing=torch.ones(size),
            reference=None if variant.reference_size is None else noise(size, side=variant.reference_size),
            keys=("",) * size,
            damaged=((),) * size,
            seconds=np.zeros((size, 2), dtype=np.float32),
        )


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
        for storage in (leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)):
            # A storage keeps its Python object, and so its id, for as long as a tensor holds it.
            if id(storage) not in self._known:
                self._known.add(id(storage))
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._leave, id(storage), storage.nbytes())
        return result

    def _leave(self, identity: int, size: int) -> None:
        self._known.discard(identity)
        self.live -= size
