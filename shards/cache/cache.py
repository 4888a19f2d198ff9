"""A folder of whole shards near the processor, for shards that lie in a store or on a slow disk.

- Several processes of one machine share it: a shard is downloaded once, the others wait for it.
- A shard is used only after its sha256 was compared with its receipt; a stamp beside it spares the
  next process the work while the file is untouched. A killed download leaves nothing that counts.
- It never names more than its limit: the least recently used shards go first, those that a process
  has open last. Who has a dropped shard open reads on; its space is free when it is closed.

Whoever needs at once more shards than fit downloads them again and again; the order of the epoch (`window_shards`) has
to suit the limit.
"""

import fcntl
import hashlib
import logging
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import BinaryIO

from lorat.shards.base.disk import explain_disk
from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.base.storage import Location, atomic_file, read_bytes, read_range, remove_file, remove_leftovers
from lorat.shards.base.waiting import Note, waiting
from lorat.shards.cache.folder import (
    CacheEntry,
    CacheOptions,
    Others,
    bytes_needed,
    entry_of,
    locked,
    make_part,
    room_lock,
)
from lorat.shards.manifest import Manifest, Receipt
from lorat.shards.reader import ShardReader
from lorat.shards.sample import Sample
from lorat.shards.writer import index_path

_LOG = logging.getLogger("lorat")
_REQUEST = 16 << 20  # bytes a request of a download
_QUEUE = 32  # shards that wait to be fetched ahead
_TRIES = 100


class ShardCache:
    """Whole shards in a local folder, at most so many bytes; see the module. Safe to use from several threads and
    processes. Picklable: the copy shares the folder.
    """

    def __init__(self, options: CacheOptions) -> None:
        self.options = options
        self._fetcher = 0  # the process whose thread fetches what is waiting
        self._waiting: queue.Queue[tuple[Location, Receipt]]
        self._known: set[str]

    def __reduce__(self) -> "tuple[type[ShardCache], tuple[CacheOptions]]":
        return ShardCache, (self.options,)

    def open(self, shard: Location, receipt: Receipt) -> ShardReader:
        """Return a reader of the local copy of a shard; errors as of `fetch`."""
        folder = self.options.folder
        for _ in range(_TRIES):
            entry = self.fetch(shard, receipt)
            # Nothing is dropped while this lock is held.
            with explain_disk(folder), locked(room_lock(folder), fcntl.LOCK_SH):
                if entry.data.exists() and entry.index.exists():
                    return _CopyReader(entry, receipt, shard)
        raise UserError(f"{folder}: shards are dropped before they are opened; raise its limit")

    def prefetch(self, shards: Sequence[tuple[Location, Receipt]]) -> int:
        """Fetch shards in the background, in this order; return how many were taken in. What is left out, for want of
        room or because the store failed, is fetched when it is opened. Together they may take half of the cache, so
        that they do not push out each other.
        """
        if self._fetcher != os.getpid():  # threads do not survive a fork
            self._fetcher, self._waiting, self._known = os.getpid(), queue.Queue(_QUEUE), set()
            threading.Thread(target=self._fetch_waiting, name="lorat-prefetch", daemon=True).start()
        room = self.options.max_bytes // 2
        for number, (shard, receipt) in enumerate(shards):
            room -= receipt.bytes
            wanted = receipt.sha256 not in self._known
            if room < 0 or (wanted and self._waiting.full()):
                return number
            if wanted:
                self._known.add(receipt.sha256)
                self._waiting.put((shard, receipt))
        return len(shards)

    def _fetch_waiting(self) -> None:
        Note().take()  # nobody waits for it
        while True:
            shard, receipt = self._waiting.get()
            try:
                self.fetch(shard, receipt, ahead=True)
            except Exception as error:
                # When the interpreter ends, the store's client is closed under this thread: whatever it says then is no
                # news. A defect of ours is raised.
                if not threading.main_thread().is_alive():
                    return
                if not isinstance(error, UserError):
                    raise
                _LOG.warning("fetching ahead: %s", error.message)
            self._known.discard(receipt.sha256)

    def fetch(self, shard: Location, receipt: Receipt, ahead: bool = False) -> CacheEntry:
        """Return the local copy of a shard, its index beside it; download both where needed. Another process may drop
        it before it is opened; `open` does both at once. Fetched `ahead`, it is downloaded only if no shard that is
        open has to go for it. A shard that is missing or not the one of its receipt is a `ShardCorrupt`; a store that
        does not answer, a full disk or too small a limit a `UserError`.
        """
        folder = self.options.folder
        entry = entry_of(folder, receipt)
        with explain_disk(folder):
            if not entry.is_checked(receipt):
                folder.mkdir(parents=True, exist_ok=True)
                with locked(entry.lock):
                    # Another process may have fetched it while this one waited for the lock.
                    if not entry.is_checked(receipt) and not entry.check(receipt):
                        with locked(room_lock(folder)):
                            entry.remove()
                        self._download(shard, receipt, entry, ahead)
            if not ahead:
                entry.touch()
        return entry

    def _download(self, shard: Location, receipt: Receipt, entry: CacheEntry, ahead: bool) -> None:
        with self._reserved(receipt, entry, ahead) as file:
            if file is None:
                return
            digest = hashlib.sha256()
            for offset in range(0, receipt.bytes, _REQUEST):
                length = min(_REQUEST, receipt.bytes - offset)
                with _explain_source(shard):
                    data = read_range(shard, offset, length)
                if len(data) != length:
                    raise ShardCorrupt(f"{shard}: ends at byte {offset + len(data)} of {receipt.bytes}; build it again")
                file.write(data)
                digest.update(data)
            with _explain_source(index_path(shard)):
                index = read_bytes(index_path(shard))
            if digest.hexdigest() != receipt.sha256:
                raise ShardCorrupt(f"{shard}: not the bytes that its receipt names; build it again")
            if hashlib.sha256(index).hexdigest() != receipt.index_sha256:
                raise ShardCorrupt(f"{shard}: has not the index of its receipt; build it again")
            file.truncate(receipt.bytes)
            file.flush()
            os.fsync(file.fileno())
            with atomic_file(entry.index) as beside:
                beside.write(index)
            with locked(room_lock(self.options.folder)):  # so that it is counted once
                entry.part.rename(entry.data)
                entry.write_stamp(receipt)

    @contextmanager
    def _reserved(self, receipt: Receipt, entry: CacheEntry, ahead: bool) -> Iterator[BinaryIO | None]:
        """Yield a part file to fill; None where no shard that is closed can go for it."""
        need = bytes_needed(receipt)
        if need > self.options.max_bytes:
            limit = f"the cache's limit is {self.options.max_bytes:,}; raise it"
            raise UserError(f"{self.options.folder}: {receipt.shard} needs {need:,} bytes, {limit}")
        remove_leftovers(self.options.folder)
        if (file := self._make_part(entry, need, ahead)) is None:
            yield None
            return
        try:
            with file:
                yield file
                fcntl.flock(file, fcntl.LOCK_UN)
        finally:
            with suppress(OSError):  # it has its name, or what went wrong is being raised
                entry.part.unlink()

    def _make_part(self, entry: CacheEntry, need: int, ahead: bool) -> BinaryIO | None:
        what = f"{self.options.folder}: its room is promised to downloads of other processes"
        others = Others(self.options.folder, what)
        with waiting(what):
            while (file := make_part(self.options, entry, need, drop_open=not ahead)) is None and not ahead:
                others.wait()
        return file


