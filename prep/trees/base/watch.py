"""Which files and folders a reader looked at, so that an index can tell when they change.

The helpers of `text` and `common` note what they open and list. A reader that opens a file or lists
a folder by itself calls `note` on it; one that never does is read anew each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path

__all__ = ["Stamp", "note", "stamp", "watch"]

Stamp = tuple[int, int]
"""Size in bytes and time of the last change in nanoseconds; (-1, -1) where nothing is there."""

# For all threads: a reader may use some, and what others note besides costs a stat and no more.
_WATCHING: list[dict[str, Stamp]] = []


@contextmanager
def watch() -> Iterator[dict[str, Stamp]]:
    """Collect what is noted inside the block: path → its stamp when it was first noted."""
    seen: dict[str, Stamp] = {}
    _WATCHING.append(seen)
    try:
        yield seen
    finally:
        # By identity: two watches that saw the same are equal.
        _WATCHING[:] = [other for other in _WATCHING if other is not seen]


def note(path: str | PathLike[str]) -> None:
    """Note a file that is about to be read or a folder about to be listed.

    Before, not after: a change while it is read then gives another stamp. Outside of `watch` this
    does nothing.
    """
    if not _WATCHING:
        return
    name = fspath(path)
    missing = [seen for seen in _WATCHING if name not in seen]
    if missing:
        found = stamp(name)
        for seen in missing:
            seen[name] = found


def stamp(path: str | PathLike[str]) -> Stamp:
    """Return the stamp of a file or folder.

    A change that keeps the size and falls into the same tick of the file system's clock (some
    milliseconds) leaves the stamp as it was.
    """
    try:
        found = Path(path).stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns
