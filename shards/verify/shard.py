"""Checks every byte of one shard, its index and its receipt, and says all that is wrong.

Promise: a shard without a fault is what was written, and each of its samples holds what the format asks for. Every
fault is listed with file, row, key and byte offset, not only the first.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.base.storage import Location, read_bytes, read_json, read_range
from lorat.shards.manifest import Receipt, receipt_path
from lorat.shards.pixels.jpeg import ImageError, decode
from lorat.shards.reader import ShardReader
from lorat.shards.sample import sample_key
from lorat.shards.schema import ImageMeta, read_meta
from lorat.shards.tar import END_OF_ARCHIVE
from lorat.shards.walk import walk_frames
from lorat.shards.writer import INDEX_DTYPE, index_path

Index = NDArray[np.void]
"""Rows of `INDEX_DTYPE`, the end-of-archive frame last."""
_PART = 16 << 20  # bytes that are fetched at a time
_CHANGED = "not the bytes that were written (sha256 differs)"


@dataclass(frozen=True, slots=True)
class ShardFault:
    """One thing that is wrong."""

    file: str
    what: str
    row: int | None = None
    key: str | None = None
    offset: int | None = None
    """Byte of `file` at which it lies."""
    shard: str | None = None
    """The shard to build again; None where the manifest is at fault."""

    def __str__(self) -> str:
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

    def fault(self, what: str, file: Location | None = None, **where: Any) -> ShardFault:
        """Return a fault of a file that belongs to the shard; None: of the shard itself."""
        return ShardFault(str(file or self.path), what, **where, shard=str(self.path))


@dataclass(frozen=True, slots=True)
class ShardAudit:
    """What came of one shard."""

    path: str
    rows: int
    """Those that were looked at."""
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
                text = f"{more} bytes follow the last that was written"
                faults.append(job.fault(text, offset=job.receipt.bytes))
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
    with TemporaryDirectory(prefix="lorat-verify-") as folder:
        copy = Path(folder) / place.name
        with copy.open("wb") as target:
            while part := read_range(place, target.tell(), _PART):
                target.write(part)
        yield copy


def _reason(error: OSError) -> str:
    missing = isinstance(error, FileNotFoundError)
    return "is missing" if missing else f"cannot be read ({error.strerror or error})"


def _receipt_faults(job: ShardJob) -> Iterator[ShardFault]:
    place, receipt = receipt_path(job.folder, job.receipt.shard), job.receipt
    counted = receipt.rows + sum(receipt.skipped.values())
    if counted != receipt.drawn:
        text = f"rows and skipped pairs are {counted}, drawn were {receipt.drawn}"
        yield job.fault(text, place)
    try:
        values = read_json(place)
    except UserError as error:
        yield job.fault(error.message.removeprefix(f"{place}: "), place)
        return
    expected = json.loads(json.dumps(asdict(receipt)))
    given = values if isinstance(values, dict) else {}
    differing = [key for key in {**expected, **given} if given.get(key) != expected.get(key)]
    if differing:
        yield job.fault(f"differs from the manifest in {', '.join(differing)}", place)


def _read_index(shard: Path, job: ShardJob, whole: bool, faults: list[ShardFault]) -> Index:
    """Return the index to read the rows by, empty if there is none; adds its faults.

    Where the index is damaged and the shard is not, the shard's own frames tell the right index.
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
        gapless = bool((ends[:-1] == index["offset"][1:]).all())
        if not gapless or (rows, size) != (receipt.rows, receipt.bytes):
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
        text = f"{len(data)} bytes instead of {wanted}"
        faults.append(job.fault(text, place, offset=min(len(data), wanted)))
    elif data and (right is index or len(right) != len(index)):
        faults.append(job.fault(_CHANGED, place))
    elif data:
        for row in np.flatnonzero(index != right).tolist():
            names = [n for n in INDEX_DTYPE.names or () if index[row][n] != right[row][n]]
            text = f"entry is wrong in {', '.join(names)}"
            faults.append(job.fault(text, place, row=row, offset=row * step))
    return right


