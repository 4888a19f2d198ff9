"""The shards of one data set split: receipts, and the manifest that sums them.

A shard without a valid receipt does not exist. The manifest is written last; its fingerprint
depends on what was built (configuration, counts, checksums) and on nothing else, so a checkpoint
can name the data it was trained on.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.base.storage import Location, file_size, read_bytes, read_json, write_json
from lorat.shards.writer import index_path

VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one shard holds, written after the shard itself."""

    shard: str
    """File name."""
    first_pair: int
    """Number of the first pair that was drawn for it."""
    drawn: int
    """Pairs drawn; `rows` of them were stored."""
    rows: int
    bytes: int
    sha256: str
    index_sha256: str
    config: str
    """Fingerprint of the build configuration and of the annotations."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason → pairs that were not stored."""
    bad: tuple[str, ...] = ()
    """A message for each pair that was lost to a damaged frame."""
    jitter_draws: int = 0
    """Accepted window draws tried on the stored pairs …"""
    jitter_outside: int = 0
    """… and how many would leave the stored window although the frame goes on."""

    @property
    def pairs(self) -> range:
        """Numbers of the pairs that were drawn for it."""
        return range(self.first_pair, self.first_pair + self.drawn)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All shards of one data set split."""

    dataset: str
    split: str
    config: dict[str, Any]
    """Everything that defines the bytes: seed, crop options, codec, annotations' fingerprint."""
    shards: tuple[Receipt, ...]
    folder: Location

    @property
    def name(self) -> str:
        """``<dataset>-<split>``."""
        return f"{self.dataset}-{self.split}"

    @property
    def rows(self) -> int:
        """Stored pairs over all shards."""
        return sum(shard.rows for shard in self.shards)

    def fingerprint(self) -> str:
        """Return a hash of what was built, the same wherever the files lie."""
        what = [self.dataset, self.split, self.config, [s.sha256 for s in self.shards]]
        text = json.dumps(what, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def save(self) -> None:
        """Write manifest.json into the folder, atomically."""
        write_json(self.folder / MANIFEST, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as it is written."""
        return {
            "version": VERSION,
            "dataset": self.dataset,
            "split": self.split,
            "config": self.config,
            "rows": self.rows,
            "bytes": sum(shard.bytes for shard in self.shards),
            "fingerprint": self.fingerprint(),
            "shards": [asdict(shard) for shard in self.shards],
        }


def shard_name(dataset: str, split: str, number: int) -> str:
    """Return a shard's file name: ``lasot-train-00017.tar.zst``."""
    return f"{dataset}-{split}-{number:05d}.tar.zst"


def receipt_path(folder: Location, shard: str) -> Location:
    """Return where the receipt of a shard file lies."""
    return folder / (shard.removesuffix(".tar.zst") + ".receipt.json")


def load_receipt(folder: Location, shard: str, config: str) -> Receipt | None:
    """Return the receipt of a finished shard, or None where it has to be built.

    A receipt counts when it was written for this shard and the same configuration, its counts fit
    together, the shard file has the length that it names, and the index is the one that was
    written.

    Raises:
        UserError: if a store does not answer.
    """
    file = folder / shard
    try:
        receipt = Receipt(**json.loads(read_bytes(receipt_path(folder, shard))))
        counted = receipt.rows + sum(receipt.skipped.values())
        if (receipt.shard, receipt.config, receipt.drawn) != (shard, config, counted):
            return None
        if file_size(file) != receipt.bytes:
            return None
        index = read_bytes(index_path(file))
    except (OSError, ValueError, TypeError, AttributeError):
        return None  # missing, garbled, or of another version: the shard is built again
    return receipt if hashlib.sha256(index).hexdigest() == receipt.index_sha256 else None


def load_manifest(folder: Location) -> Manifest:
    """Read a folder's manifest and see that it is the one that was written.

    Raises:
        UserError: if there is none, or a store does not answer.
        ShardCorrupt: if it is of another version, lacks a field, or contradicts itself.
    """
    values = _read_values(folder)
    manifest = _parse(values, folder)
    try:
        right = manifest.to_json()
    except TypeError as error:
        raise _garbled(folder, error) from None
    wrong = [key for key in ("rows", "bytes", "fingerprint") if values.get(key) != right[key]]
    if wrong:
        raise ShardCorrupt(
            f"{folder / MANIFEST}: says {wrong[0]} {values.get(wrong[0])}, its shards make "
            f"{right[wrong[0]]}; delete it and run the same lorat-prep build again"
        )
    return manifest


def read_manifest(folder: Location) -> Manifest:
    """Read a folder's manifest as it stands, for an audit that tells what is wrong with it.

    Raises:
        UserError: if there is none, or a store does not answer.
        ShardCorrupt: if it is of another version or lacks a field.
    """
    return _parse(_read_values(folder), folder)


def _read_values(folder: Location) -> Any:
    path = folder / MANIFEST
    if file_size(path) is None:
        raise UserError(f"{folder}: no {MANIFEST}; build it with lorat-prep build --datasets …")
    return read_json(path)


def _parse(values: Any, folder: Location) -> Manifest:
    path = folder / MANIFEST
    try:
        if values["version"] != VERSION:
            raise ShardCorrupt(
                f"{path}: version {values['version']}, this release reads {VERSION}; build again"
            )
        return Manifest(
            dataset=values["dataset"],
            split=values["split"],
            config=values["config"],
            shards=tuple(Receipt(**shard) for shard in values["shards"]),
            folder=folder,
        )
    except (KeyError, TypeError) as error:
        raise _garbled(folder, error) from None


def _garbled(folder: Location, error: Exception) -> ShardCorrupt:
    return ShardCorrupt(
        f"{folder / MANIFEST}: lacks or garbles a field ({error}); delete it and run the same "
        "lorat-prep build again"
    )
