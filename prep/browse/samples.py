"""Stored samples to look at: found by their key or picked, and drawn with their boxes.

Pictures show what is stored: frame pixels, the window that was cut, the object's box. How training
crops from it is drawn by ``lorat-train``.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.patheffects as effects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import Location, atomic_file
from lorat.shards.manifest import Manifest
from lorat.shards.pixels.jpeg import decode
from lorat.shards.reader import ShardReader, read_index
from lorat.shards.rng import Draws
from lorat.shards.sample import PairSample, StoredImage, sample_key

__all__ = ["Found", "draw_sample", "draw_sheet", "find_sample", "pick_samples"]

_BOX = "#50ff50"
_OUTLINE: list[effects.AbstractPathEffect] = [effects.withStroke(linewidth=2.8, foreground="black")]
_COLUMNS = 3
_TILE = (4.6, 2.75)  # inches
_IMAGES = 1.95  # height of a tile's images, inches
_DPI = 100
_LONGEST_NAME = 46  # characters of a sequence's name on a tile


@dataclass(frozen=True, slots=True)
class Found:
    """A sample and where it lies."""

    sample: PairSample
    shard: Location
    row: int
    offset: int
    length: int
    """Compressed bytes."""
    raw_length: int
    """Bytes of its tar members."""


def find_sample(manifests: Sequence[Manifest], key: str) -> Found:
    """Return the sample with a key.

    Args:
        manifests: of the sets to look in.
        key: ``lasot-train-000000123``.

    Raises:
        UserError: if no set has it; the message says why as far as receipts tell.
        ShardCorrupt: if its shard is damaged.
    """
    name, _, digits = key.rpartition("-")
    chosen = [manifest for manifest in manifests if manifest.name == name]
    if not chosen or not digits.isdecimal():
        known = ", ".join(manifest.name for manifest in manifests)
        example = sample_key(manifests[0].dataset, manifests[0].split, 0)
        raise UserError(f"--key {key}: no such sample; sets: {known}; write it like {example}")
    manifest, pair = chosen[0], int(digits)
    for receipt in manifest.shards:
        if receipt.first_pair <= pair < receipt.first_pair + receipt.drawn:
            # Skipped pairs leave no row, so a pair's row is its place in the shard or before it.
            most = min(receipt.rows, pair - receipt.first_pair + 1)
            fewest = max(0, most - 1 - (receipt.drawn - receipt.rows))
            shard = manifest.folder / receipt.shard
            row = _search_row(
                shard, sample_key(manifest.dataset, manifest.split, pair), fewest, most
            )
            if row is not None:
                return _load(shard, row)
            reasons = "; ".join(receipt.skipped) or "unknown"
            raise UserError(f"--key {key}: was drawn but not stored; {shard} skipped: {reasons}")
    pairs = sum(receipt.drawn for receipt in manifest.shards)
    raise UserError(f"--key {key}: {manifest.folder} has pairs 0 to {pairs - 1}")


def pick_samples(manifests: Sequence[Manifest], number: int, seed: int) -> list[Found]:
    """Return samples drawn at random, as many of each set, in the order of sets and rows.

    Args:
        manifests: of the sets to draw from.
        number: of samples; fewer where the sets hold fewer.
        seed: other numbers draw other samples.
    """
    filled = [manifest for manifest in manifests if manifest.rows]
    shares = [0] * len(filled)
    while sum(shares) < min(number, sum(manifest.rows for manifest in filled)):
        left = [n for n, manifest in enumerate(filled) if shares[n] < manifest.rows]
        shares[min(left, key=lambda n: shares[n])] += 1
    found = []
    for manifest, share in zip(filled, shares, strict=True):
        order = Draws("inspect", seed, manifest.name).permutation(manifest.rows)
        for place in sorted(order[:share].tolist()):
            found.append(_load(*_at(manifest, place)))
    return found


def draw_sheet(found: Sequence[Found], path: Location) -> None:
    """Write a contact sheet as PNG: template and search image of each sample as stored.

    Raises:
        ImageError: if a stored image does not decode.
        UserError: if the file cannot be written.
    """
    columns = min(_COLUMNS, len(found))
    rows = -(-len(found) // columns)
    width, height = columns * _TILE[0], rows * _TILE[1]
    figure = Figure(figsize=(width, height), dpi=_DPI)
    for number, one in enumerate(found):
        row, column = divmod(number, columns)
        left, top = column * _TILE[0], height - row * _TILE[1]
        _draw_tile(figure, one, left, top)
    _save(figure, path)


def draw_sample(found: Found, path: Location) -> None:
    """Write one sample as PNG: both images at full size, on axes of the frame's own pixels.

    Raises:
        ImageError: if a stored image does not decode.
        UserError: if the file cannot be written.
    """
    sample = found.sample
    images = (sample.template, sample.search)
    widths = [max(2.2, image.size[0] / _DPI) for image in images]
    tallest = max(2.2, *(image.size[1] / _DPI for image in images))
    size = (sum(widths) + 1.9, tallest + 1.35)
    figure = Figure(figsize=size, dpi=_DPI)
    left = 0.65
    for role, image, width in zip(("template", "search"), images, widths, strict=True):
        shown = max(2.2, image.size[1] / _DPI)
        bottom = 0.45 + (tallest - shown) / 2
        axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], shown / size[1]))
        _draw_image(axes, image, f"{sample.key} {role}")
        axes.set_title(f"{role}: frame {image.frame}", fontsize=9)
        axes.tick_params(labelsize=7)
        left += width + 0.65
    _text(figure, 0.15, size[1] - 0.12, f"{sample.key}   {sample.sequence}", 10, "bold")
    _text(figure, 0.15, size[1] - 0.36, "axes: pixels of the original frame", 8)
    _save(figure, path)


def _draw_tile(figure: Figure, found: Found, left: float, top: float) -> None:
    sample = found.sample
    name = sample.sequence
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 1]}…"
    _text(figure, left + 0.12, top - 0.08, sample.key, 9, "bold")
    _text(figure, left + 0.12, top - 0.25, f"{name}, {_frames(sample)}", 8)
    bottom = top - 0.45 - _IMAGES
    space = _TILE[0] - 0.24 - 0.1
    # The narrow share suits templates, which are squares of two object sides.
    widths = (space * 0.36, space * 0.64)
    size = figure.get_size_inches()
    for role, image, width in (
        ("template", sample.template, widths[0]),
        ("search", sample.search, widths[1]),
    ):
        x = left + 0.12 + (0.0 if role == "template" else widths[0] + 0.1)
        axes = figure.add_axes((x / size[0], bottom / size[1], width / size[0], _IMAGES / size[1]))
        _draw_image(axes, image, f"{sample.key} {role}")
        axes.set_anchor("NW")
        axes.set_xticks([])
        axes.set_yticks([])
    _text(figure, left + 0.12, bottom - 0.05, _sizes(sample), 7.5)


def _frames(sample: PairSample) -> str:
    template, search = sample.template.frame, sample.search.frame
    if template == search:
        return f"both frame {search}"
    return f"frames {template} and {search} ({search - template:+d})"


def _sizes(sample: PairSample) -> str:
    x1, y1, x2, y2 = sample.search.box
    width, height = sample.search.frame_size
    images = [f"{i.size[0]} x {i.size[1]}" for i in (sample.template, sample.search)]
    return (
        f"object {x2 - x1:.0f} x {y2 - y1:.0f} in a frame of {width} x {height}; "
        f"stored {images[0]} and {images[1]}"
    )


def _draw_image(axes: Axes, image: StoredImage, name: str) -> None:
    """Show a stored image with its box, on axes of the frame's pixels."""
    extent = (image.origin[0], image.window[0], image.window[1], image.origin[1])
    axes.imshow(decode(image.jpeg, name), extent=extent, interpolation="antialiased")
    x1, y1, x2, y2 = image.box
    box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=_BOX, linewidth=1.2)
    box.set_path_effects(_OUTLINE)
    axes.add_patch(box)
    axes.set_xlim(extent[0], extent[1])
    axes.set_ylim(extent[2], extent[3])


