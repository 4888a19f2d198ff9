"""Files that are whole or not there, on a local disk or in an object store.

Everything a build or a training leaves behind is written beside its final name, flushed to disk and renamed (the folder
is flushed too, so a power cut does not undo the name), or spooled to a local temporary file and uploaded whole. A
reader never sees half a file, and a killed process leaves at most a temporary file, which `remove_leftovers` finds.
"""

import errno
import hashlib
import json
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from upath import UPath

from lorat.shards.base import remote
from lorat.shards.base.errors import UserError

Location: TypeAlias = Path | UPath
"""A local path, or a place in a store that fsspec knows."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED_WRITES = {*_FULL, errno.EFBIG, errno.EIO}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
_HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())
_LEFTOVER = re.compile(rf"\..*\.{_HOST}-(\d+)\.tmp")


def locate(text: str | Path) -> Location:
    """Return the place that a text names: ``s3://bucket/folder``, or a path (``~`` is home).

    A `UserError` for a URL whose storage is unknown or not installed.
    """
    if isinstance(text, Path):
        return text.expanduser()
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    if re.match(r"[A-Za-z][\w+.:-]*://", text):
        return remote.list_uncached(text)
    return Path(text).expanduser()


def is_remote(place: Location) -> bool:
    """Return whether a place is in a store, not on a local disk."""
    return not isinstance(place, Path)


@contextmanager
def explain_disk(path: Path, writes_only: bool = False) -> Iterator[None]:
    """Turn what a local disk refuses inside the block into a `UserError` that says what to do.

    With `writes_only` what cannot come from writing this file passes: inside the caller's block an error that names a
    file comes from another one that it uses.
    """
    try:
        yield
    except OSError as error:
        if writes_only and (error.filename is not None or error.errno not in _REFUSED_WRITES):
            raise
        raise UserError(f"{path}: cannot be written ({error.strerror}); {_remedy(error, path)}") from None


@contextmanager
def atomic_file(place: Location) -> Iterator[BinaryIO]:
    """Open a file that appears as `place` when the block ends, and not at all when it raises.

    A local folder is made where it is missing. A full disk, a folder that is not writable and a store that fails are a
    `UserError`.
    """
    if not isinstance(place, Path):
        with _spool(place) as file:
            yield file
        return
    beside = place.with_name(f".{place.name}.{_HOST}-{os.getpid()}.tmp")
    try:  # opened inside, or Ctrl-C just after would leave the file
        with explain_disk(place):
            missing = [f for f in place.parents if not f.exists()]
            place.parent.mkdir(parents=True, exist_ok=True)
            for made in missing:
                sync_folder(made.parent)
            file = beside.open("wb")
        with explain_disk(place, writes_only=True), file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with explain_disk(place):
            beside.replace(place)
            sync_folder(place.parent)
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):  # its folder may be a file
            beside.unlink()


@contextmanager
def _spool(place: UPath) -> Iterator[BinaryIO]:
    """Write to a local temporary file, then upload it."""
    folder = Path(tempfile.gettempdir())
    with explain_disk(folder):
        number, name = tempfile.mkstemp(f".{_HOST}-{os.getpid()}.tmp", ".lorat-upload-", folder)
    try:
        with explain_disk(Path(name), writes_only=True), os.fdopen(number, "wb") as file:
            yield file
        remote.upload(Path(name), place)
    finally:
        Path(name).unlink(missing_ok=True)


def _remedy(error: OSError, path: Path) -> str:
    if error.errno in _FULL:
        return f"make room on the disk of {path.parent} and run again"
    if error.errno == errno.EFBIG:
        return "raise the limit on file sizes (ulimit -f) and run again"
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return f"make {path.parent} writable, or name another folder"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{path.parent} lies in a file, not in a folder; name another"
    return "name another folder, or mend the disk, and run again"


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


def remove_leftovers(place: Location) -> int:
    """Delete the temporary files that killed processes of this machine left; return how many.

    What was spooled for a place in a store lies in the machine's folder for temporary files.
    """
    folder = place if isinstance(place, Path) else Path(tempfile.gettempdir())
    removed = 0
    for path in folder.glob(".*.tmp"):
        found = _LEFTOVER.fullmatch(path.name)
        if found and not _is_running(int(found[1])):
            with suppress(PermissionError):  # another user's, in the machine's temporary folder
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def remove_file(place: Location) -> None:
    """Delete a file where there is one; a `UserError` if that fails."""
    if isinstance(place, Path):
        with explain_disk(place):
            place.unlink(missing_ok=True)
    else:
        with suppress(FileNotFoundError), remote.explained(place, "deleted"):
            remote.client(place).rm_file(place.path)


def file_size(place: Location) -> int | None:
    """Return a file's size in bytes, or None where there is no file; a `UserError` if refused."""
    if not isinstance(place, Path):
        return remote.object_size(place)
    with _explain_reading(place):
        return place.stat().st_size if place.is_file() else None


def children(folder: Location) -> list[Location]:
    """Return what lies directly in a folder, sorted by name; nothing where it is missing.

    A `UserError` if a store does not answer, or a disk refuses.
    """
    if isinstance(folder, Path):
        with _explain_reading(folder):
            return sorted(folder.iterdir()) if folder.is_dir() else []
    with suppress(FileNotFoundError), remote.explained(folder, "listed"):
        found = remote.client(folder).ls(folder.path, detail=False)
        itself = folder.path.rstrip("/")  # a file, or the empty object that stands for a folder
        names = {Path(path).name for path in found if path.rstrip("/") != itself}
        return [folder / name for name in sorted(names)]
    return []


@contextmanager
def _explain_reading(place: Location) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{place}: cannot be read ({error.strerror}); see that it is there and may be read") from None


def file_digest(path: Path, remedy: str) -> str:
    """Return the SHA-256 of a local file; what cannot be read is a `UserError` with `remedy`."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None


def read_bytes(place: Location) -> bytes:
    """Read a whole file; errors as of `read_range`."""
    if isinstance(place, Path):
        return place.read_bytes()
    with remote.explained(place, "read"):
        return bytes(remote.client(place).cat_file(place.path))


def read_range(place: Location, offset: int, length: int) -> bytes:
    """Read bytes offset … offset + length − 1 of a file: fewer where it ends earlier.

    A `FileNotFoundError` if there is none, an `OSError` if a local file cannot be read, a `UserError` if a store does
    not answer.
    """
    if not isinstance(place, Path):
        return remote.read_range(place, offset, length)
    with place.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def write_json(place: Location, value: Any) -> None:
    """Write `value` as JSON, as `atomic_file` does; a `ValueError` for NaN and infinities."""
    text = json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n"
    with atomic_file(place) as file:
        file.write(text.encode())


def read_json(place: Location) -> Any:
    """Read a JSON file; a `UserError` if it is missing or is no JSON."""
    with _explain_reading(place):
        data = read_bytes(place)
    try:
        return json.loads(data)
    except ValueError as error:
        raise UserError(f"{place}: is not JSON ({error}); delete it and run again") from None
