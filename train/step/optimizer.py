"""The optimiser: which parameters decay, which learn more slowly, how the rate runs.

The rate is a function of the step, which needs no state; the published system uses that of max(t - 1, 0) at step t.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lorat.configs.schema import TrainConfig
from lorat.train.network.weights.naming import block_of, last_block

_BEFORE_BLOCKS = ("patch_embed.", "pos_embed", "prefix_tokens", "norm_pre.")


def learning_rate(step: int, recipe: TrainConfig) -> float:
    """Return the rate of a step, counted from 0 over the whole run: a linear warm-up, then half a cosine. That is as
    long as the run but starts after the warm-up, so the run ends that much before the cosine does.
    """
    steps_per_epoch = recipe.pairs_per_epoch // recipe.batch_size
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.lr_warmup + (recipe.lr - recipe.lr_warmup) * step / warmup
    share = min((step - warmup) / (recipe.epochs * steps_per_epoch), 1.0)
    return recipe.lr_min + (recipe.lr - recipe.lr_min) * (0.5 * (1.0 + math.cos(math.pi * share)))


def box_weight(step: int, recipe: TrainConfig) -> float:
    """Return what multiplies the loss of boxes at a step, counted from 0 over the whole run."""
    return 10.0 if step < recipe.box_warmup_epochs * (recipe.pairs_per_epoch // recipe.batch_size) else 1.0


def rate_share(name: str, depth: int, layer_decay: float) -> float:
    """Return what multiplies a parameter's rate, with d for `layer_decay`: d^(L - j) for block j of L, counted from 0,
    d^(L + 1) before the blocks, and 1 for what is new to a pretrained network (token types, head) and the last norm.
    """
    if (block := block_of(name)) is not None:
        return layer_decay ** (depth - block)
    return layer_decay ** (depth + 1) if name.startswith(_BEFORE_BLOCKS) else 1.0


def parameter_groups(network: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Split trained parameters into optimiser groups: the full rate first, and of each rate those with decay first.
    Without weight decay are those that are one-dimensional once axes of length 1 are dropped, those with ``embed`` in
    their name, and a backbone's own tokens. A group's ``rate_share``, of the function of that name, multiplies the
    rate.
    """
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    depth = last_block(trained) + 1
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in trained.items():
        share = rate_share(name, depth, layer_decay)
        bare = sum(length != 1 for length in parameter.shape) <= 1 or "embed" in name or name == "prefix_tokens"
        group = {"params": [], "weight_decay": 0.0 if bare else weight_decay, "rate_share": share}
        groups.setdefault((-share, bare), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def build_optimizer(network: nn.Module, weight_decay: float = 0.1, layer_decay: float = 1.0) -> torch.optim.AdamW:
    """Return AdamW over what the network trains, fused; its rate is set before every step."""
    return torch.optim.AdamW(parameter_groups(network, weight_decay, layer_decay), lr=0.0, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group its share of this rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_share", 1.0)


def clip_gradients(network: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients to a common L2 norm of at most `max_norm`; return the norm before, of whole gradients."""
    norm = nn.utils.clip_grad_norm_([p for p in network.parameters() if p.grad is not None], max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
