"""Objects of a store, through fsspec: read whole, read by byte range, sized, written whole.

Every answer is fresh: no listing is cached. Every process makes its own client, so a place can be used on both sides of
a fork. Retries are the client's own. What it gives up on (a server that is gone, denied access, an error status)
becomes one line, a `UserError` that names the place; only a missing object stays a `FileNotFoundError`, because callers
answer it differently.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.registry import known_implementations
from upath import UPath

from lorat.shards.base.errors import UserError

_CLIENTS: dict[tuple[int, str, str], Any] = {}
_EXTRAS = {"s3": "s3", "s3a": "s3"}
# Errors of a store's client that are no OSError. They can only be raised once their module is loaded, so none is
# imported for this.
_CLIENT_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)
_LONGEST_REASON = 200


def list_uncached(url: str) -> UPath:
    """Return the place a URL names, with listings that are never cached.

    A `UserError` if it names nothing, or the library for its scheme is not known or not installed.
    """
    scheme, _, rest = url.partition("://")
    protocol = scheme.split("::")[-1]
    if not rest.strip("/"):
        raise UserError(f"{url}: names no bucket or folder; write s3://bucket/folder")
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        needed = known_implementations.get(protocol, {}).get("err", str(error))
        remedy = f"pip install 'lorat[{extra}]'" if extra else needed
        raise UserError(f"{url}: {protocol}:// needs another package; {remedy}") from None
    except ValueError:
        raise UserError(f"{url}: no storage is known for {protocol}://; write s3://bucket/folder or a path") from None
    return UPath(url.rstrip("/"), use_listings_cache=False)


def read_range(place: UPath, offset: int, length: int) -> bytes:
    """Read bytes offset … offset + length − 1 of an object: fewer where it ends earlier.

    A `UserError` also where the store does not know byte ranges.
    """
    try:
        with explained(place, "read"):
            data = bytes(client(place).cat_file(place.path, start=offset, end=offset + length))
    except UserError:
        with suppress(UserError):  # the first error says more
            size = object_size(place)
            if size is not None and size <= offset:
                return b""  # stores answer a range behind the end with an error status
        raise
    if len(data) > length:
        raise UserError(f"{place}: the server ignores byte ranges; use one that knows them")
    return data


def object_size(place: UPath) -> int | None:
    """Return an object's size in bytes, or None where there is no object of this name."""
    with suppress(FileNotFoundError), explained(place, "looked up"):
        info = client(place).info(place.path)
        if info["type"] == "file" and info["size"] is not None:
            return int(info["size"])
    return None


def upload(file: Path, place: UPath) -> None:
    """Write a local file as an object, which appears when all of it has arrived.

    That it appears at once is the store's promise: S3 and its like keep it, SFTP does not.
    """
    size = file.stat().st_size
    try:
        client(place).put_file(str(file), place.path)
    except _store_errors() as error:
        remedy = "finished files are kept, run again to go on"
        raise UserError(f"{place}: cannot be written ({_reason(error)}); {remedy}") from None
    arrived = object_size(place)
    if arrived != size:
        raise UserError(f"{place}: {arrived} of {size} bytes arrived; run again")


def client(place: UPath) -> Any:
    """Return this process's client for a place's store: one for all threads, none across a fork."""
    options = dict(place.storage_options)
    key = (os.getpid(), place.protocol, repr(sorted(options.items())))
    if key not in _CLIENTS:
        # Clients of a parent stay in the table: collecting one would close sockets it still uses.
        _CLIENTS[key] = fsspec.filesystem(place.protocol, skip_instance_cache=True, **options)
    return _CLIENTS[key]


@contextmanager
def explained(place: UPath, done: str) -> Iterator[None]:
    """Turn what a store refuses into one line; a missing object stays a `FileNotFoundError`."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "No such object", str(place)) from None
    except _store_errors() as error:
        raise UserError(f"{place}: cannot be {done} ({_reason(error)}); run again") from None


def _store_errors() -> tuple[type[Exception], ...]:
    loaded = ((sys.modules.get(module), name) for module, name in _CLIENT_ERRORS)
    return (OSError, *(getattr(module, name) for module, name in loaded if module))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"
