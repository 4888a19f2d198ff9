"""Checkpoints: weights that anyone can load, and the trainer's state beside them.

``checkpoints/epoch_0010/`` holds ``model.safetensors`` and ``state.pt``. The folder is written
beside and renamed, so a checkpoint is whole or not there. The state is loaded with
``weights_only=True``: nothing is unpickled.
"""

from __future__ import annotations

import pickle
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorat.configs.schema import VariantConfig
from lorat.shards.errors import UserError
from lorat.shards.storage import atomic_file
from lorat.train.network.lorat import LoRAT
from lorat.train.network.weights import load_weights, save_weights

__all__ = ["Position", "find_checkpoint", "restore", "save_checkpoint"]

VERSION = 1
_NAME = re.compile(r"epoch_(\d+)$")


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run is, and what it stands on."""

    step: int
    """Optimiser steps done, over the whole run."""
    data: dict[str, str]
    """Shard set name → fingerprint of its manifest."""
    order: dict[str, int | str]
    """What else a run cannot change: the variant, seed, batch size, pairs an epoch, weights."""


def save_checkpoint(
    run: Path,
    epoch: int,
    network: LoRAT,
    variant: VariantConfig,
    optimizer: torch.optim.Optimizer,
    position: Position,
    *,
    keep: int,
) -> Path:
    """Write the checkpoint of `epoch` finished epochs and delete all but the newest `keep`.

    Returns:
        The folder.
    """
    folder = run / "checkpoints"
    for stale in folder.glob(".epoch_*.tmp"):
        shutil.rmtree(stale)  # of a process that was killed while it saved
    beside = folder / f".epoch_{epoch:04d}.tmp"
    beside.mkdir(parents=True)
    save_weights(beside / "model.safetensors", network, variant, {"epoch": str(epoch)})
    state = {
        "version": VERSION,
        "step": position.step,
        "data": position.data,
        "order": position.order,
        "optimizer": optimizer.state_dict(),
    }
    with atomic_file(beside / "state.pt") as file:
        torch.save(state, file)
    final = folder / f"epoch_{epoch:04d}"
    shutil.rmtree(final, ignore_errors=True)
    beside.replace(final)
    for old in _checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


def find_checkpoint(run: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None."""
    found = _checkpoints(run)
    return found[-1] if found else None


def restore(
    checkpoint: Path, network: LoRAT, optimizer: torch.optim.Optimizer, position: Position
) -> int:
    """Load a checkpoint into network and optimiser and return the number of steps done.

    Args:
        checkpoint: a folder of `save_checkpoint`.
        network: built for the same variant.
        optimizer: built for that network.
        position: of the run that wants to go on; its step is not looked at.

    Raises:
        UserError: if the checkpoint is damaged, or is of other shards or another order.
    """
    path = checkpoint / "state.pt"
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error) or "empty file").splitlines()[0]
        raise UserError(f"{path}: cannot be loaded ({reason}); delete {checkpoint}") from None
    if state.get("version") != VERSION:
        raise UserError(
            f"{path}: state version {state.get('version')}, this release reads {VERSION}"
        )
    for what, now in (("data", position.data), ("order", position.order)):
        for key in sorted(now.keys() | state[what].keys()):
            if now.get(key) != state[what].get(key):
                raise UserError(
                    f"{path}: was trained with {key} = {state[what].get(key)}, this run has "
                    f"{now.get(key)}; give the same shards and recipe, or another --run"
                )
    load_weights(checkpoint / "model.safetensors", network)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _checkpoints(run: Path) -> list[Path]:
    folder = run / "checkpoints"
    found = [(m, p) for p in folder.glob("epoch_*") if (m := _NAME.match(p.name))]
    return [p for _, p in sorted(found, key=lambda pair: int(pair[0][1]))]
