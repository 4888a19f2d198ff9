"""Files that are whole or not there, on a local disk or, through fsspec, in an object store.

What a build or a training leaves behind is written beside its final name, flushed and renamed (its folder is flushed
too, so a power cut does not undo the name), or spooled to a local file and uploaded whole. Every answer of a store is
fresh; retries are its client's, and all of them together end after `StoreOptions.store_timeout` seconds. What it gives
up on is a `UserError`; only a missing object is a `FileNotFoundError`.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import fsspec
from fsspec.asyn import sync
from fsspec.registry import known_implementations
from upath import UPath

from lorat.shards.base.disk import LEFTOVER, explain_disk, explain_reading, sync_files, sync_folder
from lorat.shards.base.errors import UserError
from lorat.shards.base.options import option
from lorat.shards.base.waiting import seconds_in, waiting

Location: TypeAlias = Path | UPath
"""A local path, or a place in a store that fsspec knows."""

TIMEOUT = "LORAT_STORE_TIMEOUT"
_SPOOL = ".lorat-upload-"
_LEFT_AFTER = 6 * 3600.0  # seconds without a write, after which a temporary file counts as left behind
_CLIENTS: dict[tuple[int, str, str], Any] = {}
_EXTRAS = {"s3": "s3", "s3a": "s3"}
# Errors of a store's client that are no OSError. They can only be raised once their module is loaded, so none is
# imported for this.
_CLIENT_ERRORS = {
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "aiohttp": ("ClientError",),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "azure.core.exceptions": ("AzureError",),
}
_LONGEST_REASON = 200
_SLOWEST = 50e3  # bytes a second of a line that is slow, not silent
_NOT_OURS = re.compile(
    "credentials|Forbidden|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|profile", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreOptions:
    """How stores are waited for."""

    store_timeout: float | None = option(
        None,
        least=0.1,
        metavar="SECONDS",
        help="How long a store (s3://...) may take to answer, all tries of its client together.",
        shown=f"${TIMEOUT}, else 120",
    )

    def use(self) -> None:
        """Let this process, and those that it starts, wait so long."""
        if self.store_timeout is not None:
            os.environ[TIMEOUT] = str(self.store_timeout)


def locate(text: str | Path) -> Location:
    """Return the place that a text names: ``s3://bucket/folder``, or a path (``~`` is home). A `UserError` for a URL
    that names nothing, or whose storage is unknown or not installed.
    """
    if isinstance(text, str) and text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    if isinstance(text, Path) or not re.match(r"[A-Za-z][\w+.:-]*://", text):
        return Path(text).expanduser()
    scheme, _, rest = text.partition("://")
    protocol = scheme.split("::")[-1]
    if not rest.strip("/"):
        raise UserError(f"{text}: names no bucket or folder; write s3://bucket/folder")
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        needed = known_implementations.get(protocol, {}).get("err", str(error))
        remedy = f"pip install 'lorat[{_EXTRAS[protocol]}]'" if protocol in _EXTRAS else needed
        raise UserError(f"{text}: {protocol}:// needs another package; {remedy}") from None
    except ValueError:
        raise UserError(f"{text}: no storage is known for {protocol}://; write s3://bucket/folder or a path") from None
    return UPath(text.rstrip("/"), use_listings_cache=False)


def cache_folder() -> Path:
    """Return the folder of what can be made again: ``LORAT_CACHE``, else ``lorat`` in ``XDG_CACHE_HOME``, ~/.cache."""
    if named := os.environ.get("LORAT_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lorat"


def is_remote(place: Location) -> bool:
    """Return whether a place is in a store, not on a local disk."""
    return not isinstance(place, Path)


def _client(place: UPath) -> Any:
    """Return this process's client for a place's store: one for all threads, none across a fork."""
    options = dict(place.storage_options)
    if (key := (os.getpid(), place.protocol, repr(sorted(options.items())))) not in _CLIENTS:
        # Clients of a parent stay in the table: collecting one would close sockets it still uses.
        _CLIENTS[key] = fsspec.filesystem(place.protocol, skip_instance_cache=True, **options)
    return _CLIENTS[key]


def store_timeout() -> float:
    """Return how many seconds a store may take to answer, with all that its client tries again."""
    return seconds_in(TIMEOUT, 120.0)


def _ask(place: UPath, method: str, *args: Any, sent: int = 0, **options: Any) -> Any:
    """Call a method of a place's client, which may wait for its store no longer than `store_timeout` and the time that
    `sent` bytes take on a slow line. A client that knows no such limit keeps its own.
    """
    client, limit = _client(place), store_timeout() + sent / _SLOWEST
    with waiting(str(place)):
        if not client.async_impl:
            return getattr(client, method)(*args, **options)
        try:
            return sync(client.loop, getattr(client, f"_{method}"), *args, timeout=limit, **options)
        except TimeoutError:
            raise TimeoutError(f"no answer within {round(limit, 1):g} s; --store-timeout may be longer") from None


@contextmanager
def _explain_store(place: UPath, done: str, remedy: str = "run again") -> Iterator[None]:
    """Turn what a store refuses into one line; a missing object stays a `FileNotFoundError`."""
    try:
        yield
    except _store_errors() as error:
        if isinstance(error, FileNotFoundError) and done != "written":  # what is written may lack its bucket
            raise FileNotFoundError(errno.ENOENT, "No such object", str(place)) from None
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"
        if isinstance(error, PermissionError) or _NOT_OURS.search(reason):
            remedy = (
                "give the store's credentials (for S3 $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY, or $AWS_PROFILE)"
            )
        raise UserError(f"{place}: cannot be {done} ({reason}); {remedy}") from None


def _store_errors() -> tuple[type[Exception], ...]:
    loaded = ((sys.modules[module], names) for module, names in _CLIENT_ERRORS.items() if module in sys.modules)
    return (OSError, *(getattr(module, name) for module, names in loaded for name in names))


@contextmanager
def atomic_file(place: Location, name: Callable[[], str] | None = None) -> Iterator[BinaryIO]:
    """Open a file that appears as `place` when the block ends, and not at all when it raises. A local folder is made
    where it is missing. `name` is asked at the end for a local file's own name, where that tells its content: one that
    is there stays. A full disk, a folder that is not writable and a store that fails are a `UserError`. That an object
    appears at once is the store's promise: S3 and its like keep it, SFTP does not.
    """
    if not isinstance(place, Path):
        with _spool(place) as file:
            yield file
        return
    beside = _beside(place)
    try:  # opened inside, or Ctrl-C just after would leave the file
        with explain_disk(place):
            _make_folder(place.parent)
            file = beside.open("xb")
        with explain_disk(place, writes_only=True), file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with explain_disk(place):
            final = place if name is None else place.with_name(name())
            if name is None or not _linked(beside, final):
                beside.replace(final)
            sync_folder(place.parent)
    finally:
        with suppress(OSError):  # renamed, or never made: whatever stood in the way of that is what is raised
            beside.unlink()


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write local files that appear one after another, each whole, once all are flushed, which they are together; or,
    of a disk that refuses one, none. Errors as of `atomic_file`.
    """
    beside = {place: _beside(place) for place in files}
    try:
        for place, data in files.items():
            with explain_disk(place):
                _make_folder(place.parent)
                beside[place].write_bytes(data)
        if files:
            with explain_disk(next(iter(files))):
                sync_files(beside.values())
        for place, file in beside.items():
            with explain_disk(place):
                file.replace(place)
        for folder in {place.parent for place in files}:
            with explain_disk(folder):
                sync_folder(folder)
    finally:
        for file in beside.values():
            with suppress(OSError):  # named, or never made
                file.unlink()


