"""What a run is made of: its record ``config.yaml``, and what may not change while it goes on.

Promise: ``lorat-train --config RUN/config.yaml --run NEW`` gives the same weights bit for bit on one process and CPU
with the same PyTorch and number of threads. A resumed run has to be the run that was stopped, so every key counts that
is not listed here as free: free is what changes no batch and, up to rounding, no gradient.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator

from lorat.configs.load import override, parse, read_yaml
from lorat.configs.schema import RecipeConfig, VariantConfig
from lorat.shards.base.errors import UserError, some
from lorat.shards.base.storage import atomic_file
from lorat.shards.manifest import Manifest

CONFIG = "config.yaml"
_FREE_TRAIN = (
    *("accumulate", "checkpoint_activations", "compile", "compile_mode", "compiled_autograd", "dtype", "parallel"),
    *("checkpoint_epochs", "checkpoint_minutes", "checkpoint_steps", "keep_checkpoints"),
    *("early_stopping", "early_stopping.metric", "early_stopping.patience"),
    *("evaluate", "evaluate_batch", "evaluate_dtype", "evaluate_epochs", "log_steps", "resume", "validate_epochs"),
    "zero_stage",
)
_FREE_DATA = ("workers", "prefetch", "validation", "validation_pairs")
FREE = {"name", *(f"data.{k}" for k in _FREE_DATA), *(f"train.{k}" for k in _FREE_TRAIN)}
"""Keys of a recipe that may be others on resume."""


_Several = Annotated[tuple[str, ...], BeforeValidator(lambda told: (told,) if isinstance(told, str) else told)]
"""Strings; a run of before there could be several wrote one."""


class Made(BaseModel, frozen=True, extra="forbid"):
    """Where a run was made; decides the last bits of its weights, and is not asked for again."""

    lorat: str
    torch: str
    processes: int
    device: str


class RunRecord(BaseModel, frozen=True, extra="forbid"):
    """What ``config.yaml`` holds."""

    variant: VariantConfig
    recipe: RecipeConfig  # with its number type resolved
    shards: str
    data: dict[str, str] = {}  # shard set name → fingerprint of its manifest
    on_bad_sample: Literal["stop", "skip"] = "stop"
    backbone_fingerprint: str | None = None  # empty for a backbone from scratch; None where a record does not tell
    weights: _Several = ()  # the files that the run started from
    weights_sha256: _Several = ()
    made: Made | None = None


def read_record(path: Path, overrides: Sequence[str] = ()) -> RunRecord:
    """Read a ``config.yaml``, changed by overrides (``train.lr=c`` of the recipe, ``variant.a.b=c``), with `parse`."""
    values = read_yaml(path)
    for text in overrides:
        override(values, text if text.startswith("variant.") else f"recipe.{text}", text)
    return parse(RunRecord, values, f"{path} with --set" if overrides else str(path))


def write_record(path: Path, record: RunRecord) -> None:
    """Write a run's record, whole or not at all; its folder is made."""
    values = {k: v for k, v in record.model_dump(mode="json").items() if v not in (None, [])}
    with atomic_file(path) as file:
        file.write(yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())


def fixed_settings(
    variant: VariantConfig, recipe: RecipeConfig, manifests: Iterable[Manifest], free: Collection[str] = FREE
) -> dict[str, Any]:
    """Return key → JSON value of all that has to be the same on resume: keys of the recipe that are not `free`."""
    network = dict(_leaves("variant", variant.model_dump(mode="json", exclude={"recipe"})))
    plan = {k: v for k, v in _leaves("", recipe.model_dump(mode="json")) if k not in free}
    return {**network, **plan, **{f"shards of {m.name}": m.fingerprint() for m in manifests}}


def check_same(checkpoint: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise a `UserError` that names keys that differ since the checkpoint, with both values."""
    # What a release did not know yet was off, or as a variant is without a word.
    usual = VariantConfig.model_validate({"name": "", "backbone": {"timm": ""}, "template_size": 1, "search_size": 1})
    known = {key.rpartition(".")[0] for key in then}
    silent = dict(_leaves("variant", usual.model_dump(mode="json")))
    then = {key: silent[key] for key in silent.keys() & now.keys() if key.rpartition(".")[0] in known} | dict(then)
    differ = [
        f"{key} = {then.get(key, 'none')} (this run has {now.get(key, 'none')})"
        for key in sorted(then.keys() | now.keys())
        if (then.get(key) or None) != (now.get(key) or None)
    ]
    if differ:
        what = f"{checkpoint}: was trained with {some(differ)}"
        raise UserError(f"{what}; give the same shards, variant and recipe, or another --run")


def _leaves(above: str, tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with their keys, as in ``train.lr``, below `above`."""
    for name, value in tree.items():
        key = f"{above}.{name}" if above else name
        if isinstance(value, dict):
            yield from _leaves(key, value)
        else:
            yield key, value
