"""Checkpoints: weights that anyone can load, and the trainer's state beside them.

``checkpoints/epoch_0010/`` (ten finished epochs) and ``checkpoints/step_00001234/`` (a rolling one) hold
``model.safetensors``, ``state.pt``, and ``checkpoint.json``: how far the run was, what it stood on, size and hash of
the others. Where a recipe has a moving average of the weights, that is the model, and ``live.safetensors`` is what goes
on. A checkpoint is whole or not there; one that was damaged later is told by its hashes.
"""

import hashlib
import logging
import pickle
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import xxhash
from pydantic import BaseModel

from lorat.configs.load import parse
from lorat.configs.schema import VariantConfig
from lorat.shards.base.disk import enduring
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file, atomic_folder, read_json, remove_folder
from lorat.train.checkpoint.record import check_same
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.trained import AVERAGED, load_weights, save_weights

WEIGHTS, LIVE, STATE, RECORD = "model.safetensors", "live.safetensors", "state.pt", "checkpoint.json"
_ROLLING_KEPT = 2
_NAME = re.compile(r"epoch_\d{4,}|step_\d{8,}")
_LOG = logging.getLogger("lorat")
_Values = dict[str, Any]


class Due(NamedTuple):
    """A checkpoint that has to be written now."""

    step: int  # optimiser steps done, over the whole run
    epoch: int  # finished epochs
    rolling: bool  # whether it is a step's, which makes room soon, or an epoch's
    last: bool = False  # whether the training ends with it, as a signal asked

    @property
    def name(self) -> str:
        """Its folder's name."""
        return f"step_{self.step:08d}" if self.rolling else f"epoch_{self.epoch:04d}"


class Snapshot(NamedTuple):
    """What is saved; it may be the live tensors, since the training waits."""

    network: OneStream
    variant: VariantConfig
    state: dict[str, dict[str, Any]]  # the ``state_dict`` of ``optimizer`` and ``scaler``: plain containers and tensors
    settings: dict[str, Any]  # what the run cannot change, as `fixed_settings` gives it
    about: dict[str, str]  # more metadata of the weights
    averaged: OneStream | None = None  # the network with the moving average of its weights


class CheckpointRecord(BaseModel):
    """What ``checkpoint.json`` holds."""

    version: Literal[2] = 2
    step: int
    epoch: int
    files: dict[str, dict[str, int | str]]  # file name → what tells it from a damaged one
    settings: dict[str, Any]


def save_checkpoint(run: Path, due: Due, snapshot: Snapshot, *, keep: int) -> Path:
    """Write a checkpoint of a run and return its folder, on one rank; then all but the newest `keep` of epochs and two
    rolling ones are deleted. If the disk refuses (`UserError`), nothing is left of the checkpoint, and none is lost.
    """
    final = run / "checkpoints" / due.name
    with atomic_folder(final) as beside:  # final: damaged, or past the checkpoint that the run went on from
        said = {"step": str(due.step), "epoch": str(due.epoch), **snapshot.about}
        weights = {WEIGHTS: (snapshot.network, said)}
        if snapshot.averaged is not None:
            weights = {WEIGHTS: (snapshot.averaged, said | AVERAGED), LIVE: (snapshot.network, said)}
        for name, (network, about) in weights.items():
            save_weights(beside / name, network, snapshot.variant, about)
        with atomic_file(beside / STATE) as file, enduring(file) as taking:
            torch.save(snapshot.state, taking)
        files = {name: _seal(beside / name) for name in (*weights, STATE)}
        record = CheckpointRecord(step=due.step, epoch=due.epoch, files=files, settings=snapshot.settings)
        with atomic_file(beside / RECORD) as file:
            file.write(record.model_dump_json(indent=1).encode())
    # Later ones of its kind, which are damaged, wait for their turn.
    (kind, number), kept = _numbered(final), _ROLLING_KEPT if due.rolling else keep
    alike = [path for path in checkpoints_of(run) if (kind, 0) <= _numbered(path) <= (kind, number)]
    for old in sorted(alike, key=_numbered)[:-kept]:
        remove_folder(old)
    return final


def _seal(path: Path) -> dict[str, int | str]:
    """Return what tells a file from a damaged one."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, xxhash.xxh3_64)
    return {"bytes": path.stat().st_size, "xxh3_64": digest.hexdigest()}


def _numbered(checkpoint: Path) -> tuple[str, int]:
    kind, _, number = checkpoint.name.partition("_")
    return kind, int(number)


def checkpoints_of(run: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, damaged ones too, in no particular order."""
    return [p for p in (run / "checkpoints").glob("*_*") if _NAME.fullmatch(p.name)]


def find_checkpoint(run: Path) -> Path | None:
    """Return a run's newest whole checkpoint, or None; newer damaged ones are warned of, a `UserError` if all are."""
    dated, damaged = list[tuple[int, Path]](), list[str]()
    for folder in checkpoints_of(run):
        try:
            dated.append((checkpoint_record(folder).step, folder))
        except UserError as error:
            damaged.append(error.message)
    for _, folder in sorted(dated, reverse=True):
        if (reason := _damage(folder)) is None:
            for reason in damaged:
                _LOG.warning("%s; it is passed over for %s", reason, folder)
            return folder
        damaged.append(reason)
    if damaged:
        raise UserError(
            f"{damaged[0]}; no checkpoint of {run} is whole: delete its folder 'checkpoints' to train from the start, "
            "or name another --run"
        )
    return None


def checkpoint_record(checkpoint: Path) -> CheckpointRecord:
    """Read ``checkpoint.json``; a `UserError` if it is missing, damaged, or of another release."""
    return parse(CheckpointRecord, read_json(checkpoint / RECORD), str(checkpoint / RECORD))


def _damage(checkpoint: Path) -> str | None:
    """Return what is wrong with the first file that is not what was written."""
    for name, seal in checkpoint_record(checkpoint).files.items():
        path = checkpoint / name
        try:
            if _seal(path) != seal:
                return f"{path}: damaged (not what was written)"
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"
    return None


def restore(
    checkpoint: Path, network: OneStream, stateful: _Values, settings: _Values, *, force_backbone: bool = False
) -> int:
    """Load a checkpoint into a network of its variant and return the number of steps done; nothing is unpickled.
    `stateful` takes the parts of the snapshot's state back (``load_state_dict``), under the same names; an empty part,
    as of a scaler that was not needed, changes nothing. A `UserError` if the checkpoint is damaged, its settings are
    not these `settings`, or it was trained on another backbone, unless `force_backbone`.
    """
    record, path = checkpoint_record(checkpoint), checkpoint / STATE
    check_same(checkpoint, record.settings, settings)
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error) or "empty file").splitlines()[0]
        raise UserError(f"{path}: cannot be loaded ({reason}); delete {checkpoint}") from None
    weights = LIVE if LIVE in record.files else WEIGHTS
    load_weights(checkpoint / weights, network, force_backbone=force_backbone)
    for name, owner in stateful.items():
        if state.get(name):
            owner.load_state_dict(state[name])
    return record.step
