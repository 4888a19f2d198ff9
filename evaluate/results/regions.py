"""Regions of VOT's toolkit as pixels: its annotations and trajectories, as text and in its binary form.

A trajectory has a region a frame; results have a code in place of the first, where the object was given.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.regions import box_around, parse_mask
from lorat.prep.trees.base.text import is_number, read_text, shorten
from lorat.shards.base.disk import explain_reading
from lorat.shards.base.errors import UserError

STARTED, LOST = 1, 2  # codes in results; in annotations any code says that there is no region
_REMEDY = "correct it or track the sequence again"
_HEAD, _VERSION = struct.Struct("<hI"), 1


class Region(NamedTuple):
    """Pixels of a frame, or a code in place of them."""

    x: int  # column of the window's first pixel
    y: int  # row
    pixels: NDArray[np.bool_]  # (h, w) window
    code: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it has no pixel."""
        return not self.pixels.any()


def coded(code: int) -> Region:
    """Return a code without pixels."""
    return Region(0, 0, np.zeros((0, 0), np.bool_), code)


def rectangle(values: Sequence[float]) -> Region:
    """Return the pixels of x, y, w, h as the toolkit counts them: all four rounded, then w pixels from x on."""
    x, y, w, h = np.rint(values).astype(int).tolist()
    return Region(x, y, np.ones((max(h, 0), max(w, 0)), np.bool_))


def of_mask(mask: NDArray[np.bool_]) -> Region:
    """Return the pixels of an (H, W) mask."""
    x, y, w, h = np.nan_to_num(box_around(0, 0, mask)).astype(int).tolist()
    return Region(x, y, mask[y : y + h, x : x + w].copy())


def read_regions(path: Path) -> list[Region]:
    """Read an annotation or a trajectory, text or binary; a `UserError` names the line that is no region, or a polygon,
    whose pixels the toolkit's versions count differently.
    """
    if path.suffix == ".bin":
        with explain_reading(path):
            data = path.read_bytes()
        try:
            return list(_unpack(data, path))
        except struct.error:
            raise UserError(f"{path}: damaged (it ends too early); {_REMEDY}") from None
    lines = read_text(path, _REMEDY).splitlines()
    return [_parse(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1)]


def trajectory_file(folder: Path, name: str) -> Path | None:
    """Return the toolkit's trajectory of an object in a sequence's folder, of the first run; None where it is not."""
    return next((file for suffix in (".bin", ".txt") if (file := folder / f"{name}_001{suffix}").is_file()), None)


def _parse(line: str, source: str) -> Region:
    if (mask := parse_mask(line)) is not None:
        return Region(*mask)
    fields = line.replace(",", " ").split()
    if not fields or not all(map(is_number, fields)) or len(fields) not in (1, 4):
        what = "a polygon" if len(fields) > 4 and all(map(is_number, fields)) else shorten(line)
        raise UserError(f"{source}: expected a mask, a box or a code, found {what}; {_REMEDY}")
    values = [float(field) for field in fields]
    if not np.isfinite(values).all():
        return coded(0)
    return coded(int(values[0])) if len(values) == 1 else rectangle(values)


def _unpack(data: bytes, path: Path) -> Iterator[Region]:
    """Yield the regions of the binary form: version and number, then each with a byte for its kind."""
    version, count = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise UserError(f"{path}: version {version} of the toolkit's binary form, not {_VERSION}; {_REMEDY}")
    at = _HEAD.size

    def take(form: str) -> tuple[int | float, ...]:
        nonlocal at
        values = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return values

    for number in range(1, count + 1):
        (kind,) = take("B")
        if kind == 0:
            yield coded(int(take("I")[0]))
        elif kind == 1:
            yield rectangle(take("4f"))
        elif kind == 3:
            x, y, width, height, length = map(int, take("hhHHH"))
            filled = np.repeat(np.arange(length) % 2 == 1, np.array(take(f"{length}H"), np.int64))[: width * height]
            yield Region(x, y, np.pad(filled, (0, width * height - len(filled))).reshape(height, width))
        else:
            what = "a polygon" if kind == 2 else f"a region of kind {kind}"
            raise UserError(f"{path}: region {number}: expected a mask, a box or a code, found {what}; {_REMEDY}")
