"""What all ranks have to have in common before they train together.

Ranks read their own command line, their own files and their own trees. One that lacks something, or
was started with another value, would leave the others waiting at a meeting that it does not come
to, or train other weights beside theirs. So they tell one another, and all end at once with one
line on rank 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from lorat.shards.base.errors import UserError
from lorat.train.checkpoint.record import leaves
from lorat.train.distributed.world import World, texts_of_ranks
from lorat.train.loop import Training

__all__ = ["agreed", "check_alike", "common_settings"]

_OWN = frozenset({"data.workers", "data.prefetch"})
"""Keys of a recipe that may differ: machines do."""
Value = TypeVar("Value")


def agreed(work: Callable[[], Value], world: World) -> Value:
    """Return what `work` gives on this rank, if no rank has a reason against it.

    Every rank has to call this; `work` must not meet other ranks.

    Raises:
        UserError: on rank 0, if `work` raises one on any rank: the first rank's.
        SystemExit: then, on the other ranks.
    """
    if world.size == 1:
        return work()
    reason = ""
    try:
        value = work()
    except UserError as error:
        reason = error.message
    reasons = texts_of_ranks([reason], world)
    if any(reasons):
        rank = next(r for r, text in enumerate(reasons) if text)
        of_rank = f"rank {rank}: " if rank else ""  # rank 0 speaks for itself
        _end(f"{of_rank}{reasons[rank]}", world)
    return value


def check_alike(settings: Mapping[str, Any], world: World) -> None:
    """See that all ranks have the same settings; every rank has to call this.

    Raises:
        UserError: on rank 0, with the first difference of the first rank that has one.
        SystemExit: then, on the other ranks.
    """
    texts = texts_of_ranks([json.dumps(settings)], world)
    first = json.loads(texts[0])
    for rank, text in enumerate(texts):
        if text == texts[0]:
            continue
        own = json.loads(text)
        key = next(k for k in first | own if first.get(k) != own.get(k))
        _end(
            f"rank {rank} has {key} = {_shown(own.get(key))}, rank 0 has {_shown(first.get(key))}; "
            "start all ranks with the same command, on the same files",
            world,
        )


def common_settings(training: Training, backbone: str, test_sets: Sequence[str]) -> dict[str, Any]:
    """Return key → JSON value of what ranks have to have in common.

    Args:
        training: as this rank would do it.
        backbone: fingerprint of its backbone.
        test_sets: that it found.
    """
    source, validation = training.source, training.validation
    plan = leaves("", training.recipe.model_dump(mode="json"))
    return {
        **dict(leaves("variant", training.variant.model_dump(mode="json"))),
        **{key: value for key, value in plan if key not in _OWN},
        **{f"shards of {m.name}": m.fingerprint() for m in source.manifests},
        "shards for validation": validation and validation.manifests[0].fingerprint(),
        "test sets": ", ".join(test_sets),
        "backbone": backbone,
        "number type": str(training.dtype),
        "--resume": training.resume,
        "--on-bad-sample skip": source.skip_damaged,
    }


def _shown(value: Any) -> Any:
    return "none" if value in (None, "") else value


def _end(text: str, world: World) -> None:
    raise UserError(text) if world.speaks else SystemExit(2)
