"""USTAR members to bytes and back, for the few member kinds that shards hold.

The bytes depend on names and payloads alone: mtime 0, uid = gid = 0, mode 0444. Names are ASCII of
at most 100 bytes, so no extension header is ever needed.
"""

from __future__ import annotations

import tarfile

from lorat.shards.errors import ShardCorrupt

__all__ = ["END_OF_ARCHIVE", "pack_members", "unpack_members"]

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)


def pack_members(members: list[tuple[str, bytes]]) -> bytes:
    """Return headers, payloads and padding of the members, without the end of the archive.

    Raises:
        ValueError: if a name is not ASCII or is longer than 100 bytes.
    """
    parts: list[bytes] = []
    for name, payload in members:
        if len(name) > 100 or not name.isascii():
            raise ValueError(f"tar member name must be ASCII of at most 100 bytes: {name!r}")
        info = tarfile.TarInfo(name)
        info.size = len(payload)
        info.mode = 0o444
        parts += [info.tobuf(tarfile.USTAR_FORMAT), payload, bytes(-len(payload) % BLOCK)]
    return b"".join(parts)


def unpack_members(raw: bytes, where: str) -> list[tuple[str, bytes]]:
    """Return (name, payload) of the members in `raw`.

    Raises:
        ShardCorrupt: if a header is damaged or is no plain file's.
    """
    members: list[tuple[str, bytes]] = []
    at = 0
    while at < len(raw):
        try:
            info = tarfile.TarInfo.frombuf(raw[at : at + BLOCK], "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise ShardCorrupt(f"{where}: damaged tar header at byte {at} ({error})") from None
        end = at + BLOCK + info.size
        if not info.isreg() or end > len(raw):
            raise ShardCorrupt(f"{where}: member {info.name!r} at byte {at} is no whole file")
        members.append((info.name, raw[at + BLOCK : end]))
        at = end + -info.size % BLOCK
    return members
