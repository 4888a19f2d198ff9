"""The optimiser: which parameters decay, which learn more slowly, how the rate runs.

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
from torch.distributed.tensor import DTensor

from lorat.train.network.weights.published import block_of, last_block

__all__ = [
    "Schedule",
    "build_optimizer",
    "clip_gradients",
    "learning_rate",
    "parameter_groups",
    "rate_share",
    "set_learning_rate",
]


_BEFORE_BLOCKS = ("patch_embed.", "pos_embed", "norm_pre.")


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
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Split trained parameters by weight decay, and by rate where that falls with depth.

    Without weight decay: those that are one-dimensional once axes of length 1 are dropped, and
    those with ``embed`` in their name. Frozen parameters are left out.

    Args:
        named_parameters: of the network.
        weight_decay: of those that have it.
        layer_decay: see `rate_share`.

    Returns:
        Optimiser groups, two for each rate, with decay first; the full rate comes first. ``names``
        lists the parameters of each and ``rate_share`` multiplies the rate.
    """
    trained = [(name, p) for name, p in named_parameters if p.requires_grad]
    depth = last_block(name for name, _ in trained) + 1
    shares = {name: rate_share(name, depth, layer_decay) for name, _ in trained}
    groups: dict[tuple[float, bool], dict[str, Any]] = {
        (share, bare): {
            "params": [],
            "names": [],
            "weight_decay": 0.0 if bare else weight_decay,
            "rate_share": share,
        }
        for share in sorted({1.0, *shares.values()}, reverse=True)
        for bare in (False, True)
    }
    for name, parameter in trained:
        bare = sum(length != 1 for length in parameter.shape) <= 1 or "embed" in name
        group = groups[shares[name], bare]
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def rate_share(name: str, depth: int, layer_decay: float) -> float:
    """Return what a parameter's rate is multiplied by, with d for `layer_decay`.

    Block j of L, counted from 0, has d^(L - j), and what comes before the blocks d^(L + 1). What
    is new to a pretrained network (token types, head) and the last norm learn at the full rate.
    """
    block = block_of(name)
    if block is not None:
        return layer_decay ** (depth - block)
    return layer_decay ** (depth + 1) if name.startswith(_BEFORE_BLOCKS) else 1.0


def build_optimizer(
    network: nn.Module, weight_decay: float = 0.1, layer_decay: float = 1.0
) -> torch.optim.AdamW:
    """Return AdamW over what the network trains; its rate is set before every step.

    The fused form exists on CPU, CUDA and MPS. It updates all parameters in one call, and leaves
    a step out by itself when a scaler found that gradients overflowed.
    """
    groups = [
        {key: value for key, value in group.items() if key != "names"}
        for group in parameter_groups(network.named_parameters(), weight_decay, layer_decay)
        if group["params"]
    ]
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group its share of this rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_share", 1.0)


def clip_gradients(network: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients so that their common L2 norm is at most `max_norm`.

    Returns:
        The norm before, a scalar, of the whole gradients where ranks hold parts of them; not
        finite where a gradient is not.
    """
    trained = [p for p in network.parameters() if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(trained, max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
