"""One process or many: what torchrun's environment says, and the collectives in use."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lorat.shards.base.errors import UserError
from lorat.shards.base.process import ALL_FREED, keep_freed_memory
from lorat.train.distributed.rendezvous import (
    check_environment,
    explain_joining,
    explain_parting,
    meet,
    rank_timeout,
)
from lorat.train.network.deploy.devices import pick_device

__all__ = [
    "World",
    "join_world",
    "mean_over_ranks",
    "parallel",
    "texts_of_ranks",
    "without_sync",
]


@dataclass(frozen=True, slots=True)
class World:
    """This process among all."""

    rank: int
    size: int
    device: torch.device
    store: dist.Store | None = None
    """Of all ranks; None where there is one."""

    @property
    def speaks(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    @property
    def pins(self) -> bool:
        """Whether batches are copied to pinned memory on their way to the device."""
        return self.device.type == "cuda"


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, or be the only one.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``; under torchrun each process takes the GPU
            of its local rank.

    Raises:
        UserError: if there is no GPU for this process, or the other ranks are not reached, or are
            lost inside the block.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = pick_device(device)
    if chosen.type == "cpu":
        keep_freed_memory(ALL_FREED)  # every step needs the memory of the one before
    if size == 1:
        yield World(0, 1, chosen)
        return
    check_environment(chosen.type)
    if chosen.type == "cuda":
        chosen = _own_gpu(int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    with explain_joining():
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        store, rank, size = meet(rank_timeout())
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=rank_timeout()
        )
    try:
        with explain_parting():
            yield World(dist.get_rank(), size, chosen, store)
    finally:
        dist.destroy_process_group()


def _own_gpu(number: int) -> torch.device:
    count = torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"rank {os.environ['RANK']} is process {number} of its machine, counted from 0, which "
            f"has {count} CUDA devices; give torchrun --nproc-per-node {count}, or --device cpu"
        )
    return torch.device("cuda", number)


def parallel(network: nn.Module, world: World) -> nn.Module:
    """Wrap a network so that gradients are averaged over the ranks."""
    if world.size == 1:
        return network
    ids = [world.device.index] if world.device.type == "cuda" else None
    data_parallel = nn.parallel.DistributedDataParallel
    # Buffers are constants here; they would be sent before every forward pass. PyTorch 2.14 has
    # another name for the option.
    known = inspect.signature(data_parallel.__init__).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    constant: dict[str, Any] = {option: False}
    return data_parallel(network, device_ids=ids, gradient_as_bucket_view=True, **constant)


def without_sync(network: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which backward passes leave gradients on their rank."""
    if isinstance(network, nn.parallel.DistributedDataParallel):
        return network.no_sync()
    return nullcontext()


def mean_over_ranks(value: Tensor, world: World) -> Tensor:
    """Return the mean of a tensor over all ranks."""
    if world.size == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / world.size


def texts_of_ranks(texts: list[str], world: World) -> list[str]:
    """Return the texts of all ranks, in their order; every rank has to call it."""
    if world.size == 1:
        return texts
    every: list[list[str]] = [[] for _ in range(world.size)]
    dist.all_gather_object(every, texts)
    return [text for part in every for text in part]