def _text(
    figure: Figure, left: float, top: float, text: str, points: float, weight: str = "normal"
) -> None:
    """Write a line whose upper left corner lies at inches from the left and the bottom."""
    width, height = figure.get_size_inches()
    # parse_math: a sequence's name may hold dollar signs.
    figure.text(
        left / width,
        top / height,
        text,
        fontsize=points,
        weight=weight,
        va="top",
        parse_math=False,
    )


def _save(figure: Figure, path: Location) -> None:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    with atomic_file(path) as file:
        file.write(buffer.getvalue())


def _search_row(shard: Location, key: str, low: int, high: int) -> int | None:
    """Return the row of a key among rows low … high − 1, whose keys ascend."""
    reader = ShardReader(shard)
    try:
        while low < high:
            middle = (low + high) // 2
            found = reader.read(middle).key
            if found == key:
                return middle
            low, high = (middle + 1, high) if found < key else (low, middle)
        return None
    finally:
        reader.close()


def _at(manifest: Manifest, place: int) -> tuple[Location, int]:
    """Return shard and row of the `place`-th sample of a set."""
    for receipt in manifest.shards:
        if place < receipt.rows:
            return manifest.folder / receipt.shard, place
        place -= receipt.rows
    raise IndexError(f"{manifest.name} has {manifest.rows} samples")


def _load(shard: Location, row: int) -> Found:
    entry = read_index(shard)[row]
    reader = ShardReader(shard)
    try:
        sample = reader.read(row)
    finally:
        reader.close()
    values = (int(entry[name]) for name in ("offset", "length", "raw_length"))
    return Found(sample, shard, row, *values)
