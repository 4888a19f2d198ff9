"""What a disk refuses, as one line that says what to do, and asked for before long work."""

import ctypes
import errno
import io
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from upath import UPath

from lorat.shards.base.errors import UserError

_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room on the disk of {} and run again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make {} writable, or name another folder"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "{} is a file, not a folder; name another"),
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) and run again",
}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
_REFUSED_WRITES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
# What is written beside its name, which is the group; the second kind is of older releases.
LEFTOVER = re.compile(r"\.([^/]+)\.(?:lorat-[0-9a-f]{16}|[A-Za-z0-9]+-\d+)\.tmp")


@contextmanager
def explain_disk(path: Path, writes_only: bool = False) -> Iterator[None]:
    """Turn what a local disk refuses inside the block into a `UserError` that says what to do. With `writes_only` what
    cannot come from writing this file passes: there an error that names a file is another's. What lies in an
    unfinished folder is named as in the finished one.
    """
    try:
        yield
    except OSError as error:
        if writes_only and (error.filename is not None or error.errno not in _REFUSED_WRITES):
            raise
        remedy = _REMEDIES.get(error.errno or 0, "name another folder, or mend the disk, and run again")
        path = Path(LEFTOVER.sub(r"\1", str(path)))
        there = next((above for above in path.parents if os.access(above, os.F_OK)), path.parent)
        raise UserError(f"{path}: cannot be written ({error.strerror}); {remedy.format(there)}") from None


def check_can_write(*places: Path | UPath) -> None:
    """Raise now what `atomic_file` would after long work: a `UserError` where a local disk takes no file. Each place is
    a file or a folder, there or not; nothing is left behind. Stores are not asked.
    """
    for place in places:
        if isinstance(place, Path):
            with explain_disk(place):
                whole = place.absolute()
                folder = whole if whole.is_dir() else next(path for path in whole.parents if path.exists())
                with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                    file.write(b"\0")  # a full disk still makes files


def check_apart(path: Path, sources: Collection[Path]) -> None:
    """Refuse (`UserError`) to write over one of the files that something is made of."""
    if path.exists() and any(source.exists() and path.samefile(source) for source in sources):
        raise UserError(f"{path}: is read for this, and would be written over; give another --out")


def sync_folder(folder: Path) -> None:
    """Flush a local folder's names to disk, where its file system can."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(number)


def sync_files(files: Collection[Path]) -> None:
    """Flush local files to disk. On Linux that is one flush of each file system that they are on, which also takes what
    others have written there: a tenth of the time of one for each of a hundred small files.
    """
    whole = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None) if sys.platform == "linux" else None
    for file in {path.stat().st_dev: path for path in files}.values() if whole else files:
        with file.open("rb") as opened:
            if not whole:
                os.fsync(opened.fileno())
            elif whole(opened.fileno()):
                raise OSError(number := ctypes.get_errno(), os.strerror(number))


class _Enduring(io.RawIOBase):
    def __init__(self, file: BinaryIO) -> None:
        self._file, self.refused = file, list[OSError]()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def write(self, data: Any) -> int:
        if not self.refused:
            try:
                self._file.write(data)
            except OSError as error:
                self.refused.append(error)
        return len(data)


@contextmanager
def enduring(file: BinaryIO) -> Iterator[BinaryIO]:
    """Give a library a file that takes everything; what the disk refused is raised when the block ends. PyTorch's
    writer, which fails once more while it is torn down, would end the process.
    """
    taking = _Enduring(file)
    yield cast("BinaryIO", taking)
    if taking.refused:
        raise taking.refused[0]


@contextmanager
def explain_reading(
    place: Path | UPath, remedy: str = "see that it is there and may be read", kind: type[UserError] = UserError
) -> Iterator[None]:
    """Turn what cannot be read inside the block into an error of a kind, with a remedy."""
    try:
        yield
    except OSError as error:
        raise kind(f"{place}: cannot be read ({error.strerror or error}); {remedy}") from None
