"""The files of a shard cache: names, locks, stamps, and who goes when room is needed.

Locks are advisory (flock): one a shard while it is fetched, one for the room while files are counted, dropped, opened
or given their names; a killed process holds none. Only files with the cache's own names are ever deleted.
"""

import fcntl
import hashlib
import logging
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import store_timeout
from lorat.shards.base.waiting import waiting
from lorat.shards.manifest import Receipt
from lorat.shards.writer import INDEX_DTYPE, index_path

_LOG = logging.getLogger("lorat")
_NAME = re.compile(r"(?P<entry>.+\.[0-9a-f]{16})\.(tar\.zst|tar\.zst\.part|idx|ok)")
_STAMP = 256  # bytes, at most
_POLL = 0.02  # seconds between two looks at what another process keeps


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Where a cache is and how much it may hold."""

    folder: Path
    max_bytes: int


class CacheEntry:
    """The files of one shard, named after its content, so that none goes stale. Beside the shard (`data`) and its
    index: the shard while it is fetched (`part`); a `stamp`, which says which file was checked last and whose own time
    is that of the last use; and the `lock` of whoever fetches or checks the shard. That is one of 256 files, shared by
    shards: a lock file that is never deleted is never deleted while another process waits for it.
    """

    def __init__(self, data: Path) -> None:
        self.data, self.index = data, index_path(data)
        self.part = data.with_name(f"{data.name}.part")
        self.stamp = self.index.with_suffix(".ok")
        self.lock = data.with_name(f"lock-{hashlib.sha256(data.name.encode()).hexdigest()[:2]}")

    def is_checked(self, receipt: Receipt) -> bool:
        """Return whether the shard is there and untouched since its checksum was compared."""
        try:
            same = self.stamp.read_bytes() == self._state(receipt)
            index = self.index.read_bytes()
        except FileNotFoundError:
            return False
        return same and hashlib.sha256(index).hexdigest() == receipt.index_sha256

    def check(self, receipt: Receipt) -> bool:
        """Compare both checksums and stamp the shard where they fit."""
        try:
            with self.data.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            index = hashlib.sha256(self.index.read_bytes()).hexdigest()
            if (digest, index) == (receipt.sha256, receipt.index_sha256):
                self.write_stamp(receipt)
                return True
        except FileNotFoundError:
            return False
        _LOG.warning("%s: not the bytes that were written; fetched again", self.data)
        return False

    def write_stamp(self, receipt: Receipt) -> None:
        """Note that the shard as it is now has been checked."""
        self.stamp.write_bytes(self._state(receipt))

    def touch(self) -> None:
        """Note that the shard is used now."""
        now = time.time_ns()  # finer than the time that the file system would take
        with suppress(FileNotFoundError, PermissionError):  # dropped, or another user's
            os.utime(self.stamp, ns=(now, now))

    def remove(self) -> None:
        """Delete the shard; who has it open reads on."""
        for path in (self.stamp, self.data, self.index):
            path.unlink(missing_ok=True)

    def _state(self, receipt: Receipt) -> bytes:
        stat = self.data.stat()
        return f"{receipt.sha256} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}".encode()


def entry_of(folder: Path, receipt: Receipt) -> CacheEntry:
    """Return where a cache keeps the shard of a receipt."""
    return CacheEntry(folder / f"{receipt.shard.removesuffix('.tar.zst')}.{receipt.sha256[:16]}.tar.zst")


def bytes_needed(receipt: Receipt) -> int:
    """Return what a shard takes of a cache's limit: itself, its index and its stamp."""
    return receipt.bytes + (receipt.rows + 1) * INDEX_DTYPE.itemsize + _STAMP


def room_lock(folder: Path) -> Path:
    """Return the lock of the room; nothing is dropped while another holds it."""
    return folder / "lock-room"


