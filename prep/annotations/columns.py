"""Named arrays in one file: written in one pass, read through a memory map.

Layout: 8 bytes of magic, the columns one after the other (raw, little-endian, each at a multiple of
64 bytes), a header as JSON (what the writer said, and dtype, shape and offset of each column), and
last 16 bytes: the header's offset and length. Nothing is unpickled. A file that ends early or is of
another kind is refused; flipped bits inside a column are not found.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["ColumnWriter", "Columns", "NotColumns", "open_columns"]

_MAGIC = b"LORATCOL"
_TAIL = struct.Struct("<QQ")
_ALIGN = 64


class NotColumns(Exception):
    """A file that `ColumnWriter` did not finish, or did not write."""


@dataclass(frozen=True, eq=False, slots=True)
class Columns:
    """What a file holds; the arrays stay valid when the file is replaced or removed."""

    header: dict[str, Any]
    """What the writer said."""
    arrays: dict[str, NDArray[Any]]
    """Read-only, by name."""
    digest: str
    """Hash of the header and the layout."""


class ColumnWriter:
    """Writes columns to a file that is open for writing.

    Args:
        file: at its start.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = file.write(_MAGIC)
        self._columns: dict[str, dict[str, Any]] = {}

    def put(self, name: str, values: NDArray[Any]) -> None:
        """Write a column."""
        with self.column(name, values.dtype, values.shape[1:]) as rows:
            rows.append(values)

    @contextmanager
    def column(
        self, name: str, dtype: np.dtype[Any], row: tuple[int, ...] = ()
    ) -> Iterator[ColumnRows]:
        """Open a column that is written piece by piece; no other one may be written meanwhile.

        Args:
            name: of the column.
            dtype: of its values.
            row: the shape of one row.
        """
        self._at += self._file.write(bytes(-self._at % _ALIGN))
        rows = ColumnRows(self._file, dtype.newbyteorder("<"), row)
        yield rows
        shape = [rows.count, *row]
        self._columns[name] = {"dtype": rows.dtype.str, "shape": shape, "offset": self._at}
        self._at += rows.bytes

    def finish(self, header: dict[str, Any]) -> None:
        """Write the header; before this the file counts as unfinished.

        Args:
            header: anything that JSON can hold; ``columns`` is added to it.
        """
        text = json.dumps(
            {**header, "columns": self._columns}, allow_nan=False, separators=(",", ":")
        )
        self._file.write(text.encode() + _TAIL.pack(self._at, len(text)))


class ColumnRows:
    """One column while it is written."""

    def __init__(self, file: BinaryIO, dtype: np.dtype[Any], row: tuple[int, ...]) -> None:
        self.dtype, self.count, self.bytes = dtype, 0, 0
        self._file, self._row = file, row

    def append(self, values: NDArray[Any]) -> None:
        """Write further rows.

        Raises:
            ValueError: if their shape is another one.
        """
        if values.shape[1:] != self._row:
            raise ValueError(f"rows of shape {values.shape[1:]} in a column of {self._row}")
        values = np.ascontiguousarray(values, self.dtype)
        self._file.write(values.data.cast("B") if values.size else b"")
        self.count += len(values)
        self.bytes += values.nbytes


def open_columns(path: Path) -> Columns:
    """Map a file of columns; takes milliseconds whatever its size.

    Raises:
        OSError: if the file cannot be opened.
        NotColumns: if it is of another kind, or not whole.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise NotColumns(f"{path}: is no file of columns")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(data) < len(_MAGIC) + _TAIL.size:
        raise NotColumns(f"{path}: is not whole")
    at, length = _TAIL.unpack(data[-_TAIL.size :])
    if at + length + _TAIL.size != len(data):
        raise NotColumns(f"{path}: is not whole")
    try:
        text = data[at : at + length]
        header = json.loads(text)
        arrays = {name: _map(data, c, at) for name, c in header.pop("columns").items()}
        return Columns(header, arrays, hashlib.sha256(text).hexdigest()[:16])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotColumns(f"{path}: its header does not fit its content ({error})") from None


def _map(data: mmap.mmap, column: dict[str, Any], end: int) -> NDArray[Any]:
    dtype, shape, offset = np.dtype(column["dtype"]), column["shape"], column["offset"]
    count = int(np.prod(shape))
    if dtype.hasobject or offset + count * dtype.itemsize > end:
        raise ValueError("a column outside the file")
    return np.frombuffer(data, dtype, count, offset).reshape(shape)
