"""What turns batches into weights: objective, optimiser and scaler, alone or over the ranks.

Promise: `Engine.whole` gives what a single process would have, however the ranks share the work,
so that checkpoints are the same files for any number of ranks and either way of sharing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from lorat.train.distributed.fsdp import empty_copy, fill, shard, sharded_optimizer, whole_state
from lorat.train.distributed.world import World, parallel
from lorat.train.network.blocks.lorat import LoRAT
from lorat.train.step.faults import Watch
from lorat.train.step.objective import Objective

__all__ = ["Engine", "Whole", "build_engine", "make_scaler"]


class Whole(NamedTuple):
    """A network and its optimiser as one process has them."""

    network: LoRAT
    """To be saved, not to be run: where ranks hold parts, only what is saved has values."""
    optimizer: dict[str, Any]
    """A ``state_dict``."""


@dataclass(frozen=True, eq=False, slots=True)
class Engine:
    """All that a step needs but its batch."""

    objective: Objective
    wrapped: nn.Module
    """The objective, alone or over the ranks; what a step calls."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    world: World
    watch: Watch
    """Keeps steps that are not finite from changing weights."""
    empty: LoRAT | None = None
    """A copy of the network without values, where ranks hold parts of it."""

    @property
    def is_sharded(self) -> bool:
        """Whether ranks hold parts of the network."""
        return self.empty is not None

    def reshard(self) -> None:
        """Let go of what a forward pass without a backward pass has gathered."""
        if isinstance(self.objective, FSDPModule):
            self.objective.reshard()

    def whole(self) -> Whole:
        """Return network and optimiser state to be saved on rank 0; every rank has to call this.

        Where nothing is sharded these are the live tensors.
        """
        network = self.objective.network
        if self.empty is None:
            return Whole(network, self.optimizer.state_dict())
        # Files hold frozen tensors only where there is no backbone file that has them.
        fill(self.empty, network, frozen=not network.fingerprint)
        return Whole(self.empty, whole_state(self.optimizer))


def make_scaler(dtype: torch.dtype, device: torch.device) -> torch.amp.GradScaler:
    """Return the scaler of losses: one that does something for float16 alone."""
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)


def build_engine(
    objective: Objective,
    optimizer: torch.optim.AdamW,
    scaler: torch.amp.GradScaler,
    world: World,
    *,
    sharded: bool,
) -> Engine:
    """Share an objective over the ranks.

    Args:
        objective: equal on all ranks; where it is sharded it may be in the processor's memory.
        optimizer: of its network; a sharded network gets another, which holds parts of its state.
        scaler: of its losses.
        world: this process; a single one shares nothing.
        sharded: whether ranks hold parts of weights and state (FSDP2), or all of them (DDP).
    """
    network = objective.network
    if not sharded or world.size == 1:
        wrapped = parallel(objective, world)
        return Engine(objective, wrapped, optimizer, scaler, world, Watch(world))
    empty = empty_copy(network)
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    shard(objective, network.blocks, world.device)
    optimizer = sharded_optimizer(optimizer, names, network)
    return Engine(objective, objective, optimizer, scaler, world, Watch(world), empty)
