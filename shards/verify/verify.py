"""Checks the manifest of one data set split and plans the audit of its shards.

Promise: together with `audit_shard` for every job, each byte that belongs to the manifest is
checked. Where the manifest itself cannot be read, the receipts beside the shards stand in for it,
so that one damaged file does not hide another. Files that belong to nothing are noted.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.base.storage import Location, children, read_json
from lorat.shards.manifest import (
    MANIFEST,
    Manifest,
    Receipt,
    read_manifest,
    receipt_path,
    shard_name,
)
from lorat.shards.verify.shard import Fault, ShardAudit, ShardJob, audit_shard
from lorat.shards.writer import index_path

__all__ = ["Fault", "SetPlan", "ShardAudit", "ShardJob", "audit_shard", "plan_audit"]

_RECEIPTS = TypeAdapter(Receipt)
_RECEIPT = ".receipt.json"
_HALF_WRITTEN = ".tmp"
_OF_THE_BUILD = re.compile(r"plan\.json|build.*\.log")
_SHARD_SUFFIXES = (".tar.zst", ".idx", _RECEIPT)


@dataclass(frozen=True, slots=True)
class SetPlan:
    """What is to be checked of one data set split."""

    name: str
    """Its folder's name, ``<dataset>-<split>``."""
    folder: Location
    jobs: tuple[ShardJob, ...]
    faults: tuple[Fault, ...]
    """Of the manifest itself."""
    notes: tuple[str, ...]
    """Files that belong to nothing; they do no harm."""


def plan_audit(folder: Location, deep: bool = False) -> SetPlan:
    """Check the manifest in `folder` and plan a job for each of its shards.

    Args:
        folder: ``<shards>/<dataset>-<split>``, local or remote, with a manifest.
        deep: whether the jobs decode the images.
    """
    faults: list[Fault] = []
    place = folder / MANIFEST
    try:
        values = read_json(place)
        manifest = read_manifest(folder)
        for number, receipt in enumerate(values["shards"]):
            _typed(receipt, f"{place}: shard {number}")
        faults += _manifest_faults(manifest, values)
        if values.get("fingerprint") != manifest.fingerprint():
            manifest = _from_receipts(folder, faults)
    except UserError as error:
        faults.append(Fault(str(place), error.message.removeprefix(f"{place}: ")))
        manifest = _from_receipts(folder, faults)
    jobs = tuple(
        ShardJob(manifest.dataset, manifest.split, folder, receipt, deep)
        for receipt in manifest.shards
    )
    return SetPlan(folder.name, folder, jobs, tuple(faults), tuple(_strays(manifest)))


def _manifest_faults(manifest: Manifest, values: dict[str, Any]) -> Iterator[Fault]:
    """Yield what a readable manifest says wrongly of itself."""
    place = str(manifest.folder / MANIFEST)
    for key, value in manifest.to_json().items():
        if key in ("rows", "bytes", "fingerprint") and values.get(key) != value:
            yield Fault(place, f"says {key} {values.get(key)}, its shards make {value}")
    if manifest.folder.name != manifest.name:
        yield Fault(place, f"is of {manifest.name}, not of the folder that it lies in")
    first = 0
    for number, receipt in enumerate(manifest.shards):
        name = shard_name(manifest.dataset, manifest.split, number)
        if receipt.shard != name:
            yield Fault(place, f"shard {number} is called {receipt.shard} instead of {name}")
        if receipt.first_pair != first:
            text = f"{receipt.shard} begins with pair {receipt.first_pair} instead of {first}"
            yield Fault(place, text)
        first = receipt.first_pair + receipt.drawn
    if len({receipt.config for receipt in manifest.shards}) > 1:
        yield Fault(place, "its shards come from builds with different options")


def _typed(values: Any, where: str) -> Receipt:
    """Read a receipt's JSON, strict in types.

    Raises:
        ShardCorrupt: if a field is missing or of another type.
    """
    try:
        return _RECEIPTS.validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ShardCorrupt(f"{where}: field '{field}': {first['msg']}") from None


def _from_receipts(folder: Location, faults: list[Fault]) -> Manifest:
    """Return what the receipts in a folder make, for a manifest that cannot be read."""
    dataset, _, split = folder.name.partition("-")
    receipts = []
    for path in children(folder):
        if not path.name.endswith(_RECEIPT):
            continue
        shard = str(folder / path.name.replace(_RECEIPT, ".tar.zst"))
        try:
            receipts.append(_typed(read_json(path), str(path)))
        except UserError as error:
            faults.append(Fault(str(path), error.message.removeprefix(f"{path}: "), shard=shard))
    return Manifest(dataset, split, {}, tuple(receipts), folder)


def _strays(manifest: Manifest) -> Iterator[str]:
    """Yield a note for each kind of file that the manifest does not know."""
    known = {MANIFEST}
    for receipt in manifest.shards:
        shard = manifest.folder / receipt.shard
        known |= {receipt.shard, index_path(shard).name}
        known.add(receipt_path(manifest.folder, receipt.shard).name)
    names = [path.name for path in children(manifest.folder)]
    others = [n for n in names if n not in known and not _OF_THE_BUILD.fullmatch(n)]
    half = [name for name in others if name.endswith(_HALF_WRITTEN)]
    shards = [name for name in others if name.endswith(_SHARD_SUFFIXES)]
    if half:
        yield f"{_some(half)}: left by a build that was stopped; may be deleted"
    if shards:
        yield f"{_some(shards)}: in no manifest; left by an unfinished or a larger build"
    rest = [name for name in others if name not in half and name not in shards]
    if rest:
        yield f"{_some(rest)}: belongs to no manifest"


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(itertools.islice(names, 3)) + rest