@contextmanager
def locked(path: Path, kind: int = fcntl.LOCK_EX, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock file's lock, exclusive or ``fcntl.LOCK_SH``, waiting for it; `wait` waits a moment, or raises that it
    was long enough, by default as `Others` do.
    """
    with path.open("ab") as file:
        wait = wait or Others(path.parent, f"{path}: another process holds it").wait
        with waiting(f"{path}, which another process holds"):
            while not _taken(file, kind):
                wait()
        try:
            yield
        finally:
            # Not left to the closing: a process forked meanwhile would go on holding the lock.
            fcntl.flock(file, fcntl.LOCK_UN)


class Others:
    """Other processes that use a cache and keep what this one waits for."""

    def __init__(self, folder: Path, what: str) -> None:
        """`what` says which and of what file, as the begin of an error."""
        self._folder, self._what, self._limit = folder, what, 2 * store_timeout()
        self._known, self._since = 0, time.monotonic()

    def wait(self) -> None:
        """Wait a moment; a `UserError` once none has fetched anything for twice as long as a store may take."""
        time.sleep(_POLL)
        if (newest := _newest_write(self._folder)) != self._known:
            self._known, self._since = newest, time.monotonic()
        if time.monotonic() - self._since > self._limit:
            why = f"no process fetched anything into the cache for {self._limit:g} s"
            raise UserError(f"{self._what}, and {why}; end those that use it, or name another folder")


def _taken(file: BinaryIO, kind: int) -> bool:
    """Take a file's lock, unless another process has it; return whether it was taken."""
    with suppress(BlockingIOError):
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    return False


def _newest_write(folder: Path) -> int:
    """Return when something was last written into a file that is fetched; 0 where none is."""
    newest = 0
    for part in folder.glob("*.part"):
        with suppress(FileNotFoundError):
            newest = max(newest, part.stat().st_mtime_ns)
    return newest


def make_part(options: CacheOptions, entry: CacheEntry, need: int, drop_open: bool) -> BinaryIO | None:
    """Make the file that a shard is fetched into, dropping the least recently used for it; None if there is no room.
    The shard's lock is held. The file has the length `need` from the start, index and stamp included, so that processes
    that fetch at once count each other, and is locked so that nobody takes it for a killed process's. Shards that are
    open are dropped only with `drop_open`, where the others do not suffice.
    """
    with locked(room_lock(options.folder)):
        entry.part.unlink(missing_ok=True)  # of a process that was killed
        kept, total = _scan(options.folder)
        if total + need > options.max_bytes:
            opened = {old.data for old, _ in kept if is_locked(old.data)}
            for old, size in sorted(kept, key=lambda each: each[0].data in opened):
                if total + need > options.max_bytes and (drop_open or old.data not in opened):
                    old.remove()
                    total -= size
        if total + need > options.max_bytes:
            return None
        file = entry.part.open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(need)
        return file


def _scan(folder: Path) -> tuple[list[tuple[CacheEntry, int]], int]:
    """Return the shards and their bytes, least recently used first, and the bytes of all files. The room's lock is
    held. Part files that no living process writes are deleted.
    """
    sizes, used, parts = Counter[str](), defaultdict[str, float](float), 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # a download that failed this moment
            if (name := _NAME.fullmatch(path.name)) is None:
                continue
            stat, key = path.stat(), name["entry"]
            if path.suffix != ".part":
                sizes[key] += stat.st_size
                used[key] = max(used[key], stat.st_mtime)  # the stamp's, if there is one
            elif is_locked(path):
                parts += stat.st_size
            else:
                path.unlink()  # of a process that was killed
    oldest_first = sorted(sizes, key=lambda key: (used[key], key))
    return [(CacheEntry(folder / f"{key}.tar.zst"), sizes[key]) for key in oldest_first], parts + sizes.total()


def is_locked(path: Path) -> bool:
    """Return whether a process has locked a file, shared or not; False where it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Not left to the closing, as above: readers would wait for the forked process for ever.
            fcntl.flock(file, fcntl.LOCK_UN)
    except (BlockingIOError, FileNotFoundError) as error:
        return isinstance(error, BlockingIOError)
    return False
