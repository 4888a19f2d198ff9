"""The record of a run, ``config.yaml``: all that decides its weights, so that it can be repeated.

Promise: ``lorat-train --config RUN/config.yaml --run NEW`` gives the same weights bit for bit on
one process and CPU with the same PyTorch. Other shards, another backbone or other first weights
than the record names are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from lorat.configs.load import override, parse, read_yaml
from lorat.configs.schema import RecipeConfig, VariantConfig
from lorat.shards.base.storage import atomic_file

__all__ = ["CONFIG", "Made", "RunRecord", "read_record", "write_record"]

CONFIG = "config.yaml"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Made(_Frozen):
    """Where a run was made; decides the last bits of its weights, and is not asked for again."""

    lorat: str
    torch: str
    processes: int
    device: str

    @staticmethod
    def here(processes: int, device: str) -> Made:
        """Return what is installed here."""
        return Made(
            lorat=version("lorat"), torch=version("torch"), processes=processes, device=device
        )


class RunRecord(_Frozen):
    """What ``config.yaml`` holds."""

    variant: VariantConfig
    recipe: RecipeConfig
    """With its number type resolved."""
    shards: str
    data: dict[str, str] = {}
    """Shard set name → fingerprint of its manifest."""
    on_bad_sample: Literal["stop", "skip"] = "stop"
    backbone_fingerprint: str | None = None
    """Empty for a backbone from scratch; None where a record does not tell."""
    weights: str | None = None
    """The file that the run started from."""
    weights_sha256: str | None = None
    made: Made | None = None


def read_record(path: Path, overrides: Sequence[str] = ()) -> RunRecord:
    """Read a run's record.

    Args:
        path: of a ``config.yaml``.
        overrides: ``a.b=c`` each, for keys of the recipe, or ``variant.a.b=c``.

    Raises:
        UserError: if the file is missing, or a key or value does not fit.
    """
    values = read_yaml(path)
    for text in overrides:
        override(values, text if text.startswith("variant.") else f"recipe.{text}", text)
    return parse(RunRecord, values, f"{path} with --set" if overrides else str(path))


def write_record(path: Path, record: RunRecord) -> None:
    """Write a run's record, whole or not at all; its folder is made."""
    values = {k: v for k, v in record.model_dump(mode="json").items() if v is not None}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    with atomic_file(path) as file:
        file.write(text.encode())
