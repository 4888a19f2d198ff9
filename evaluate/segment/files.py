"""Masks as files, of one object through one sequence: a PNG a frame, or lines of JSON with COCO's run lengths.

``png``: a folder with a grey image a frame, named as the frame is, 255 on the object and 0 elsewhere. ``rle``: a file
``.jsonl`` with a line a frame, ``{"frame": …, "size": [height, width], "counts": "…"}``; ``counts`` is COCO's
compressed text, so that pycocotools takes a line as it is. Either appears when it is whole.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.shards.base.disk import explain_disk
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file
from lorat.shards.pixels.jpeg import read_image

Layout = Literal["png", "rle"]
Mask: TypeAlias = NDArray[np.bool_]  # (H, W)
Write = Callable[[str, Mask], None]  # of a frame by its name

_BITS, _MORE, _FIRST = 5, 1 << 5, ord("0")  # of a number in COCO's text; what says that it goes on; the text's zero


def place_of(stem: Path, layout: Layout) -> Path:
    """Return the folder or file of a sequence's masks by its path without an ending."""
    return stem if layout == "png" else stem.with_name(f"{stem.name}.jsonl")


@contextmanager
def mask_files(stem: Path, layout: Layout) -> Iterator[Write]:
    """Write a sequence's masks to `place_of` the stem, over older ones; they are there when the block ends, and not if
    it raises. A `UserError` if a folder of that name holds something else.
    """
    place = place_of(stem, layout)
    if layout == "rle":
        with atomic_file(place) as file:
            yield lambda name, mask: _add(file, name, mask)
        return
    if place.is_dir() and any(path.suffix != ".png" for path in place.iterdir()):
        raise UserError(f"{place}: holds other files than masks; move them, or name another place")
    partial = place.with_name(f".{place.name}.partial")
    with explain_disk(place):
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir(parents=True)

    def write(name: str, mask: Mask) -> None:
        with explain_disk(place):
            (partial / f"{name}.png").write_bytes(cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes())

    try:
        yield write
        with explain_disk(place):
            shutil.rmtree(place, ignore_errors=True)
            partial.replace(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_masks(stem: Path) -> Iterator[tuple[str, Mask]]:
    """Yield the name of each frame and its mask, in order; a `UserError` if there are none of either layout, or one is
    damaged.
    """
    if (folder := place_of(stem, "png")).is_dir():
        for path in sorted(folder.glob("*.png")):
            yield path.stem, read_image(path)[..., 0] > 0
    elif (file := place_of(stem, "rle")).is_file():
        with file.open() as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                    mask = from_rle(row["counts"], *row["size"])
                except (ValueError, KeyError, TypeError):
                    raise UserError(f"{file}: line {number} is no mask; make them again") from None
                yield row["frame"], mask
    else:
        raise UserError(f"{stem}: no masks there; make them with --segment")


def _add(file: BinaryIO, name: str, mask: Mask) -> None:
    row = {"frame": name, "size": mask.shape, "counts": to_rle(mask)}
    file.write(f"{json.dumps(row)}\n".encode())


def to_rle(mask: Mask) -> str:
    """Return COCO's compressed text of a mask: lengths of runs down its columns, of zeros first; from the fourth on the
    difference from the one before the last; each in groups of five bits, the lowest first.
    """
    flat = mask.T.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff([0, *[0] * int(flat[0]), *ends, len(flat)]).tolist()
    text = bytearray()
    for place, run in enumerate(runs):
        number, more = run - runs[place - 2] if place > 2 else run, True
        while more:
            group = number & (_MORE - 1)
            number >>= _BITS
            more = number != (-1 if group & (_MORE >> 1) else 0)
            text.append(_FIRST + group + more * _MORE)
    return text.decode("ascii")


def from_rle(text: str, height: int, width: int) -> Mask:
    """Return the (H, W) mask of COCO's compressed text."""
    runs, number, shift = list[int](), 0, 0
    for code in text.encode("ascii"):
        group = code - _FIRST
        number |= (group & (_MORE - 1)) << shift
        shift += _BITS
        if not group & _MORE:
            if group & (_MORE >> 1):
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
