"""Checkpoints: weights that anyone can load, and the trainer's state beside them.

``checkpoints/epoch_0010/`` (ten finished epochs) and ``checkpoints/step_00001234/`` (a rolling one)
hold ``model.safetensors``, ``state.pt``, and ``checkpoint.json``: how far the run was, what it
stood on, size and hash of the other two. A folder is written beside, flushed and renamed, so a
checkpoint is whole or not there; one that was damaged later is told by its hashes. The state is
loaded with ``weights_only=True``: nothing is unpickled.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import xxhash

from lorat.configs.schema import VariantConfig
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file, explain_disk, sync_folder
from lorat.train.checkpoint.fixed import check_same
from lorat.train.network.blocks.lorat import LoRAT
from lorat.train.network.trained import load_weights, metadata_of, weights_to_save
from lorat.train.network.weights.containers import write_tensors

__all__ = [
    "ROLLING_KEPT",
    "Position",
    "Snapshot",
    "checkpoint_name",
    "checkpoints_of",
    "find_checkpoint",
    "restore",
    "save_checkpoint",
]

ROLLING_KEPT = 2
WEIGHTS, STATE, RECORD = "model.safetensors", "state.pt", "checkpoint.json"
_VERSION = 2
_NAME = re.compile(r"epoch_\d{4,}|step_\d{8,}")
_BLOCK = 1 << 20
_LOG = logging.getLogger("lorat")


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run is, and what it stands on."""

    step: int
    """Optimiser steps done, over the whole run."""
    epoch: int
    """Finished epochs."""
    settings: Mapping[str, Any]
    """What the run cannot change, as `fixed_settings` gives it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is saved; it may be the live tensors, since the training waits."""

    network: LoRAT
    variant: VariantConfig
    state: Mapping[str, Mapping[str, Any]]
    """The ``state_dict`` of ``optimizer`` and ``scaler``: plain containers and tensors."""


class Stateful(Protocol):
    """What takes a ``state_dict`` back."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""


def save_checkpoint(
    run: Path, name: str, snapshot: Snapshot, position: Position, *, keep: int
) -> Path:
    """Write a checkpoint, then delete older ones; only one rank calls it.

    Args:
        run: folder of the run.
        name: of `checkpoint_name`.
        snapshot: what is saved.
        position: how far the run is.
        keep: newest epochs' checkpoints that are kept; of rolling ones two are.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: if the disk refuses; nothing is left of the checkpoint then, and none is lost.
    """
    final = run / "checkpoints" / name
    metadata = {"step": str(position.step), "epoch": str(position.epoch)}
    metadata |= metadata_of(snapshot.variant, snapshot.network.fingerprint)
    live = weights_to_save(snapshot.network, snapshot.variant)
    weights = {tensor_name: tensor.float() for tensor_name, tensor in live.items()}
    beside = final.with_name(f".{name}.tmp")
    with explain_disk(final):
        _remove_stale(final.parent)
        beside.mkdir(parents=True)
    try:
        write_tensors(beside / WEIGHTS, weights, metadata)
        _write_state(beside / STATE, dict(snapshot.state))
        _write_record(beside, position)
        with explain_disk(final):
            _rename(beside, final)
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # its room is the log's where the disk is full
    with explain_disk(final):
        _delete_older(final, keep)
    return final


def _remove_stale(folder: Path) -> None:
    for stale in folder.glob(".*.tmp"):
        shutil.rmtree(stale)  # of a process that was killed while it saved


def _write_state(path: Path, state: dict[str, Any]) -> None:
    with atomic_file(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # its writer fails once more when the disk has refused
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _write_record(folder: Path, position: Position) -> None:
    record = {
        "version": _VERSION,
        "step": position.step,
        "epoch": position.epoch,
        "files": {name: _seal(folder / name) for name in (WEIGHTS, STATE)},
        "settings": dict(position.settings),
    }
    with atomic_file(folder / RECORD) as file:
        file.write(json.dumps(record, indent=1).encode())


def _seal(path: Path) -> dict[str, int | str]:
    """Return what tells a file from a damaged one."""
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return {"bytes": path.stat().st_size, "xxh3_64": digest.hexdigest()}


def _rename(beside: Path, final: Path) -> None:
    if final.exists():  # a damaged one, or one past the checkpoint that the run went on from
        final.replace(final.with_name(f".{final.name}.old.tmp"))
    beside.replace(final)
    sync_folder(final.parent)
    _remove_stale(final.parent)


def _delete_older(newest: Path, keep: int) -> None:
    """Delete all but the newest of a kind; later ones, which are damaged, wait for their turn."""
    kind, number = _numbered(newest)
    kept = keep if kind == "epoch" else ROLLING_KEPT
    numbers = [n for k, n in map(_numbered, checkpoints_of(newest.parents[1])) if k == kind]
    for old in sorted(n for n in numbers if n <= number)[:-kept]:
        name = checkpoint_name(**{kind: old})
        # Renamed first: killed in the middle, it would leave a damaged one.
        doomed = newest.with_name(f".{name}.tmp")
        newest.with_name(name).replace(doomed)
        shutil.rmtree(doomed)


def checkpoint_name(*, epoch: int | None = None, step: int = 0) -> str:
    """Return the folder's name of an epoch's checkpoint, or else of a step's, a rolling one."""
    return f"step_{step:08d}" if epoch is None else f"epoch_{epoch:04d}"


