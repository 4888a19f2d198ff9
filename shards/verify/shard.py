"""Checks every byte of one shard, its index and its receipt, and says all that is wrong.

Promise: a shard without a fault is what was written, and each of its samples holds what the format asks for. Every
fault is listed with file, row, key and byte offset, not only the first.
"""

import hashlib
import json
import mmap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from lorat.shards.base.disk import explain_disk
from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.base.storage import Location, read_bytes, read_json, read_range
from lorat.shards.manifest import Receipt, receipt_path
from lorat.shards.pixels.jpeg import ImageError, decode
from lorat.shards.reader import ShardReader
from lorat.shards.sample import Shape, image_roles, member_names, sample_key, shape_of
from lorat.shards.schema import read_meta
from lorat.shards.tar import END_OF_ARCHIVE
from lorat.shards.writer import INDEX_DTYPE, index_path

_PART = 16 << 20  # bytes that are fetched at a time
_STEP = 1 << 16  # bytes that are decompressed at a time
_CHANGED = "not the bytes that were written (sha256 differs)"


@dataclass(frozen=True, slots=True)
class ShardFault:
    """One thing that is wrong."""

    file: str
    what: str
    row: int | None = None
    key: str | None = None
    offset: int | None = None  # byte of `file` at which it lies
    shard: str | None = None  # the one to build again; None where the manifest is at fault

    def __str__(self) -> str:
        row = "" if self.row is None else f" row {self.row}"
        key = "" if self.key is None else f" ({self.key})"
        at = "" if self.offset is None else f" at byte {self.offset}"
        return f"{self.file}{row}{key}{at}: {self.what}"


@dataclass(frozen=True, slots=True)
class ShardJob:
    """One shard to check, and what its manifest says of it; `deep` decodes the images as well."""

    dataset: str
    split: str
    folder: Location
    receipt: Receipt
    shape: Shape | None = None  # of each sample; None where no manifest says it
    deep: bool = False

    @property
    def path(self) -> Location:
        """The shard."""
        return self.folder / self.receipt.shard

    def fault(self, what: str, file: Location | None = None, **where: Any) -> ShardFault:
        """Return a fault of a file that belongs to the shard; None: of the shard itself."""
        return ShardFault(str(file or self.path), what, **where, shard=str(self.path))


@dataclass(frozen=True, slots=True)
class ShardAudit:
    """What came of one shard, of which `rows` were looked at."""

    path: str
    rows: int
    bytes: int
    faults: tuple[ShardFault, ...]


def audit_shard(job: ShardJob) -> ShardAudit:
    """Check one shard, its index and its receipt; what cannot be read is a fault too."""
    faults = list(_receipt_faults(job))
    rows = size = 0
    try:
        with _local_copy(job.path) as shard, shard.open("rb") as file:
            size = shard.stat().st_size
            whole = hashlib.file_digest(file, "sha256").hexdigest() == job.receipt.sha256
            index = _read_index(shard, job, whole, faults)
            before = len(faults)
            if len(index):
                rows = len(index) - 1
                faults += _row_faults(shard, index, size, job)
            more = size - job.receipt.bytes
            if more > 0 and len(index):
                faults.append(job.fault(f"{more} bytes follow the last that was written", offset=job.receipt.bytes))
            elif not whole and len(faults) == before:
                faults.append(job.fault(_CHANGED))
    except OSError as error:
        faults.append(job.fault(_reason(error)))
    return ShardAudit(str(job.path), rows, size, tuple(faults))


@contextmanager
def _local_copy(place: Location) -> Iterator[Path]:
    """Yield the file itself, or a copy of a remote one that goes afterwards."""
    if isinstance(place, Path):
        yield place
        return
    with TemporaryDirectory(prefix="lorat-verify-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / place.name
        with explain_disk(copy), copy.open("wb") as target:
            while part := read_range(place, target.tell(), _PART):
                target.write(part)
        yield copy


def _reason(error: OSError) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror or error})"


def _receipt_faults(job: ShardJob) -> Iterator[ShardFault]:
    place, receipt = receipt_path(job.folder, job.receipt.shard), job.receipt
    if receipt.counted != receipt.drawn:
        yield job.fault(f"rows and skipped pairs are {receipt.counted}, drawn were {receipt.drawn}", place)
    try:
        values = read_json(place)
    except UserError as error:
        yield job.fault(error.message.removeprefix(f"{place}: "), place)
        return
    expected, given = json.loads(json.dumps(asdict(receipt))), values if isinstance(values, dict) else {}
    if differing := [key for key in {**expected, **given} if given.get(key) != expected.get(key)]:
        yield job.fault(f"differs from the manifest in {', '.join(differing)}", place)