def _make_folder(folder: Path) -> None:
    """Make a folder and flush the names of those that are made."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


@contextmanager
def atomic_folder(place: Path) -> Iterator[Path]:
    """Make a folder that appears as `place`, instead of one that is there, when the block ends, and not at all when it
    raises. Folders around it hold what one process writes: leftovers of those that were killed go first.
    """
    beside, before = _beside(place), _beside(place)
    with explain_disk(place):
        for stale in place.parent.glob(".*.tmp"):
            shutil.rmtree(stale)
        beside.mkdir(parents=True)
    try:
        yield beside
        with explain_disk(place):
            if place.exists():
                place.replace(before)
            beside.replace(place)
            sync_folder(place.parent)
    finally:
        for folder in (beside, before):
            shutil.rmtree(folder, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a local folder; killed in the middle, that leaves a leftover, not a damaged folder."""
    with explain_disk(folder):
        shutil.rmtree(folder.replace(_beside(folder)))


def _beside(place: Path) -> Path:
    # Neither host names nor process numbers are unique where containers share a folder.
    return place.with_name(f".{place.name}.lorat-{secrets.token_hex(8)}.tmp")


def _linked(file: Path, final: Path) -> bool:
    """Name a file, unless the name is taken; return whether it is now: some file systems have no links."""
    with suppress(OSError):
        os.link(file, final)
    return final.exists()


@contextmanager
def _spool(place: UPath) -> Iterator[BinaryIO]:
    """Write to a local temporary file, then upload it whole."""
    with explain_disk(folder := Path(tempfile.gettempdir())):
        number, name = tempfile.mkstemp(f".lorat-{secrets.token_hex(8)}.tmp", _SPOOL, folder)
    local = Path(name)
    try:
        with explain_disk(local, writes_only=True), os.fdopen(number, "wb") as file:
            yield file
        size = local.stat().st_size
        with _explain_store(place, "written", "finished files are kept, run again to go on"):
            _ask(place, "put_file", name, place.path, sent=size)
        if (arrived := file_size(place)) != size:
            raise UserError(f"{place}: {arrived} of {size} bytes arrived; run again")
    finally:
        with suppress(OSError):
            local.unlink()


