"""The optimiser: which parameters decay, how the rate runs, how far a step may go.

The rate is a pure function of the step, so a resumed run needs no scheduler state. Step t uses the
rate of t; the published system uses that of max(t - 1, 0).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "Schedule",
    "build_optimizer",
    "clip_gradients",
    "learning_rate",
    "parameter_groups",
    "set_learning_rate",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Linear warm-up, then one half of a cosine. The defaults are the published ones."""

    peak: float = 1e-4
    lowest: float = 1e-6
    """Rate at the cosine's end."""
    warmup_from: float = 1e-7
    """Rate of step 0, where there is a warm-up."""
    warmup_epochs: float = 2.0
    epochs: float = 170.0
    """Length of the cosine. It starts after the warm-up, so a run of as many epochs ends that
    much before the cosine does."""


def learning_rate(step: int, steps_per_epoch: int, schedule: Schedule) -> float:
    """Return the rate of a step, counted from 0 over the whole run."""
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        return schedule.warmup_from + (schedule.peak - schedule.warmup_from) * step / warmup
    share = min((step - warmup) / (schedule.epochs * steps_per_epoch), 1.0)
    fall = 0.5 * (1.0 + math.cos(math.pi * share))
    return schedule.lowest + (schedule.peak - schedule.lowest) * fall


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, Any]]:
    """Split trained parameters into those with and those without weight decay.

    Without: those that are one-dimensional once axes of length 1 are dropped, and those with
    ``embed`` in their name. Frozen parameters are left out.

    Returns:
        Two optimiser groups, with decay first; ``names`` lists the parameters of each.
    """
    groups: list[dict[str, Any]] = [
        {"params": [], "names": [], "weight_decay": decay} for decay in (weight_decay, 0.0)
    ]
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            axes = sum(length != 1 for length in parameter.shape)
            group = groups[axes <= 1 or "embed" in name]
            group["params"].append(parameter)
            group["names"].append(name)
    return groups


def build_optimizer(network: nn.Module, weight_decay: float = 0.1) -> torch.optim.AdamW:
    """Return AdamW over what the network trains; its rate is set before every step."""
    groups = [
        {key: value for key, value in group.items() if key != "names"}
        for group in parameter_groups(network.named_parameters(), weight_decay)
        if group["params"]
    ]
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group this rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_gradients(network: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients so that their common L2 norm is at most `max_norm`.

    Returns:
        The norm before, a scalar; not finite where a gradient is not.
    """
    trained = [p for p in network.parameters() if p.grad is not None]
    return nn.utils.clip_grad_norm_(trained, max_norm)