def _read_index(shard: Path, job: ShardJob, whole: bool, faults: list[ShardFault]) -> NDArray[np.void]:
    """Return the index to read the rows by (`INDEX_DTYPE`), empty if there is none; adds its faults. Where the index is
    damaged and the shard is not, the shard's own frames tell the right index.
    """
    place, receipt, step = index_path(job.path), job.receipt, INDEX_DTYPE.itemsize
    try:
        data = read_bytes(place)
    except OSError as error:
        faults.append(job.fault(_reason(error), place))
        data = b""
    index = np.frombuffer(data[: len(data) // step * step], dtype=INDEX_DTYPE)
    if hashlib.sha256(data).hexdigest() == receipt.index_sha256:
        ends = index["offset"] + index["length"]
        rows, size = len(index) - 1, int(ends[-1]) if len(index) else 0
        if (ends[:-1] != index["offset"][1:]).any() or (rows, size) != (receipt.rows, receipt.bytes):
            said = f"the receipt says {receipt.rows} over {receipt.bytes}"
            faults.append(job.fault(f"{rows} rows over {size} bytes; {said}", place))
        return index
    right = index
    if whole:
        try:
            right = walk_frames(shard)
        except ShardCorrupt as error:
            faults.append(job.fault(error.message))
    wanted = (receipt.rows + 1) * step
    if data and len(data) != wanted:
        faults.append(job.fault(f"{len(data)} bytes instead of {wanted}", place, offset=min(len(data), wanted)))
    elif data and (right is index or len(right) != len(index)):
        faults.append(job.fault(_CHANGED, place))
    elif data:
        for row in np.flatnonzero(index != right).tolist():
            names = [n for n in INDEX_DTYPE.names or () if index[row][n] != right[row][n]]
            faults.append(job.fault(f"entry is wrong in {', '.join(names)}", place, row=row, offset=row * step))
    return right


def walk_frames(shard: Path) -> NDArray[np.void]:
    """Return the index that belongs to a local shard, rows of `INDEX_DTYPE`, from its zstd frames alone. Meant for
    shards whose checksum fits; what is not a row of whole frames is a `ShardCorrupt`.
    """
    rows, begin = list[tuple[int, int, int, int]](), 0
    with shard.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        while begin < len(data):
            frame, raw_length, end = zstandard.ZstdDecompressor().decompressobj(), 0, begin
            try:
                while not frame.eof and end < len(data):
                    raw_length += len(frame.decompress(data[end : end + _STEP]))
                    end = min(end + _STEP, len(data))
            except zstandard.ZstdError as error:
                raise ShardCorrupt(f"{shard} at byte {begin}: no zstd frame ({error})") from None
            if not frame.eof:
                raise ShardCorrupt(f"{shard} at byte {begin}: the file ends within this zstd frame")
            end -= len(frame.unused_data)
            rows.append((begin, end - begin, raw_length, xxhash.xxh64_intdigest(data[begin:end])))
            begin = end
    return np.array(rows, dtype=INDEX_DTYPE)


def _row_faults(shard: Path, index: NDArray[np.void], size: int, job: ShardJob) -> Iterator[ShardFault]:
    """Yield what is wrong with the rows of a local shard of `size` bytes, and with its end."""
    receipt, last = job.receipt, len(index) - 1
    offsets, ends = index["offset"], index["offset"] + index["length"]
    lost = np.flatnonzero((ends > size) & (ends <= receipt.bytes))
    cut = int(lost[0]) if len(lost) else len(index)  # the first frame that a cut file lacks
    astray = (offsets > size) | (ends > size) | (ends < offsets)
    index = index.copy()
    index[astray] = np.zeros((), INDEX_DTYPE)  # so that nothing reads there
    with closing(ShardReader(shard, receipt, index)) as reader:
        before = -1
        for row in range(min(cut, last)):
            pair, problems = _check_row(reader, row, job)
            if astray[row]:
                problems = ["its index entry points past the end of the file"]
            if pair is not None:
                if pair <= before:
                    problems.append("its key is not after the key of the row before")
                before = pair
            for what in problems:
                yield job.fault(what, row=row, key=reader.key(row), offset=int(offsets[row]))
        if cut < last:
            lost_rows = f"this row and {last - 1 - cut} after it are lost"
            what = f"cut: {size} of {receipt.bytes} bytes are there; {lost_rows}"
            yield job.fault(what, row=cut, key=reader.key(cut), offset=min(size, int(offsets[cut])))
        elif cut == last:
            yield job.fault("cut: the end of the archive is gone", offset=size)
        elif astray[last]:
            yield job.fault("the index does not say where the archive ends", offset=size)
        else:
            try:
                problem = "" if reader.unpacked(last) == END_OF_ARCHIVE else "not as a tar archive ends"
            except ShardCorrupt as error:
                problem = error.message
            if problem:
                yield job.fault(f"end of the archive: {problem}", offset=int(offsets[last]))


def _check_row(reader: ShardReader, row: int, job: ShardJob) -> tuple[int | None, list[str]]:
    """Return a row's pair number, None where it is damaged or another shard's, and its faults."""
    try:
        members = reader.members(row)
    except ShardCorrupt as error:
        return None, [error.message]
    names = [name for name, _ in members]
    key = names[0].partition(".")[0] if names else ""
    digits = key.rpartition("-")[2]
    number = int(digits) if digits.isdecimal() else -1
    mine = number in job.receipt.pairs and key == sample_key(job.dataset, job.split, number)
    pair = number if mine else None
    kinds = [name.removeprefix(f"{key}.") for name in names]
    shape = job.shape or shape_of(kinds)
    if kinds != member_names(shape):
        return pair, [f"members are {names}, expected {[f'{key}.{kind}' for kind in member_names(shape)]}"]
    problems = [] if mine else [f"key {key!r} is none of this shard"]
    meta, wrong = read_meta(members[0][1], image_roles(shape))
    problems += wrong
    if meta is None:
        return pair, problems
    if (meta.dataset, meta.split) != (job.dataset, job.split):
        problems.append(f"JSON names the data set {meta.dataset}-{meta.split}")
    for kind, (_, data) in zip(kinds[1:], members[1:], strict=True):
        role = kind.removesuffix(".jpg")
        image = meta.image(role)
        problems += [f"JSON {role}: {fault}" for fault in image.faults()]
        if job.deep:
            try:
                height, width, _ = decode(data, f"{role} image").shape
            except ImageError as error:
                problems.append(error.message.removesuffix("; replace the file"))
                continue
            if (width, height) != image.size:
                problems.append(f"{role} image is {width}x{height}, its JSON says {image.size[0]}x{image.size[1]}")
    return pair, problems
