"""Reading a zip that anyone may have made: nothing is unpacked to disk, sizes are bounded.

Promise: a file that is no zip, or one that declares more than a submission can hold, is refused
before an entry is read. An entry is read into memory up to its declared size and no further.
"""

from __future__ import annotations

import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from lorat.evaluate.submit.text import quoted
from lorat.shards.base.errors import UserError

__all__ = ["Archive", "EntryFault", "open_archive"]

# GOT-10k's and TrackingNet's submissions have up to 720 and 511 files and 3 to 30 MB of text.
_MOST_ENTRIES = 20_000
_LARGEST_ZIP = 64 << 20  # bytes; it bounds the list of entries, which is read whole
_LARGEST_ENTRY = 16 << 20  # bytes
_LARGEST_TOTAL = 1 << 30
_ENCRYPTED = 0x1  # flag bit of an entry
# What zipfile and its decompressors raise on bytes that are not what the zip says they are.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
)


class EntryFault(Exception):
    """An entry that cannot be read; the message is the reason."""


@dataclass(frozen=True, eq=False, slots=True)
class Archive:
    """The files of an open zip."""

    names: tuple[str, ...]
    """Of all files in the zip's order, folders left out; a name that is there twice is so here."""
    faults: tuple[tuple[str, str], ...]
    """(name, reason) of paths that are not to be trusted: they leave the folder, or differ between
    the programs that read them."""
    _zip: zipfile.ZipFile = field(repr=False)

    def read(self, name: str) -> bytes:
        """Return the bytes of a file, of the last one where the name is there twice.

        Raises:
            EntryFault: if it is encrypted, compressed in an unknown way, or damaged.
        """
        info = self._zip.getinfo(name)
        if info.flag_bits & _ENCRYPTED:
            raise EntryFault("encrypted")
        try:
            with self._zip.open(info) as file:
                data = file.read(info.file_size + 1)
        except NotImplementedError:
            raise EntryFault(f"compression method {info.compress_type} is not common") from None
        except _DAMAGE as error:
            raise EntryFault(f"damaged: {quoted(str(error), 80)}") from None
        if len(data) != info.file_size:
            raise EntryFault(f"{len(data):,} bytes where the zip declares {info.file_size:,}")
        return data


@contextmanager
def open_archive(file: BinaryIO, where: str) -> Iterator[Archive]:
    """Open a zip for reading.

    Args:
        file: the zip's bytes, seekable.
        where: how messages call it.

    Yields:
        Its files.

    Raises:
        UserError: if it is no zip, or declares more or larger files than a submission has.
    """
    if (size := file.seek(0, io.SEEK_END)) > _LARGEST_ZIP:
        raise UserError(
            f"{where}: {size >> 20:,} MiB, where a submission takes less than "
            f"{_LARGEST_ZIP >> 20}; not read"
        )
    try:
        archive = zipfile.ZipFile(file)
    except (*_DAMAGE, NotImplementedError) as error:
        reason = quoted(str(error), 80)
        raise UserError(
            f"{where}: not a zip that can be read ({reason}); copy it again or pack it again"
        ) from None
    with archive:
        infos = archive.infolist()
        _refuse_bombs(infos, where)
        # Not is_dir(), which fails at an entry without a name.
        files = [info for info in infos if not info.filename.endswith("/")]
        faults = ((i.orig_filename, _path_fault(i.orig_filename, i.filename)) for i in infos)
        yield Archive(
            tuple(info.filename for info in files),
            tuple((name, reason) for name, reason in faults if reason),
            archive,
        )


def _refuse_bombs(infos: list[zipfile.ZipInfo], where: str) -> None:
    if len(infos) > _MOST_ENTRIES:
        raise UserError(
            f"{where}: {len(infos):,} entries, where a submission has hundreds; not read further"
        )
    for info in infos:
        if info.file_size > _LARGEST_ENTRY:
            raise UserError(
                f"{where}: {quoted(info.filename, 100)} unpacks to {info.file_size >> 20:,} MiB, "
                f"where a sequence's boxes take less than {_LARGEST_ENTRY >> 20}; not read"
            )
    total = sum(info.file_size for info in infos)
    if total > _LARGEST_TOTAL:
        raise UserError(
            f"{where}: unpacks to {total >> 20:,} MiB, where a submission takes less than "
            f"{_LARGEST_TOTAL >> 20:,}; not read"
        )


def _path_fault(written: str, read: str) -> str | None:
    """Return why a path of a zip means trouble, or None.

    Args:
        written: as in the zip.
        read: as Python's zipfile understands it.
    """
    if not written:
        return "no name"
    if "\\" in written:
        return "a backslash, which is no folder except on Windows"
    if written != read or not written.isprintable():
        return "a control character"
    if written.startswith("/") or written[1:2] == ":":
        return "an absolute path"
    if ".." in written.split("/"):
        return "a path that leaves the folder"
    return None if written.isascii() else "letters beyond ASCII"
