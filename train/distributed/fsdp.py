"""Weights, gradients and optimiser state spread over the ranks (FSDP2), and put together again.

Each block is one unit, and the rest of the network another: a rank has whole only the blocks that are being computed.
Frozen weights are spread too, in their own number type; only what is trained needs to be of one type. Parameters keep
their names, so what is put together is what a single process has, and files go both ways.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW, Optimizer

from lorat.train.network.blocks.layers import is_factor
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.weights.published import is_kept


def shard(module: nn.Module, blocks: nn.ModuleList, optimizer: Optimizer, device: torch.device) -> AdamW:
    """Spread a module's parameters over all ranks, in place, and return the AdamW that takes its optimiser's place.
    Both must be equal on all ranks, and may still be in the processor's memory: only each rank's part goes to its
    device. Each of `blocks` is gathered when it is computed and let go afterwards.
    """
    wholes: list[Tensor] = list(module.parameters())
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for unit in (*blocks, module):
        fully_shard(unit, mesh=mesh)
    parts = dict(zip(wholes, module.parameters(), strict=True))
    groups = [{**group, "params": [parts[whole] for whole in group["params"]]} for group in optimizer.param_groups]
    new = AdamW(groups, fused=True)
    for whole, state in optimizer.state.items():
        part = parts[whole]
        new.state[part] = {key: _spread(value, whole, part) for key, value in state.items()}
    return new


def _spread(value: Any, whole: Tensor, part: nn.Parameter) -> Any:
    """Return this rank's part of what an optimiser keeps of a parameter."""
    if not (isinstance(part, DTensor) and isinstance(value, Tensor)):
        return value
    value = value.to(part.device)
    if value.shape != whole.shape:
        return value  # the number of its steps
    return distribute_tensor(value, part.device_mesh, part.placements, src_data_rank=None)


def empty_copy(network: OneStream) -> OneStream:
    """Return a copy whose parameters have no values yet; `fill` gives it some."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in network.parameters()
    }
    return copy.deepcopy(network, memo)


def gathered(parameter: nn.Parameter) -> Tensor:
    """Return the values of a parameter that ranks hold parts of; every rank has to call this."""
    value = parameter.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


def fill(empty: OneStream, network: OneStream, gather: Callable[[nn.Parameter], Tensor], *, frozen: bool) -> None:
    """Gather a sharded network in rank 0's `empty_copy`, all or without the frozen backbone; every rank has to call
    this.
    """
    for name, parameter in network.named_parameters():
        # An earlier phase's factors and token types are frozen too, but no backbone's file has them.
        if frozen or parameter.requires_grad or is_factor(name) or is_kept(name):
            value = gather(parameter)
            if torch.distributed.get_rank() == 0:
                path, _, last = name.rpartition(".")
                new = nn.Parameter(value.cpu(), requires_grad=parameter.requires_grad)
                setattr(empty.get_submodule(path), last, new)


def whole_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return an optimiser's ``state_dict``, whole tensors on rank 0 and none elsewhere; every rank has to call this."""
    keeper = "cpu" if torch.distributed.get_rank() == 0 else "meta"

    def kept(value: Any) -> Any:
        return value.full_tensor().to(keeper) if isinstance(value, DTensor) else value

    state = optimizer.state_dict()
    state["state"] = {n: {key: kept(v) for key, v in values.items()} for n, values in state["state"].items()}
    return state
