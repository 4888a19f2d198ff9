"""Checks every byte of one shard, its index and its receipt, and says all that is wrong.

Promise: a shard without a fault is what was written, and each of its samples holds what the format
asks for. Every fault is listed with file, row, key and byte offset, not only the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.base.remote import read_range
from lorat.shards.base.storage import Location, read_bytes, read_json
from lorat.shards.manifest import Receipt, receipt_path
from lorat.shards.verify.rows import Expected, row_faults
from lorat.shards.walk import walk_frames
from lorat.shards.writer import INDEX_DTYPE, index_path

__all__ = ["Fault", "ShardAudit", "ShardJob", "audit_shard"]

_PART = 16 << 20  # bytes that are fetched at a time
_CHANGED = "not the bytes that were written (sha256 differs)"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong."""

    file: str
    what: str
    row: int | None = None
    key: str | None = None
    offset: int | None = None
    """Byte of `file` at which it lies."""
    shard: str | None = None
    """The shard to build again; None where the manifest is at fault."""

    def line(self) -> str:
        """Return the fault as one line."""
        row = "" if self.row is None else f" row {self.row}"
        key = "" if self.key is None else f" ({self.key})"
        at = "" if self.offset is None else f" at byte {self.offset}"
        return f"{self.file}{row}{key}{at}: {self.what}"


@dataclass(frozen=True, slots=True)
class ShardJob:
    """One shard to check, and what its manifest says of it."""

    dataset: str
    split: str
    folder: Location
    receipt: Receipt
    deep: bool = False
    """Decode the images as well."""

    @property
    def path(self) -> Location:
        """The shard."""
        return self.folder / self.receipt.shard


@dataclass(frozen=True, slots=True)
class ShardAudit:
    """What came of one shard."""

    path: str
    """Of the shard."""
    rows: int
    """Rows that were looked at."""
    bytes: int
    faults: tuple[Fault, ...]


def audit_shard(job: ShardJob) -> ShardAudit:
    """Check one shard, its index and its receipt; what cannot be read is a fault too."""
    faults = list(_receipt_faults(job))
    rows = size = 0
    try:
        with _local_copy(job.path) as file:
            size = file.stat().st_size
            rows = _check_file(file, size, job, faults)
    except FileNotFoundError:
        faults.append(Fault(str(job.path), "is missing", shard=str(job.path)))
    except OSError as error:
        text = f"cannot be read ({error.strerror or error})"
        faults.append(Fault(str(job.path), text, shard=str(job.path)))
    return ShardAudit(str(job.path), rows, size, tuple(faults))


@contextmanager
def _local_copy(place: Location) -> Iterator[Path]:
    """Yield the file itself, or a copy of a remote one that goes afterwards."""
    if isinstance(place, Path):
        yield place
        return
    with TemporaryDirectory(prefix="lorat-verify-") as folder:
        copy = Path(folder) / place.name
        with copy.open("wb") as target:
            while part := read_range(place, target.tell(), _PART):
                target.write(part)
        yield copy


def _receipt_faults(job: ShardJob) -> Iterator[Fault]:
    place, receipt = receipt_path(job.folder, job.receipt.shard), job.receipt
    counted = receipt.rows + sum(receipt.skipped.values())
    if counted != receipt.drawn:
        text = f"rows and skipped pairs are {counted}, drawn were {receipt.drawn}"
        yield Fault(str(place), text, shard=str(job.path))
    try:
        values = read_json(place)
    except UserError as error:
        text = error.message.removeprefix(f"{place}: ")
        yield Fault(str(place), text, shard=str(job.path))
        return
    expected = json.loads(json.dumps(asdict(receipt)))
    given = values if isinstance(values, dict) else {}
    differing = [key for key in {**expected, **given} if given.get(key) != expected.get(key)]
    if differing:
        text = f"differs from the manifest in {', '.join(differing)}"
        yield Fault(str(place), text, shard=str(job.path))


def _check_file(file: Path, size: int, job: ShardJob, faults: list[Fault]) -> int:
    """Add the faults of shard and index; return the number of rows that were looked at."""
    path, receipt = str(job.path), job.receipt
    with file.open("rb") as data:
        whole = hashlib.file_digest(data, "sha256").hexdigest() == receipt.sha256
        index = _index(file, job, whole, faults)
        if not len(index):
            if not whole:
                faults.append(Fault(path, _CHANGED, shard=path))
            return 0
        expected = Expected(job.dataset, job.split, receipt, job.deep)
        found = list(row_faults(data, index, size, expected))
    faults += [Fault(path, f.what, f.row, f.key, f.offset, path) for f in found]
    if size > receipt.bytes:
        text = f"{size - receipt.bytes} bytes follow the last that was written"
        faults.append(Fault(path, text, offset=receipt.bytes, shard=path))
    elif not whole and not found:
        faults.append(Fault(path, _CHANGED, shard=path))
    return len(index) - 1


def _index(file: Path, job: ShardJob, whole: bool, faults: list[Fault]) -> NDArray[np.void]:
    """Return the index to read the rows by, empty if there is none; adds its faults.

    Where the index is damaged and the shard is not, the shard's own frames tell the right index.
    """
    place = index_path(job.path)
    step = INDEX_DTYPE.itemsize
    try:
        data = read_bytes(place)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        text = "is missing" if missing else f"cannot be read ({error.strerror or error})"
        faults.append(Fault(str(place), text, shard=str(job.path)))
        data = b""
    index = np.frombuffer(data[: len(data) // step * step], dtype=INDEX_DTYPE)
    if hashlib.sha256(data).hexdigest() == job.receipt.index_sha256:
        faults += _sum_faults(index, job)
        return index
    right = _walk(file, job, faults) if whole else None
    if data:
        faults += _index_faults(data, index, right, job)
    return index if right is None else right


def _walk(file: Path, job: ShardJob, faults: list[Fault]) -> NDArray[np.void] | None:
    try:
        return walk_frames(file)
    except ShardCorrupt as error:
        faults.append(Fault(str(job.path), error.message, shard=str(job.path)))
        return None


def _sum_faults(index: NDArray[np.void], job: ShardJob) -> list[Fault]:
    """Return what an undamaged index says against its receipt."""
    receipt = job.receipt
    ends = index["offset"] + index["length"]
    rows, size = len(index) - 1, int(ends[-1]) if len(index) else 0
    gapless = bool((ends[:-1] == index["offset"][1:]).all())
    if gapless and (rows, size) == (receipt.rows, receipt.bytes):
        return []
    text = f"{rows} rows over {size} bytes; the receipt says {receipt.rows} over {receipt.bytes}"
    return [Fault(str(index_path(job.path)), text, shard=str(job.path))]


def _index_faults(
    data: bytes, index: NDArray[np.void], right: NDArray[np.void] | None, job: ShardJob
) -> Iterator[Fault]:
    place, shard = str(index_path(job.path)), str(job.path)
    step = INDEX_DTYPE.itemsize
    wanted = (job.receipt.rows + 1) * step
    if len(data) != wanted:
        text = f"{len(data)} bytes instead of {wanted}"
        yield Fault(place, text, offset=min(len(data), wanted), shard=shard)
    elif right is None or len(right) != len(index):
        yield Fault(place, _CHANGED, shard=shard)
    else:
        for row in np.flatnonzero(index != right).tolist():
            names = [n for n in INDEX_DTYPE.names or () if index[row][n] != right[row][n]]
            text = f"entry is wrong in {', '.join(names)}"
            yield Fault(place, text, row, offset=row * step, shard=shard)