class _CopyReader(ShardReader):
    """Reads a copy; a row that is damaged in the copy alone is read where the shard lies. What a run reads must not
    depend on the state of a cache, so no row may count as damaged that is sound in the shard itself. The copy is
    locked, shared, while it is open, so that rather others are dropped.
    """

    def __init__(self, entry: CacheEntry, receipt: Receipt, home: Location) -> None:
        super().__init__(entry.data, receipt)
        self._entry, self._home = entry, home
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def _instead_of(self, row: int, damage: ShardCorrupt) -> Sample:
        _LOG.warning("%s: %s; read from %s instead", self.where(row), damage.message, self._home)
        remove_file(self._entry.stamp)  # whoever opens the shard next mends the copy
        try:
            home = ShardReader(self._home, self._receipt)
        except ShardCorrupt as error:
            raise UserError(error.message) from None  # it is gone: no damage of this row
        with closing(home):
            return home.read(row)


def open_shard(manifest: Manifest, number: int, cache: ShardCache | None = None) -> ShardReader:
    """Return a reader of shard `number` of a manifest, through a cache where one is given. Errors as of `ShardReader`;
    a `UserError` too if the cache cannot hold the shard.
    """
    receipt = manifest.shards[number]
    place = manifest.folder / receipt.shard
    return cache.open(place, receipt) if cache else ShardReader(place, receipt)


@contextmanager
def _explain_source(path: Location) -> Iterator[None]:
    """Name the file that is copied where it is that one, not the copy, which cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise ShardCorrupt(f"{path}: missing; build it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run again") from None