def remove_leftovers(place: Location) -> int:
    """Delete the temporary files that nobody has written to for six hours, which killed processes left; return how
    many. What was spooled for a place in a store lies in the machine's folder for temporary files.
    """
    folder, begin = (place, ".") if isinstance(place, Path) else (Path(tempfile.gettempdir()), _SPOOL)
    return remove_old([path for path in folder.glob(f"{begin}*.tmp") if LEFTOVER.fullmatch(path.name)], _LEFT_AFTER)


def remove_old(files: Iterable[Path], seconds: float) -> int:
    """Delete those of some local files that did not change for so long, by the clock of their disk, which may be a
    server's; return how many. What may not be deleted stays.
    """
    removed, now = 0, dict[Path, float]()
    for path in files:
        with suppress(OSError):  # another user's, in the machine's temporary folder; or just gone
            if path.parent not in now:
                with tempfile.TemporaryFile(dir=path.parent) as clock:
                    now[path.parent] = os.fstat(clock.fileno()).st_mtime
            if now[path.parent] - path.stat().st_mtime > seconds:
                path.unlink()
                removed += 1
    return removed


def remove_file(place: Location) -> None:
    """Delete a file where there is one; a `UserError` if that fails."""
    if isinstance(place, Path):
        with explain_disk(place):
            place.unlink(missing_ok=True)
    else:
        with suppress(FileNotFoundError), _explain_store(place, "deleted"):
            _ask(place, "rm_file", place.path)


def file_size(place: Location) -> int | None:
    """Return a file's size in bytes, or None where there is no file; a `UserError` if refused."""
    if isinstance(place, Path):
        with explain_reading(place):
            return place.stat().st_size if place.is_file() else None
    with suppress(FileNotFoundError), _explain_store(place, "looked up"):
        info = _ask(place, "info", place.path)
        return int(info["size"]) if info["type"] == "file" and info["size"] is not None else None
    return None


def children(folder: Location) -> list[Location]:
    """Return what lies directly in a folder, sorted by name; nothing where it is missing. A `UserError` if a store does
    not answer, or a disk refuses.
    """
    if isinstance(folder, Path):
        with explain_reading(folder):
            return sorted(folder.iterdir()) if folder.is_dir() else []
    with suppress(FileNotFoundError), _explain_store(folder, "listed"):
        found = _ask(folder, "ls", folder.path, detail=False)
        itself = folder.path.rstrip("/")  # a file, or the empty object that stands for a folder
        return [folder / name for name in sorted({Path(p).name for p in found if p.rstrip("/") != itself})]
    return []


def file_digest(path: Path, remedy: str) -> str:
    """Return the SHA-256 of a local file; what cannot be read is a `UserError` with `remedy`."""
    with explain_reading(path, remedy), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(place: Location) -> bytes:
    """Read a whole file; errors as of `read_range`."""
    if isinstance(place, Path):
        return place.read_bytes()
    with _explain_store(place, "read"):
        return bytes(_ask(place, "cat_file", place.path))


def read_range(place: Location, offset: int, length: int) -> bytes:
    """Read bytes offset … offset + length − 1 of a file: fewer where it ends earlier. A `FileNotFoundError` if there is
    none, an `OSError` if a local file cannot be read, a `UserError` if a store does not answer, or does not know byte
    ranges.
    """
    if isinstance(place, Path):
        with place.open("rb") as file:
            file.seek(offset)
            return file.read(length)
    try:
        with _explain_store(place, "read"):
            data = bytes(_ask(place, "cat_file", place.path, start=offset, end=offset + length))
    except UserError as error:
        with suppress(UserError):  # the first error says more
            silent = isinstance(error.__context__, TimeoutError)
            if not silent and (size := file_size(place)) is not None and size <= offset:
                return b""  # stores answer a range behind the end with an error status
        raise
    if len(data) > length:
        raise UserError(f"{place}: the server ignores byte ranges; use one that knows them")
    return data


def write_json(place: Location, value: Any) -> None:
    """Write `value` as JSON, as `atomic_file` does; a `ValueError` for NaN and infinities."""
    text = json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n"
    with atomic_file(place) as file:
        file.write(text.encode())


def read_json(place: Location) -> Any:
    """Read a JSON file; a `UserError` if it is missing or is no JSON."""
    with explain_reading(place):
        data = read_bytes(place)
    try:
        return json.loads(data)
    except ValueError as error:
        raise UserError(f"{place}: is not JSON ({error}); delete it and run again") from None