def _numbered(checkpoint: Path) -> tuple[str, int]:
    kind, _, number = checkpoint.name.partition("_")
    return kind, int(number)


def checkpoints_of(run: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, damaged ones too, in no particular order."""
    return [p for p in (run / "checkpoints").glob("*_*") if _NAME.fullmatch(p.name)]


def find_checkpoint(run: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None where there is none at all.

    Damaged ones that are newer, or cannot be dated, are named in warnings.

    Raises:
        UserError: if there are checkpoints, and all are damaged.
    """
    dated: list[tuple[int, Path]] = []
    damaged: list[UserError] = []
    for folder in checkpoints_of(run):
        try:
            dated.append((int(read_record(folder)["step"]), folder))
        except UserError as error:
            damaged.append(error)
    found: Path | None = None
    for _, folder in sorted(dated, reverse=True):
        try:
            _check_whole(folder)
        except UserError as error:
            damaged.append(error)
            continue
        found = folder
        break
    if found is None and damaged:
        raise UserError(
            f"{damaged[0].message}; no checkpoint of {run} is whole: delete its folder "
            "'checkpoints' to train from the start, or name another --run"
        )
    for reason in damaged:
        _LOG.warning("%s; it is passed over for %s", reason.message, found)
    return found


def read_record(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint's ``checkpoint.json`` says.

    Raises:
        UserError: if it is missing, damaged, or of another release.
    """
    path = checkpoint / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        version, _ = record["version"], (record["step"], record["files"], record["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: missing or damaged ({type(error).__name__})") from None
    if version != _VERSION:
        raise UserError(f"{path}: version {version}, this release reads {_VERSION}")
    return record


def _check_whole(checkpoint: Path) -> None:
    """Compare the files with what was written.

    Raises:
        UserError: names the first that differs.
    """
    for name, seal in read_record(checkpoint)["files"].items():
        path = checkpoint / name
        try:
            same = _seal(path) == seal
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        if not same:
            raise UserError(f"{path}: damaged (not what was written)")


def restore(
    checkpoint: Path,
    network: LoRAT,
    stateful: Mapping[str, Stateful],
    settings: Mapping[str, Any],
    *,
    force_backbone: bool = False,
) -> int:
    """Load a checkpoint into network and optimiser and return the number of steps done.

    Args:
        checkpoint: a folder of `save_checkpoint`.
        network: built for the same variant.
        stateful: what takes each part of the snapshot's state back, under the same names. A part
            that is empty, as a scaler's that was not needed, changes nothing.
        settings: of the run that wants to go on.
        force_backbone: take a checkpoint that was trained on another backbone.

    Raises:
        UserError: if the checkpoint is damaged, or is of other shards, another recipe or backbone.
    """
    record = read_record(checkpoint)
    check_same(checkpoint, record["settings"], settings)
    path = checkpoint / STATE
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error) or "empty file").splitlines()[0]
        raise UserError(f"{path}: cannot be loaded ({reason}); delete {checkpoint}") from None
    load_weights(checkpoint / WEIGHTS, network, force_backbone=force_backbone)
    for name, owner in stateful.items():
        if state.get(name):
            owner.load_state_dict(state[name])
    return int(record["step"])