def _row_faults(shard: Path, index: Index, size: int, job: ShardJob) -> Iterator[ShardFault]:
    """Yield what is wrong with the rows of a local shard of `size` bytes, and with its end."""
    receipt, last = job.receipt, len(index) - 1
    offsets, ends = index["offset"], index["offset"] + index["length"]
    lost = np.flatnonzero((ends > size) & (ends <= receipt.bytes))
    cut = int(lost[0]) if len(lost) else len(index)  # the first frame that a cut file lacks
    astray = (offsets > size) | (ends > size) | (ends < offsets)
    index = index.copy()
    index[astray] = np.zeros((), INDEX_DTYPE)  # so that nothing reads there
    with closing(ShardReader(shard, receipt, index)) as reader:
        rows = [_check_row(reader, row, job) for row in range(min(cut, last))]
        keys = _keys([pair for pair, _ in rows], job)
        before = -1
        for row, (pair, problems) in enumerate(rows):
            if astray[row]:
                problems = ["its index entry points past the end of the file"]
            if pair is not None:
                if pair <= before:
                    problems.append("its key is not after the key of the row before")
                before = pair
            for what in problems:
                yield job.fault(what, row=row, key=keys[row], offset=int(offsets[row]))
        if cut < last:
            there = f"{size} of {receipt.bytes} bytes are there"
            what = f"cut: {there}; this row and {last - 1 - cut} after it are lost"
            yield job.fault(what, row=cut, key=keys[cut], offset=min(size, int(offsets[cut])))
        elif cut == last:
            yield job.fault("cut: the end of the archive is gone", offset=size)
        elif astray[last]:
            yield job.fault("the index does not say where the archive ends", offset=size)
        elif problem := _end_problem(reader, last):
            yield job.fault(problem, offset=int(offsets[last]))


def _end_problem(reader: ShardReader, last: int) -> str | None:
    try:
        whole = reader.unpacked(last) == END_OF_ARCHIVE
    except ShardCorrupt as error:
        return f"end of the archive: {error.message}"
    return None if whole else "does not end as a tar archive does"


def _keys(pairs: list[int | None], job: ShardJob) -> list[str]:
    """Return a key for each row, and for the one after the last.

    A damaged row's key lies between the keys of its neighbours. Where pairs were skipped there, it is the range:
    ``lasot-train-000000012 to 000000014``.
    """
    receipt = job.receipt
    # Pairs that were skipped up to a row, at least and at most; known rows bound those beside them.
    skipped = [None if pair is None else pair - row for row, pair in enumerate([*pairs, None])]
    first, last = receipt.first_pair, receipt.first_pair + receipt.drawn - receipt.rows
    least = accumulate((first if n is None else n for n in skipped), max)
    most = list(accumulate((last if n is None else n for n in reversed(skipped)), min))
    keys = []
    for row, (own, low, high) in enumerate(zip(skipped, least, reversed(most), strict=True)):
        if own is not None:
            low = high = own
        key = sample_key(job.dataset, job.split, low + row)
        keys.append(key if high <= low else f"{key} to {high + row:09d}")
    return keys


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
    wanted = [f"{key}.json", f"{key}.search.jpg", f"{key}.template.jpg"]
    if names != wanted:
        return pair, [f"members are {names}, expected {wanted}"]
    problems = [] if mine else [f"key {key!r} is none of this shard"]
    (_, text), (_, search), (_, template) = members
    meta, wrong = read_meta(text)
    problems += wrong
    if meta is not None and (meta.dataset, meta.split) != (job.dataset, job.split):
        problems.append(f"JSON names the data set {meta.dataset}-{meta.split}")
    if meta is not None and job.deep:
        problems += _image_problems("search image", search, meta.search)
        problems += _image_problems("template image", template, meta.template)
    return pair, problems


def _image_problems(role: str, data: bytes, image: ImageMeta) -> Iterator[str]:
    try:
        height, width, _ = decode(data, role).shape
    except ImageError as error:
        yield error.message.removesuffix("; replace the file")
        return
    if (width, height) != image.size:
        yield f"{role} is {width}x{height}, its JSON says {image.size[0]}x{image.size[1]}"
