"""Checks the manifest of one data set split and plans the audit of its shards.

Promise: together with `audit_shard` for every job, each byte that belongs to the manifest is checked. Where the
manifest itself cannot be read, the receipts beside the shards stand in for it, so that one damaged file does not hide
another. Files that belong to nothing are noted.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lorat.shards.base.errors import UserError, some
from lorat.shards.base.storage import Location, children
from lorat.shards.manifest import MANIFEST, Manifest, read_manifest, read_receipt, receipt_path, shard_name
from lorat.shards.verify.shard import ShardAudit, ShardFault, ShardJob
from lorat.shards.writer import index_path

_RECEIPT = ".receipt.json"
_STRAYS = {
    (".tmp",): "left by a build that was stopped; may be deleted",
    (".tar.zst", ".idx", _RECEIPT): "in no manifest; left by an unfinished or a larger build",
    ("",): "belongs to no manifest",
}
_OF_THE_BUILD = re.compile(r"plan\.json|build.*\.log")


@dataclass(slots=True)
class SetAudit:
    """What was found in one data set split."""

    name: str  # its folder's: <dataset>-<split>
    folder: str
    shards: int = 0
    pairs: int = 0
    bytes: int = 0
    faults: list[ShardFault] = field(default_factory=list)  # of the manifest, then of the shards that were added
    notes: list[str] = field(default_factory=list)  # files that belong to nothing; they do no harm

    def add(self, audit: ShardAudit) -> None:
        """Take in what came of a shard."""
        self.shards += 1
        self.pairs += audit.rows
        self.bytes += audit.bytes
        self.faults += audit.faults


def plan_audit(folder: Location, deep: bool = False) -> tuple[SetAudit, list[ShardJob]]:
    """Check the manifest in `folder`; return what was found, and a job for each of its shards. The folder is
    ``<shards>/<dataset>-<split>``, local or remote; `deep` jobs decode the images.
    """
    place, faults = folder / MANIFEST, []
    try:
        manifest, wrong = read_manifest(folder)
        faults = [ShardFault(str(place), what) for what in (*wrong.values(), *_contradictions(manifest))]
        if "fingerprint" in wrong:
            manifest = _from_receipts(folder, faults)
    except UserError as error:
        faults.append(ShardFault(str(place), error.message.removeprefix(f"{place}: ")))
        manifest = _from_receipts(folder, faults)
    found = SetAudit(folder.name, str(folder), faults=faults, notes=list(_strays(manifest)))
    about = manifest.dataset, manifest.split, folder
    shape = manifest.shape if manifest.config else None
    return found, [ShardJob(*about, each, shape, deep) for each in manifest.shards]


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """Yield what a readable manifest says wrongly of its place, and of its shards' order."""
    if manifest.folder.name != manifest.name:
        yield f"is of {manifest.name}, not of the folder that it lies in"
    first = 0
    for number, receipt in enumerate(manifest.shards):
        if receipt.shard != (name := shard_name(manifest.dataset, manifest.split, number)):
            yield f"shard {number} is called {receipt.shard} instead of {name}"
        if receipt.first_pair != first:
            yield f"{receipt.shard} begins with pair {receipt.first_pair} instead of {first}"
        first = receipt.first_pair + receipt.drawn
    if len({receipt.config for receipt in manifest.shards}) > 1:
        yield "its shards come from builds with different options"


def _from_receipts(folder: Location, faults: list[ShardFault]) -> Manifest:
    """Return what the receipts in a folder make, for a manifest that cannot be read."""
    dataset, _, split = folder.name.partition("-")
    receipts = []
    for path in children(folder):
        if path.name.endswith(_RECEIPT):
            try:
                receipts.append(read_receipt(path))
            except UserError as error:
                shard = str(folder / path.name.replace(_RECEIPT, ".tar.zst"))
                faults.append(ShardFault(str(path), error.message.removeprefix(f"{path}: "), shard=shard))
    return Manifest(dataset, split, {}, tuple(receipts), folder)


def _strays(manifest: Manifest) -> Iterator[str]:
    """Yield a note for each kind of file that the manifest does not know."""
    known = {MANIFEST}
    for shard in (manifest.folder / receipt.shard for receipt in manifest.shards):
        known |= {shard.name, index_path(shard).name, receipt_path(manifest.folder, shard.name).name}
    names = {path.name for path in children(manifest.folder)} - known
    left = sorted(name for name in names if not _OF_THE_BUILD.fullmatch(name))
    for ends, what in _STRAYS.items():
        found = [name for name in left if name.endswith(ends)]
        left = [name for name in left if name not in found]
        if found:
            yield f"{some(found)}: {what}"
