"""One process or many: what torchrun's environment says, the collectives in use, and agreement.

Ranks read their own command line, files and trees. One that lacks something, or was started with another value, would
leave the others waiting for it, or train other weights. So they tell one another, and all end with one line on rank 0.
"""

import gc
import inspect
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lorat.shards.base.errors import UserError
from lorat.shards.base.process import ALL_FREED, keep_freed_memory
from lorat.shards.base.waiting import POLL, wait_for, waiting
from lorat.train.distributed.rendezvous import explain_ranks, meet, rank_timeout
from lorat.train.distributed.roll import Roll
from lorat.train.network.deploy.devices import pick_device

Value = TypeVar("Value")
_PIECE = timedelta(seconds=POLL)
_LET_GO = 0.2  # seconds
_NOT_YET = "Operation timed out!"  # of one piece; the group's own limit has other words


@dataclass(frozen=True, slots=True)
class World:
    """This process among all."""

    rank: int
    size: int
    device: torch.device
    store: dist.Store | None = None  # of all ranks; None where there is one
    meeting: Any = None  # a group over the processors, beside the one of the gradients; None where there is one rank
    roll: Roll | None = None  # who is waited for; None where there is one rank

    @property
    def speaks(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def waiting(self, what: str, longer: float = 0.0) -> AbstractContextManager[None]:
        """Wait inside the block, as `lorat.shards.base.waiting` has it, for what all ranks do together."""
        return self.roll.call(what, longer) if self.roll is not None else waiting(what, longer=longer)

    @property
    def pins(self) -> bool:
        """Whether batches are copied to pinned memory on their way to the device."""
        return self.device.type == "cuda"


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, or be the only one. `device` is as `pick_device` takes it; each process
    takes the GPU of its local rank. A `UserError` if variables are missing, there is no GPU for this process, or the
    other ranks are not reached, or are lost inside the block.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = pick_device(device)
    if chosen.type == "cpu":
        keep_freed_memory(ALL_FREED)  # every step needs the memory of the one before
    if size == 1:
        yield World(0, 1, chosen)
        return
    cuda = chosen.type == "cuda"
    needed = ("RANK", "MASTER_ADDR", "MASTER_PORT", *(["LOCAL_RANK"] if cuda else []))
    if missing := [name for name in needed if name not in os.environ]:
        raise UserError(
            f"$WORLD_SIZE is {size}, but {', '.join(missing)} not set; start ranks with torchrun, or unset WORLD_SIZE "
            "to work in one process"
        )
    if cuda:
        chosen = own_gpu(int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    timeout = rank_timeout()
    with explain_ranks(met=False):
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        store, rank, size = wait_for(partial(meet, timeout), f"the other ranks at {place}")
        backend = "nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        meeting = dist.new_group(backend="gloo", timeout=timeout)
    try:
        with explain_ranks(met=True):
            yield World(rank, size, chosen, store, meeting, Roll(store, rank, size))
    finally:
        dist.destroy_process_group()
        # Threads of the groups let go of the last exchange's tensors, for which they need the interpreter. One that
        # asks for it while that is taken down aborts the process ("terminate called without an active exception").
        gc.collect()
        time.sleep(_LET_GO)


def own_gpu(number: int) -> torch.device:
    """Return the GPU of the process of that local rank; a `UserError` where there are not so many."""
    count = torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"rank {os.environ['RANK']} is process {number} of its machine, counted from 0, which has {count} CUDA "
            f"devices; give torchrun --nproc-per-node {count}, or --device cpu"
        )
    return torch.device("cuda", number)


def parallel(network: nn.Module, world: World, *, traceable: bool = False) -> nn.Module:
    """Wrap a network so that gradients are averaged over the ranks, by hooks that a compiler can follow if asked."""
    if traceable:
        torch._dynamo.config.optimize_ddp = "python_reducer"
    data_parallel = nn.parallel.DistributedDataParallel
    # Buffers are constants here; they would be sent before every forward pass. PyTorch 2.14 renames the option.
    known = inspect.signature(data_parallel.__init__).parameters
    constant: Any = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
    ids = [world.device.index] if world.device.type == "cuda" else None
    return data_parallel(network, device_ids=ids, gradient_as_bucket_view=True, **constant)


def mean_over_ranks(value: Tensor, world: World) -> Tensor:
    """Return the mean of a tensor over all ranks."""
    if world.size == 1:
        return value
    value = value.clone()
    _settle(dist.all_reduce(value, async_op=True), world, value.device, "a mean over ranks")
    return value / world.size


def most_over_ranks(numbers: Sequence[int], world: World) -> list[int]:
    """Return the largest of each of some numbers over all ranks, over the processors; every rank has to call it."""
    if world.size == 1:
        return list(numbers)
    value = torch.tensor(numbers, dtype=torch.int64)
    work = dist.all_reduce(value, dist.ReduceOp.MAX, group=world.meeting, async_op=True)
    _settle(work, world, value.device, "a meeting of the ranks")
    return list(map(int, value))


def texts_of_ranks(texts: list[str], world: World) -> list[str]:
    """Return the texts of all ranks, in their order; every rank has to call it."""
    if world.size == 1:
        return texts
    most_over_ranks([0], world)  # once all are here, what follows takes no time
    every: list[list[str]] = [[] for _ in range(world.size)]
    dist.all_gather_object(every, texts, group=world.meeting)
    return [text for part in every for text in part]


def _settle(work: Any, world: World, device: torch.device, what: str) -> None:
    """Wait for the other ranks, in pieces, between which signals are heard; a GPU waits by itself."""
    if device.type == "cuda":
        work.wait()
        return
    with world.waiting(what):
        while True:
            try:
                work.wait(_PIECE)
                return
            except RuntimeError as error:
                if not str(error).startswith(_NOT_YET):
                    raise


def agreed(work: Callable[[], Value], world: World) -> Value:
    """Return what `work`, which must not meet other ranks, gives on this rank; every rank has to call this. If it
    raises a `UserError` on any rank, the first rank's is raised on rank 0, and `SystemExit` on the others.
    """
    if world.size == 1:
        return work()
    reason = ""
    try:
        value = work()
    except UserError as error:
        reason = error.message
    for rank, text in enumerate(texts_of_ranks([reason], world)):
        if text:
            _end(f"rank {rank}: {text}" if rank else text, world)  # rank 0 speaks for itself
    return value


def check_alike(settings: Mapping[str, Any], world: World) -> None:
    """See that all ranks have the same settings (JSON values); every rank has to call this. Otherwise a `UserError` on
    rank 0 names the first difference of the first rank that has one, and the others raise `SystemExit`.
    """
    first, *others = map(json.loads, texts_of_ranks([json.dumps(settings)], world))
    for rank, own in enumerate(others, start=1):
        for key in first | own:
            if first.get(key) != own.get(key):
                here, there = ("none" if side.get(key) in (None, "") else side[key] for side in (first, own))
                remedy = "start all ranks with the same command, on the same files"
                _end(f"rank {rank} has {key} = {there}, rank 0 has {here}; {remedy}", world)


def _end(text: str, world: World) -> NoReturn:
    raise UserError(text) if world.speaks else SystemExit(2)
