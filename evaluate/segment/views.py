"""Crops that a mask network looks at, and its logits laid back onto the frame. Pure functions of boxes and numbers.

A view is a square of the frame that becomes one crop. As published, each object has its own, around its box. In a
shared view several objects are looked at together, none of them at less than half of its own view's scale.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorat.shards.pixels.geometry import CropTransform, clip_boxes, crop_transform, rasterise

Edges = Literal["interpolated", "published"]
Boxes = NDArray[np.float64]  # (N, 4) xyxy of positive size in frame pixels
_AREA_FACTOR = 2.0  # of a view around its box (published system)
_COARSEST = 2.0  # how many times an object's own view a shared one may be as wide
_MOST = 16  # objects in a view: the decoder's memory grows with them


class View(NamedTuple):
    """A square of the frame, and the objects that are looked for in it."""

    transform: CropTransform  # from frame to crop pixels
    members: tuple[int, ...]  # places of their boxes


def own_views(boxes: Boxes, side: int) -> list[View]:
    """Return each object's own view, a crop of `side` pixels a side, in their order."""
    return [View(crop_transform(box, _AREA_FACTOR, (side, side)), (place,)) for place, box in enumerate(boxes)]


def shared_views(boxes: Boxes, side: int) -> list[View]:
    """Return views that objects share where one square holds their own views and is at most twice as wide as the
    smallest of these. The widest come first, and each joins the first view in which it finds room; one that finds
    none keeps its own.
    """
    own, crop = own_views(boxes, side), np.array([0.0, 0.0, side, side])
    squares = [view.transform.invert(crop) for view in own]
    widths = [float(square[2] - square[0]) for square in squares]
    groups: list[list[int]] = []
    for place in sorted(range(len(squares)), key=lambda place: -widths[place]):
        room = (g for g in groups if len(g) < _MOST and _around(squares, [*g, place])[1] <= _COARSEST * widths[place])
        if (group := next(room, None)) is None:
            groups.append([place])
        else:
            group.append(place)
    views: list[View] = []
    for group in groups:
        if len(group) == 1:
            views.append(own[group[0]])
            continue
        (x, y), width = _around(squares, group)
        scale = side / width
        shift = (side * 0.5 - x * scale, side * 0.5 - y * scale)
        views.append(View(CropTransform((scale, scale), shift), tuple(sorted(group))))
    return views


def _around(squares: Sequence[NDArray[np.float64]], places: Sequence[int]) -> tuple[NDArray[np.float64], float]:
    """Return centre and width of the square around several."""
    corners = np.array([squares[place] for place in places])
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    return (low + high) * 0.5, float((high - low).max())


def prompts(boxes: Boxes, transform: CropTransform, side: int) -> NDArray[np.float64]:
    """Return the whole pixels, (N, 4) xyxy, that a frame's boxes touch in a crop of `side` pixels a side."""
    return clip_boxes(rasterise(transform.apply(boxes)), (side, side))


def mask_in_frame(
    logits: NDArray[np.float32], transform: CropTransform, side: int, size: tuple[int, int], edges: Edges
) -> NDArray[np.bool_]:
    """Return the (H, W) mask of a frame of `size` (width, height) from (L, L) logits over a crop of `side` pixels, to
    which `transform` leads. ``interpolated``: a pixel belongs to the object where the logits, interpolated linearly at
    its centre, are above 0. ``published``: the logits are cut at 0 first, and a pixel belongs to the object if one of
    the up to four cells around its centre does, so objects grow by about a cell's width.
    """
    cells = len(logits)
    ratio = cells / side  # cells a crop pixel
    # Beyond the middle of the outermost cells, published masks fade into nothing; logits stay as they are.
    values, reach = (logits > 0, 1.0) if edges == "published" else (logits, 0.5)
    padded = np.pad(values.astype(np.float32), 1, mode="constant" if edges == "published" else "edge")
    (first_x, x), (first_y, y) = (
        _positions(length, scale * ratio, shift * ratio, cells, reach)
        for length, scale, shift in zip(size, transform.scale, transform.translation, strict=True)
    )
    mask = np.zeros((size[1], size[0]), dtype=np.bool_)
    rows = _between(padded, y)
    inside = _between(np.ascontiguousarray(rows.T), x).T > 0
    mask[first_y : first_y + len(y), first_x : first_x + len(x)] = inside
    return mask


def _positions(length: int, scale: float, shift: float, cells: int, reach: float) -> tuple[int, NDArray[np.floating]]:
    """Return the first pixel of an axis whose centre lies within `reach` cells of the outermost cells' centres, and
    where these centres and those of the following pixels lie: 0 is the first cell's centre.
    """
    places = (np.arange(length) + 0.5) * scale + shift - 0.5
    within = np.flatnonzero((places > -reach) & (places < cells - 1 + reach))
    return (int(within[0]), places[within]) if len(within) else (0, places[:0])


def _between(rows: NDArray[np.float32], places: NDArray[np.floating]) -> NDArray[np.float32]:
    """Interpolate linearly between rows; `rows` has one more on either side than `places` counts."""
    below = np.floor(places).astype(np.int64)
    share = (places - below).astype(np.float32)[:, None]
    upper, lower = rows[below + 1], rows[below + 2]
    return upper + (lower - upper) * share
