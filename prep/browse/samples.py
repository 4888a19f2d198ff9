"""Stored samples to look at: found by their key or picked, and drawn with their boxes, as they are stored.

How training crops from them is drawn by ``lorat-train``.
"""

from bisect import bisect_left
from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import Location, atomic_file
from lorat.shards.manifest import Manifest
from lorat.shards.pixels.jpeg import decode
from lorat.shards.reader import ShardReader, read_index
from lorat.shards.rng import Draws
from lorat.shards.sample import Sample, StoredImage, sample_key

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""
_BOX, _INK, _PAPER = (80, 255, 80), (0, 0, 0), (255, 255, 255)
_IMAGES = 6  # of a sheet side by side, about; a tile is not torn
_HEIGHT, _WIDTHS = 195, (154, 272)  # pixels for a tile's images, templates and others: templates are squares
_LONGEST_NAME = 46  # characters of a sequence's name on a tile


class Found(NamedTuple):
    """A sample and where it lies; `entry` is its row of the index."""

    sample: Sample
    shard: Location
    row: int
    entry: np.void


def find_sample(manifests: Sequence[Manifest], key: str) -> Found:
    """Return the sample with a key, such as ``lasot-train-000000123``.
    A `UserError` if no set has it, which says why as far as receipts tell; `ShardCorrupt` if its shard is damaged.
    """
    name, _, digits = key.rpartition("-")
    manifest = next((each for each in manifests if each.name == name), None)
    if manifest is None or not digits.isdecimal():
        known = ", ".join(manifest.name for manifest in manifests)
        example = sample_key(manifests[0].dataset, manifests[0].split, 0)
        raise UserError(f"--key {key}: no such sample; sets: {known}; write it like {example}")
    pair = int(digits)
    if (receipt := next((each for each in manifest.shards if pair in each.pairs), None)) is None:
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


def draw_sheet(found: Sequence[Found], path: Location, zoom: int = 1) -> None:
    """Write a contact sheet as PNG: the images of each sample, fitted into fields `zoom` times as large. A `UserError`
    if a stored image does not decode, or the file cannot be written.
    """
    most = max(len(one.sample.images) for one in found)
    columns, tiles = min(max(1, _IMAGES // most), len(found)), [_tile(one.sample, zoom) for one in found]
    width = max(tile.shape[1] for tile in tiles)
    tiles = [_padded(tile, right=width - tile.shape[1]) for tile in tiles]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    sheet = np.vstack([np.hstack(tiles[n : n + columns]) for n in range(0, len(tiles), columns)])
    with atomic_file(path) as file:
        file.write(cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())


def _tile(sample: Sample, zoom: int) -> Picture:
    height, templates = _HEIGHT * zoom, len(sample.templates)
    widths = [_WIDTHS[number >= templates] * zoom for number in range(len(sample.images))]
    images = [_drawn(image, width, height, sample.key) for image, width in zip(sample.images, widths, strict=True)]
    tile = _padded(np.hstack(images), top=46, bottom=34, left=12)
    name = sample.sequence if len(sample.sequence) <= _LONGEST_NAME else f"{sample.sequence[: _LONGEST_NAME - 3]}..."
    search = sample.searches[-1]
    x1, y1, x2, y2 = search.box
    stored = " and ".join(f"{image.size[0]} x {image.size[1]}" for image in (sample.templates[-1], search))
    frame = f"a frame of {search.frame_size[0]} x {search.frame_size[1]}"
    text = f"object {x2 - x1:.0f} x {y2 - y1:.0f} in {frame}; stored {stored}"
    for line, y, size, width in (
        (sample.key, 19, 0.42, 2),
        (f"{name}, {frames_of(sample)}", 37, 0.38, 1),
        (text, 46 + height + 17, 0.35, 1),
    ):
        cv2.putText(tile, line, (12, y), cv2.FONT_HERSHEY_SIMPLEX, size, _INK, width, cv2.LINE_AA)
    return tile


def frames_of(sample: Sample) -> str:
    """Say which frames a sample has, and how far the last search frame is from the last template's."""
    templates, searches = ([image.frame for image in images] for images in (sample.templates, sample.searches))
    if len({*templates, *searches}) == 1:
        return f"{'both' if len(sample.images) == 2 else 'all'} frame {templates[0]}"
    listed = " and ".join(", ".join(map(str, frames)) for frames in (templates, searches))
    return f"frames {listed} ({searches[-1] - templates[-1]:+d})"


def _padded(picture: Picture, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Picture:
    return cv2.copyMakeBorder(picture, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_PAPER)


def _drawn(image: StoredImage, width: int, height: int, name: str) -> Picture:
    """Return a stored image with its box, fitted into a field of (`width`, `height`); errors call it `name`."""
    scale = min(width / image.size[0], height / image.size[1])
    size, how = [max(1, round(side * scale)) for side in image.size], cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = cv2.resize(decode(image.jpeg, name), size, interpolation=how)
    corners = np.subtract(np.reshape(image.box, (2, 2)), image.origin) * size / np.subtract(image.window, image.origin)
    first, last = np.rint(corners).astype(int).tolist()
    for colour, thickness in ((_INK, 4), (_BOX, 2)):
        cv2.rectangle(picture, first, last, colour, thickness)
    return _padded(picture, bottom=height - size[1], right=width - size[0] + 11)
