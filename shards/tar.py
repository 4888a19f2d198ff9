"""USTAR members to bytes and back, for the few member kinds that shards hold.

The bytes depend on names and payloads alone: mtime 0, uid = gid = 0, mode 0444. Names are ASCII of at most 100 bytes,
so no extension header is ever needed.
"""

import tarfile
import zlib

from lorat.shards.base.errors import ShardCorrupt

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)
_NO_PREFIX = bytes(155)  # of a name longer than 100 bytes


def pack_members(members: list[tuple[str, bytes]]) -> bytes:
    """Return headers, payloads and padding of the members, without the end of the archive. A `ValueError` if a name is
    not ASCII or is longer than 100 bytes.
    """
    parts: list[bytes] = []
    for name, payload in members:
        if len(name) > 100 or not name.isascii():
            raise ValueError(f"tar member name must be ASCII of at most 100 bytes: {name!r}")
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(payload), 0o444
        parts += [info.tobuf(tarfile.USTAR_FORMAT), payload, bytes(-len(payload) % BLOCK)]
    return b"".join(parts)


def unpack_members(raw: bytes, where: str) -> list[tuple[str, bytes]]:
    """Return (name, payload) of members; a `ShardCorrupt` that begins with `where` if a header is not as written."""
    members, at = list[tuple[str, bytes]](), 0
    while at < len(raw):
        try:
            name, size = _parse_header(raw[at : at + BLOCK])
        except ValueError as error:
            raise ShardCorrupt(f"{where}: damaged tar header at byte {at} ({error})") from None
        end = at + BLOCK + size
        if end > len(raw):
            raise ShardCorrupt(f"{where}: member {name!r} at byte {at} is no whole file")
        members.append((name, raw[at + BLOCK : end]))
        at = end + -size % BLOCK
    return members


def _parse_header(header: bytes) -> tuple[str, int]:
    """Return the name and the size of a plain file as `pack_members` writes it; anything else is a `ValueError`. The
    standard library's parser takes ten times as long, a tenth of what reading a sample takes in all.
    """
    if len(header) != BLOCK or header[257:265] != b"ustar\x0000":
        raise ValueError("no USTAR header")
    # The sum of the bytes, of which the checksum field's own count as eight spaces. The low half of an Adler-32 is the
    # sum plus one (modulo 65,521), and takes no loop in Python.
    total = (zlib.adler32(header[:148]) + zlib.adler32(header[156:]) - 2 & 0xFFFF) + 8 * 32
    if header[148:156] != b"%06o\0 " % total:
        raise ValueError("bad checksum")
    if header[156:157] != b"0" or header[345:500] != _NO_PREFIX:
        raise ValueError("not a plain file with a short name")
    return header[:100].rstrip(b"\0").decode("ascii"), int(header[124:135], 8)
