"""What a run cannot change while it goes on: shards, variant, and the recipe but for some keys.

A resumed run has to be the run that was stopped, so every key counts that is not listed here as
free. Free is what changes no batch and, up to rounding, no gradient.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lorat.configs.schema import RecipeConfig, VariantConfig
from lorat.shards.base.errors import UserError
from lorat.shards.manifest import Manifest

__all__ = ["FREE", "check_same", "fixed_settings", "leaves"]

FREE = frozenset(
    {
        "name",
        "data.workers",
        "data.prefetch",
        "data.validation",
        "data.validation_pairs",
        "train.accumulate",
        "train.checkpoint_activations",
        "train.checkpoint_epochs",
        "train.checkpoint_minutes",
        "train.checkpoint_steps",
        "train.compile",
        "train.dtype",
        "train.evaluate_batch",
        "train.evaluate_epochs",
        "train.keep_checkpoints",
        "train.log_steps",
        "train.parallel",
        "train.validate_epochs",
    }
)
"""Keys of a recipe that may be others on resume."""

_SHOWN = 3  # differences with their values; more are only counted


def fixed_settings(
    variant: VariantConfig, recipe: RecipeConfig, manifests: Iterable[Manifest]
) -> dict[str, Any]:
    """Return key → JSON value of all that has to be the same on resume."""
    network = leaves("variant", variant.model_dump(mode="json", exclude={"recipe"}))
    plan = leaves("", recipe.model_dump(mode="json"))
    shards = {f"shards of {m.name}": m.fingerprint() for m in manifests}
    settings = {**dict(network), **{k: v for k, v in plan if k not in FREE}, **shards}
    decoded: dict[str, Any] = json.loads(json.dumps(settings))  # tuples become lists
    return decoded


def check_same(checkpoint: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than the checkpoint's.

    Raises:
        UserError: names the keys that differ, with both values.
    """
    absent = object()
    keys = sorted(then.keys() | now.keys())
    differ = [key for key in keys if then.get(key, absent) != now.get(key, absent)]
    if not differ:
        return
    shown = "; ".join(
        f"{key} = {then.get(key, 'none')}, this run has {now.get(key, 'none')}"
        for key in differ[:_SHOWN]
    )
    more = f"; and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
    raise UserError(
        f"{checkpoint}: was trained with {shown}{more}. Give the same shards, variant and recipe, "
        "or another --run"
    )


def leaves(above: str, tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with their keys, as in ``train.lr``, below `above`."""
    for name, value in tree.items():
        key = f"{above}.{name}" if above else name
        if isinstance(value, dict):
            yield from leaves(key, value)
        else:
            yield key, value
