"""Sizes as people write them on a command line."""

from __future__ import annotations

import re

from lorat.shards.base.errors import UserError

__all__ = ["parse_bytes"]

_UNITS = ("", "K", "M", "G", "T")
_BYTES = re.compile(r"(\d*\.?\d+(?:e\d+)?) ?(?:([KMGT])(i)?)?B?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Read ``200GB``, ``1.5 TB``, ``4e9``; units are powers of 1000, or of 1024 with an i (GiB).

    Raises:
        UserError: if it is no positive size.
    """
    found = _BYTES.fullmatch(text.strip())
    if found:
        number, unit, binary = found.groups()
        size = int(float(number) * (1024 if binary else 1000) ** _UNITS.index((unit or "").upper()))
        if size > 0:
            return size
    raise UserError(f"size '{text}': write for example 200GB, 1.5TB or 500GiB")
