"""A moving average of the trained weights (EMA), which is what is tracked with where a recipe asks for one.

It stands in the optimiser's state beside the means that AdamW keeps of gradients, so that it is spread over ranks,
saved and gone on from as they are: each rank averages its own part, and all compute the average of one alone.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lorat.train.network.blocks.lorat import OneStream

_KEY, _MEAN = "average", "exp_avg"  # of AdamW's state; it makes its own only where it finds nothing


def decay_at(step: int, decay: float) -> float:
    """Return what the average keeps of itself at a step, counted from 0: (1 + t) / (10 + t) until that is `decay`, so
    that it does not remember the start for ever (as TensorFlow's ExponentialMovingAverage has it).
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def average(optimizer: Optimizer, decay: float, step: int, skipped: Tensor | None = None) -> None:
    """Move the average towards the weights after an optimiser's step; it begins as what the first step left. Where
    `skipped`, a scalar on the device, is 1, nothing moves; nobody waits for it.
    """
    pairs = []
    for weight, state in optimizer.state.items():
        if _KEY in state:
            pairs.append((_local(state[_KEY]), _local(weight)))
        elif _MEAN in state:
            state[_KEY] = weight.detach().clone()
    if not pairs:
        return
    means, weights = map(list, zip(*pairs, strict=True))
    share = 1.0 - decay_at(step, decay)
    if skipped is None:
        torch._foreach_lerp_(means, weights, share)
    else:
        for mean, weight in pairs:
            mean.lerp_(weight, share * (1.0 - skipped))


@torch.no_grad()
def exchange(optimizer: Optimizer) -> None:
    """Let the average and the weights change places, if there is one; done again, all is as before, bit for bit."""
    for weight, state in optimizer.state.items():
        if _KEY in state:
            mine, mean = _local(weight), _local(state[_KEY])
            kept = mine.clone()
            mine.copy_(mean)
            mean.copy_(kept)


def averages(network: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return parameter name → average, of an optimiser of `network` whose ``state_dict`` of whole tensors is given."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    return {order[number]: values[_KEY] for number, values in state["state"].items() if _KEY in values}


def network_of_averages(network: OneStream, means: Mapping[str, Tensor]) -> OneStream:
    """Return a network with these values in the place of its own, which shares all others and copies nothing."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(means[name]) if name in means else parameter
        for name, parameter in network.named_parameters()
    }
    return copy.deepcopy(network, memo)


def _local(value: Tensor) -> Tensor:
    """Return what this rank holds of a tensor, the live storage."""
    value = value.detach()
    return value.to_local() if isinstance(value, DTensor) else value
