"""Stored samples to look at: found by their key or picked, and drawn with their boxes.

Pictures show what is stored: frame pixels, the window that was cut, the object's box. How training crops from it is
drawn by ``lorat-train``.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import Location, atomic_file
from lorat.shards.manifest import Manifest
from lorat.shards.pixels.jpeg import decode
from lorat.shards.reader import ShardReader, read_index
from lorat.shards.rng import Draws
from lorat.shards.sample import PairSample, StoredImage, sample_key

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""
_BOX, _INK, _PAPER = (80, 255, 80), (0, 0, 0), (255, 255, 255)
_COLUMNS = 3  # of a sheet
_HEIGHT, _WIDTHS = 195, (154, 272)  # pixels for a tile's images: templates are squares
_LEAST = 220  # pixels that a sample's images are enlarged to, where they are smaller
_LONGEST_NAME = 46  # characters of a sequence's name on a tile


@dataclass(frozen=True, slots=True)
class Found:
    """A sample and where it lies."""

    sample: PairSample
    shard: Location
    row: int
    entry: np.void
    """Its row of the index."""


def find_sample(manifests: Sequence[Manifest], key: str) -> Found:
    """Return the sample with a key, such as ``lasot-train-000000123``.

    Raises:
        UserError: if no set has it; the message says why as far as receipts tell.
        ShardCorrupt: if its shard is damaged.
    """
    name, _, digits = key.rpartition("-")
    manifest = next((each for each in manifests if each.name == name), None)
    if manifest is None or not digits.isdecimal():
        known = ", ".join(manifest.name for manifest in manifests)
        example = sample_key(manifests[0].dataset, manifests[0].split, 0)
        raise UserError(f"--key {key}: no such sample; sets: {known}; write it like {example}")
    pair = int(digits)
    receipt = next((each for each in manifest.shards if pair in each.pairs), None)
    if receipt is None:
        pairs = sum(receipt.drawn for receipt in manifest.shards)
        raise UserError(f"--key {key}: {manifest.folder} has pairs 0 to {pairs - 1}")
    shard = manifest.folder / receipt.shard
    wanted = sample_key(manifest.dataset, manifest.split, pair)
    # Skipped pairs leave no row, so a pair's row is its place in the shard or before it.
    most = min(receipt.rows, pair - receipt.first_pair + 1)
    fewest = max(0, most - 1 - (receipt.drawn - receipt.rows))
    with closing(ShardReader(shard)) as reader:
        row = bisect_left(range(most), wanted, fewest, key=lambda row: reader.read(row).key)
        if row == most or reader.read(row).key != wanted:
            reasons = "; ".join(receipt.skipped) or "unknown"
            raise UserError(f"--key {key}: was drawn but not stored; {shard} skipped: {reasons}")
    return _load(shard, row)


def pick_samples(manifests: Sequence[Manifest], number: int, seed: int) -> list[Found]:
    """Return samples drawn at random, as many of each set, in the order of sets and rows."""
    turns = []
    for n, each in enumerate(manifests):
        order = Draws("inspect", seed, each.name).permutation(each.rows)[:number].tolist()
        turns += [(turn, n, place) for turn, place in enumerate(order)]
    found = []
    for n, place in sorted((n, place) for _, n, place in sorted(turns)[:number]):
        for receipt in manifests[n].shards:
            if place < receipt.rows:
                found.append(_load(manifests[n].folder / receipt.shard, place))
                break
            place -= receipt.rows
    return found


def _load(shard: Location, row: int) -> Found:
    with closing(ShardReader(shard)) as reader:
        return Found(reader.read(row), shard, row, read_index(shard)[row])


def draw_sheet(found: Sequence[Found], path: Location) -> None:
    """Write a contact sheet as PNG: template and search image of each sample as stored.

    Raises:
        UserError: if a stored image does not decode, or the file cannot be written.
    """
    columns = min(_COLUMNS, len(found))
    tiles = [_tile(one.sample) for one in found]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[n : n + columns]) for n in range(0, len(tiles), columns)]
    _save(np.vstack(rows), path)


def draw_sample(found: Found, path: Location) -> None:
    """Write one sample as PNG: both images at full size, on axes of the frame's own pixels."""
    sample = found.sample
    panels = [_panel(sample, "template"), _panel(sample, "search")]
    height = max(len(panel) for panel in panels)
    panels = [_framed(panel, bottom=height - len(panel)) for panel in panels]
    picture = _framed(np.hstack(panels), top=40)
    _write(picture, 15, 17, f"{sample.key}   {sample.sequence}", 0.45, bold=True)
    _write(picture, 15, 34, "axes: pixels of the original frame", 0.35)
    _save(picture, path)


