"""The shards of one data set split: receipts, and the manifest that sums them.

A shard without a valid receipt does not exist. The manifest is written last; its fingerprint depends on what was built
(configuration, counts, checksums) and on nothing else, so a checkpoint can name the data it was trained on.
"""

import functools
import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.base.storage import Location, file_size, read_bytes, read_json, write_json
from lorat.shards.sample import SHAPES, Sampler, Shape
from lorat.shards.writer import index_path

if TYPE_CHECKING:
    from pydantic import TypeAdapter

VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one shard holds, written after the shard itself."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - pydantic's name

    shard: str  # file name
    first_pair: int  # number of the first pair that was drawn for it
    drawn: int  # pairs drawn; `rows` of them were stored
    rows: int
    bytes: int
    sha256: str
    index_sha256: str
    config: str  # fingerprint of the build configuration and of the annotations
    skipped: dict[str, int] = field(default_factory=dict)  # reason → pairs that were not stored
    bad: tuple[str, ...] = ()  # a message for each pair that was lost to a damaged frame
    jitter_draws: int = 0  # accepted window draws tried on the stored pairs …
    jitter_outside: int = 0  # … and how many would leave the stored window, not the frame

    @property
    def pairs(self) -> range:
        """Numbers of the pairs that were drawn for it."""
        return range(self.first_pair, self.first_pair + self.drawn)

    @property
    def counted(self) -> int:
        """Pairs that were stored or skipped: all that were drawn."""
        return self.rows + sum(self.skipped.values())


@dataclass(frozen=True, slots=True)
class Manifest:
    """All shards of one data set split."""

    dataset: str
    split: str
    config: dict[str, Any]  # what defines the bytes: seed, crop options, codec, annotations
    shards: tuple[Receipt, ...]
    folder: Location
    warned: tuple[str, ...] = ()  # what reading the tree warned of; no part of the fingerprint

    @property
    def name(self) -> str:
        """``<dataset>-<split>``."""
        return f"{self.dataset}-{self.split}"

    @property
    def sampler(self) -> Sampler:
        """Who drew the samples."""
        return self.config.get("sampler", "pair")

    @property
    def shape(self) -> Shape:
        """How many images each of them has."""
        return SHAPES[self.sampler]

    @property
    def rows(self) -> int:
        """Stored pairs over all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def skipped(self) -> dict[str, int]:
        """Reason → pairs over all shards that were drawn but not stored."""
        return dict(sum((Counter(shard.skipped) for shard in self.shards), Counter[str]()))

    def fingerprint(self) -> str:
        """Return a hash of what was built, the same wherever the files lie."""
        what = [self.dataset, self.split, self.config, [s.sha256 for s in self.shards]]
        return hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]

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
            **({"warned": list(self.warned)} if self.warned else {}),
        }


@dataclass(frozen=True, slots=True)
class _File:
    """What manifest.json says beside the sums of its shards."""

    dataset: str
    split: str
    config: dict[str, Any]
    shards: tuple[Receipt, ...]
    warned: tuple[str, ...] = ()


@functools.cache
def _reads(kind: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter  # which a worker that writes shards does not need

    return TypeAdapter(kind)


def _typed(kind: Any, values: Any, where: Location) -> Any:
    from pydantic import ValidationError

    try:
        return _reads(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{where}: field '{'.'.join(map(str, first['loc']))}': {first['msg']}"
        raise ShardCorrupt(f"{what}; delete it and run the same lorat-prep build again") from None


def shard_name(dataset: str, split: str, number: int) -> str:
    """Return a shard's file name: ``lasot-train-00017.tar.zst``."""
    return f"{dataset}-{split}-{number:05d}.tar.zst"


def receipt_path(folder: Location, shard: str) -> Location:
    """Return where the receipt of a shard file lies."""
    return folder / (shard.removesuffix(".tar.zst") + ".receipt.json")


def read_receipt(path: Location) -> Receipt:
    """Read a receipt as it stands; a `UserError` if it cannot be read, or a field is missing or of another type."""
    return _typed(Receipt, read_json(path), path)


def load_receipt(folder: Location, shard: str, config: str) -> Receipt | None:
    """Return the receipt of a finished shard, or None where it has to be built. It counts when it was written for this
    shard and configuration, its counts fit together, the shard has the length that it names, and the index is the one
    that was written. A `UserError` if a store does not answer.
    """
    file = folder / shard
    try:
        receipt = _reads(Receipt).validate_json(read_bytes(receipt_path(folder, shard)), strict=True)
        mine = (receipt.shard, receipt.config) == (shard, config) and receipt.drawn == receipt.counted
        if mine and file_size(file) == receipt.bytes:
            return receipt if hashlib.sha256(read_bytes(index_path(file))).hexdigest() == receipt.index_sha256 else None
    except (OSError, ValueError):
        pass  # missing, garbled, or of another version: the shard is built again
    return None


def load_manifest(folder: Location) -> Manifest:
    """Read a folder's manifest and see that it is the one that was written. A `UserError` if there is none, or a store
    does not answer; a `ShardCorrupt` if it is of another version, lacks a field, or contradicts itself.
    """
    if file_size(path := folder / MANIFEST) is None:
        raise UserError(f"{folder}: no {MANIFEST}; build it with lorat-prep build --datasets …")
    manifest, wrong = read_manifest(folder)
    for what in wrong.values():
        raise ShardCorrupt(f"{path}: {what}; delete it and run the same lorat-prep build again")
    return manifest


def read_manifest(folder: Location) -> tuple[Manifest, dict[str, str]]:
    """Read a folder's manifest as it stands; return it and key → what it says wrongly of its shards. A `UserError` if
    it cannot be read, a `ShardCorrupt` if it is of another version or a field is missing or mistyped.
    """
    values = read_json(path := folder / MANIFEST)
    version = values.get("version") if isinstance(values, dict) else VERSION
    if version != VERSION:
        raise ShardCorrupt(f"{path}: version {version}, this release reads {VERSION}; build again")
    file: _File = _typed(_File, values, path)
    if (sampler := file.config.get("sampler", "pair")) not in SHAPES:
        raise ShardCorrupt(f"{path}: sampler '{sampler}', this release reads {', '.join(SHAPES)}")
    manifest = Manifest(file.dataset, file.split, file.config, file.shards, folder, file.warned)
    right = manifest.to_json()
    wrong = [key for key in ("rows", "bytes", "fingerprint") if values.get(key) != right[key]]
    return manifest, {key: f"says {key} {values.get(key)}, its shards make {right[key]}" for key in wrong}