def _tile(sample: PairSample) -> Picture:
    name, template, search = sample.sequence, sample.template, sample.search
    images = []
    for image, width in zip((template, search), _WIDTHS, strict=True):
        scale = min(width / image.size[0], _HEIGHT / image.size[1])
        picture = _drawn(image, scale, sample.key)
        height, used = picture.shape[:2]
        images.append(_framed(picture, bottom=_HEIGHT - height, right=width - used + 11))
    tile = _framed(np.hstack(images), top=46, bottom=34, left=12)
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 3]}..."
    frames = f"frames {template.frame} and {search.frame} ({search.frame - template.frame:+d})"
    if template.frame == search.frame:
        frames = f"both frame {search.frame}"
    x1, y1, x2, y2 = search.box
    stored = " and ".join(f"{image.size[0]} x {image.size[1]}" for image in (template, search))
    frame = f"a frame of {search.frame_size[0]} x {search.frame_size[1]}"
    _write(tile, 12, 19, sample.key, 0.42, bold=True)
    _write(tile, 12, 37, f"{name}, {frames}", 0.38)
    text = f"object {x2 - x1:.0f} x {y2 - y1:.0f} in {frame}; stored {stored}"
    _write(tile, 12, 46 + _HEIGHT + 17, text, 0.35)
    return tile


def _panel(sample: PairSample, role: Literal["template", "search"]) -> Picture:
    """Return a stored image of its full size with a title and axes of the frame's pixels."""
    image: StoredImage = getattr(sample, role)
    scale = min(max(_LEAST, side) / side for side in image.size)
    picture = _drawn(image, scale, f"{sample.key} {role}")
    left, top = 60, 25
    right, bottom = left + picture.shape[1], top + picture.shape[0]
    panel = _framed(picture, top=top, bottom=30, left=left, right=20)
    _write(panel, left, 16, f"{role}: frame {image.frame}", 0.4)
    for axis, pixels in enumerate((right - left, bottom - top)):
        for value, at in _ticks(image.origin[axis], image.window[axis], pixels):
            x, y = (left, top + at) if axis else (left + at, bottom)
            cv2.line(panel, (x, y), (x - 4, y) if axis else (x, y + 4), _INK)
            width = 8 * len(str(value))
            place = (x - 9 - width, y + 4) if axis else (x - width // 2, y + 18)
            _write(panel, *place, str(value), 0.38)
    return panel


def _ticks(low: int, high: int, pixels: int) -> Iterator[tuple[int, int]]:
    """Yield round numbers from `low` to `high` and where they lie on so many pixels."""
    steps = (step * 10**power for power in range(6) for step in (1, 2, 5))
    step = next(s for s in steps if s * pixels >= 40 * (high - low))
    for value in range(-(-low // step) * step, high + 1, step):
        yield value, round((value - low) * pixels / (high - low))


def _drawn(image: StoredImage, scale: float, name: str) -> Picture:
    """Return a stored image with its box, resized; errors call it `name`."""
    size = [max(1, round(side * scale)) for side in image.size]
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = cv2.resize(decode(image.jpeg, name), size, interpolation=way)
    window = np.subtract(image.window, image.origin)
    corners = np.subtract(np.reshape(image.box, (2, 2)), image.origin) * size / window
    first, last = np.rint(corners).astype(int).tolist()
    for colour, width in ((_INK, 4), (_BOX, 2)):
        cv2.rectangle(picture, first, last, colour, width)
    return picture


def _framed(picture: Picture, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Picture:
    sides = (top, bottom, left, right)
    return cv2.copyMakeBorder(picture, *sides, cv2.BORDER_CONSTANT, value=_PAPER)


def _write(picture: Picture, x: int, y: int, text: str, size: float, *, bold: bool = False) -> None:
    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, 2 if bold else 1
    cv2.putText(picture, text, (x, y), font, size, _INK, thickness, cv2.LINE_AA)


def _save(picture: Picture, path: Location) -> None:
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with atomic_file(path) as file:
        file.write(data.tobytes())
