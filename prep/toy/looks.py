"""What the toy world's objects and grounds look like.

Promise: a look is a pure function of (seed, object id, alike); no two ids share a stream of draws.
`alike` 0 is the object itself; any other number is a look-alike: the same colours and kind of
texture, but another shape (odd numbers) or the same shape with another texture (even numbers).

A look is a sprite with an exact outline: polygons in unit coordinates, where the object fills
[-1, 1] × [-1, 1]. Whatever moves the sprite moves the outline too, so boxes come from geometry and
not from counting pixels. Nothing here promises to look like a photograph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.shards.rng import Draws

__all__ = ["SHAPES", "Look", "make_ground", "make_look", "make_occluder", "noise_field"]

_SPRITE = 192
_REACH = 92.0  # sprite pixels from the centre to the edge of the unit square; 4 are left as border
_SUPERSAMPLE = 4
_HUES = (
    ("red", (0.86, 0.12, 0.12)),
    ("orange", (0.95, 0.55, 0.10)),
    ("yellow", (0.95, 0.88, 0.16)),
    ("green", (0.13, 0.68, 0.22)),
    ("cyan", (0.10, 0.78, 0.80)),
    ("blue", (0.14, 0.28, 0.88)),
    ("purple", (0.52, 0.18, 0.76)),
    ("pink", (0.95, 0.42, 0.68)),
    ("white", (0.95, 0.95, 0.95)),
    ("black", (0.07, 0.07, 0.09)),
    ("brown", (0.45, 0.26, 0.12)),
)
Image = NDArray[np.float32]
Points = NDArray[np.floating]


@dataclass(frozen=True, eq=False, slots=True)
class Look:
    """One object's appearance."""

    colour: str
    texture: str
    shape: str
    outline: Points
    """(P, 2) the points of all parts, unit coordinates, each axis reaching exactly -1 and 1."""
    parts: tuple[Points, ...]
    """The polygons whose union the object is."""
    levels: tuple[NDArray[np.uint8], ...]
    """Sprites (S, S, 4), RGB premultiplied by alpha; each level has half the side of the last."""

    @staticmethod
    def reach(level: int) -> float:
        """Return how many pixels of a level's sprite one unit spans."""
        return _REACH / 2**level


def make_look(seed: int, object_id: int, alike: int = 0) -> Look:
    """Return the look of an object, or of one of its look-alikes.

    Args:
        seed: the toy world's seed.
        object_id: which object.
        alike: 0 for the object, k > 0 for its k-th look-alike.
    """
    own = Draws("toy look", seed, object_id)
    colours, colour = _palette(own)
    texture = tuple(_TEXTURES)[own.below(len(_TEXTURES))]
    shape_key = alike if alike % 2 else 0
    shape, parts = _shape(Draws("toy shape", seed, object_id, shape_key))
    paint = Draws("toy texture", seed, object_id, alike)
    rgb = _paint(paint, _TEXTURES[texture](paint), colours)
    return _look((colour, texture, shape), parts, rgb, paint.uniform() < 0.4)


def make_occluder(draws: Draws) -> Look:
    """Return a plain dull bar or slab, which passes in front of objects and is never tracked."""
    grey = draws.uniform(0.15, 0.75)
    tint = (draws.uniforms(6).reshape(2, 3) - 0.5) * 0.25
    colours = np.clip(grey + tint, 0, 1).astype(np.float32)
    colours = np.concatenate([colours, colours[:1] * 0.7])
    texture = ("mottled", "striped", "shaded")[draws.below(3)]
    rgb = _paint(draws, _TEXTURES[texture](draws), colours)
    corner = draws.uniform(0.0, 0.3)
    return _look(("grey", texture, "slab"), (_rounded(corner),), rgb, False)


def noise_field(draws: Draws, size: tuple[int, int], cell: float, octaves: int) -> Image:
    """Return smooth noise in [0, 1], (height, width) float32.

    Args:
        draws: where the random grids come from.
        size: (width, height) in pixels.
        cell: pixels between the grid points of the coarsest octave.
        octaves: how many grids are summed, each half as coarse and 0.6 as strong as the last.
    """
    width, height = size
    total = np.zeros((height, width), np.float32)
    weight, weights = 1.0, 0.0
    for _ in range(octaves):
        columns, rows = int(width / cell) + 2, int(height / cell) + 2
        grid = draws.uniforms(columns * rows).astype(np.float32).reshape(rows, columns)
        total += np.float32(weight) * cv2.resize(grid, size, interpolation=cv2.INTER_LINEAR)
        weights += weight
        weight, cell = weight * 0.6, max(cell / 2, 2.0)
    total /= np.float32(weights)
    return np.clip((total - 0.5) * np.float32(1.8) + 0.5, 0, 1)


def make_ground(draws: Draws, size: tuple[int, int], unit: float) -> NDArray[np.uint8]:
    """Return a textured ground, (height, width, 3) uint8 RGB.

    Args:
        draws: the scene's own stream.
        size: (width, height) in pixels.
        unit: the length in pixels that patterns scale with, such as a quarter of a frame's side.
    """
    vivid = draws.uniform(0.3, 0.7) if draws.uniform() < 0.2 else draws.uniform(0.05, 0.3)
    base = draws.uniforms(3) * 0.75 + 0.12
    colours = base + (draws.uniforms(9).reshape(3, 3) - 0.5) * draws.uniform(0.3, 0.8)
    colours = colours.mean(1, keepdims=True) * (1 - vivid) + colours * vivid
    colours = np.clip(colours, 0.03, 0.97).astype(np.float32)
    mix = noise_field(draws, size, unit * draws.uniform(0.3, 1.2), 3 + draws.below(3))
    if draws.uniform() < 0.5:
        pattern = _ground_pattern(draws, size, unit)
        share = np.float32(draws.uniform(0.2, 0.6))
        mix = mix * (1 - share) + pattern * share
    ramp = _ramp(colours, 256)
    ground = ramp[np.minimum((mix * 255).astype(np.int32), 255)]
    _clutter(draws, ground, unit, colours)
    return ground


def _ground_pattern(draws: Draws, size: tuple[int, int], unit: float) -> Image:
    width, height = size
    xs = np.arange(width, dtype=np.float32)[None, :]
    ys = np.arange(height, dtype=np.float32)[:, None]
    step = np.float32(unit * draws.uniform(0.12, 0.6))
    turn = draws.uniform(0, np.pi)
    along = xs * np.float32(np.cos(turn)) + ys * np.float32(np.sin(turn))
    across = ys * np.float32(np.cos(turn)) - xs * np.float32(np.sin(turn))
    kind = draws.below(3)
    if kind == 0:  # boards
        return ((along / step) % 1.0 < draws.uniform(0.3, 0.7)).astype(np.float32)
    if kind == 1:  # tiles
        return ((np.floor(along / step) + np.floor(across / step)) % 2).astype(np.float32)
    joint = np.float32(0.12)  # bricks: every other row is shifted by half a brick
    row = np.floor(across / step)
    shifted = (along / (step * 2) + 0.5 * (row % 2)) % 1.0
    return ((shifted > joint / 2) & ((across / step) % 1.0 > joint)).astype(np.float32)


def _clutter(draws: Draws, ground: NDArray[np.uint8], unit: float, colours: Image) -> None:
    """Paint shapes on the ground, in its own colours, so that edges alone mean little."""
    height, width = ground.shape[:2]
    count = draws.below(1 + int(width * height / (unit * unit)))
    for _ in range(count):
        _, parts = _shape(draws)
        colour = colours[draws.below(3)] + np.float32(draws.uniform(-0.12, 0.12))
        centre = np.array([draws.uniform(0, width), draws.uniform(0, height)])
        reach = unit * draws.uniform(0.06, 0.35)
        value = tuple(int(v) for v in np.clip(colour * 255, 0, 255))
        for part in parts:
            points = np.rint((centre + part * reach) * 16).astype(np.int32)
            cv2.fillPoly(ground, [points], value, cv2.LINE_AA, shift=4)


def _palette(draws: Draws) -> tuple[Image, str]:
    """Return three different colours (3, 3) in [0, 1] and the name of the first."""
    order = draws.permutation(len(_HUES))[:3]
    colours = np.array([_HUES[int(i)][1] for i in order])
    colours += (draws.uniforms(9).reshape(3, 3) - 0.5) * 0.24
    return np.clip(colours, 0, 1).astype(np.float32), _HUES[int(order[0])][0]


def _ramp(colours: Image, steps: int) -> NDArray[np.uint8]:
    """Return a table (steps, 3) that runs evenly through the colours."""
    at = np.linspace(0, len(colours) - 1, steps)
    table = [np.interp(at, np.arange(len(colours)), colours[:, c]) for c in range(3)]
    return np.rint(np.stack(table, 1) * 255).astype(np.uint8)


def _paint(draws: Draws, mix: Image, colours: Image) -> Image:
    """Colour a texture, add an emblem in the third colour and light from one side."""
    mix = mix[..., None]
    rgb = colours[0] * (1 - mix) + colours[1] * mix
    xs, ys = _grid()
    if draws.uniform() < 0.6:
        at = draws.uniforms(2) * 0.9 - 0.45
        radius = draws.uniform(0.18, 0.4)
        emblem = (xs - at[0]) ** 2 + (ys - at[1]) ** 2 < radius * radius
        if draws.uniform() < 0.5:
            emblem = (np.abs(xs - at[0]) < radius) & (np.abs(ys - at[1]) < radius * 0.5)
        rgb[emblem] = colours[2]
    slope = (draws.uniforms(2) - 0.5) * 0.5
    light = 1 + xs * np.float32(slope[0]) + ys * np.float32(slope[1])
    return np.clip(rgb * light[..., None], 0, 1)


def _look(names: tuple[str, str, str], parts: tuple[Points, ...], rgb: Image, rim: bool) -> Look:
    parts = _normalised(parts)
    side = _SPRITE * _SUPERSAMPLE
    mask = np.zeros((side, side), np.uint8)
    for part in parts:
        # fillPoly's coordinates name pixel centres, hence the half.
        at = (_SPRITE / 2 + part * _REACH) * _SUPERSAMPLE - 0.5
        cv2.fillPoly(mask, [np.rint(at * 16).astype(np.int32)], 255, shift=4)
    alpha = cv2.resize(mask, (_SPRITE, _SPRITE), interpolation=cv2.INTER_AREA)
    if rim:
        inner = cv2.erode(alpha, np.ones((9, 9), np.uint8))
        rgb = np.where((inner < 128)[..., None], rgb * np.float32(0.3), rgb)
    share = alpha.astype(np.float32)[..., None]
    sprite = np.concatenate([rgb * share, share], axis=2)
    levels = [np.rint(sprite).astype(np.uint8)]
    while levels[-1].shape[0] > 24:
        half = levels[-1].shape[0] // 2
        levels.append(cv2.resize(levels[-1], (half, half), interpolation=cv2.INTER_AREA))
    return Look(*names, np.concatenate(parts), parts, tuple(levels))


def _normalised(parts: tuple[Points, ...]) -> tuple[Points, ...]:
    points = np.concatenate(parts)
    low, high = points.min(0), points.max(0)
    return tuple((part - (low + high) / 2) / ((high - low) / 2) for part in parts)


# Shapes: tuples of polygons, in any units; `_normalised` makes them fill the unit square.


def _shape(draws: Draws) -> tuple[str, tuple[Points, ...]]:
    name = tuple(SHAPES)[draws.below(len(SHAPES))]
    return name, SHAPES[name](draws)


def _ring(angles: Points, radii: Points | float) -> Points:
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], 1)


def _moved(points: Points, x: float, y: float) -> Points:
    return points + np.array((x, y))


def _disc(x: float, y: float, radius: float) -> Points:
    return _moved(_ring(np.arange(48) * (2 * np.pi / 48), radius), x, y)


def _rounded(corner: float) -> Points:
    """Return a square of half side 1 whose corners are arcs of radius `corner`."""
    arcs = []
    for quarter, (x, y) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        angles = (quarter + np.arange(9) / 8) * (np.pi / 2)
        arcs.append(_moved(_ring(angles, corner), x * (1 - corner), y * (1 - corner)))
    return np.concatenate(arcs)


def _ellipse(draws: Draws) -> tuple[Points, ...]:
    return (_disc(0, 0, 1),)


def _slab(draws: Draws) -> tuple[Points, ...]:
    return (_rounded(draws.uniform(0.05, 0.6)),)


def _polygon(draws: Draws) -> tuple[Points, ...]:
    corners = 3 + draws.below(5)
    angles = (np.arange(corners) + draws.uniforms(corners) * 0.5) * (2 * np.pi / corners)
    return (_ring(angles + draws.uniform(0, np.pi), 1.0),)


def _star(draws: Draws) -> tuple[Points, ...]:
    arms = 4 + draws.below(5)
    angles = (np.arange(2 * arms)) * (np.pi / arms) + draws.uniform(0, np.pi)
    radii = np.where(np.arange(2 * arms) % 2 == 0, 1.0, draws.uniform(0.4, 0.7))
    return (_ring(angles, radii),)


def _cross(draws: Draws) -> tuple[Points, ...]:
    bar = draws.uniform(0.3, 0.5)
    square = _rounded(draws.uniform(0.0, 0.3))
    return (square * (1, bar), square * (bar, 1))


def _blob(draws: Draws) -> tuple[Points, ...]:
    angles = np.arange(64) * (2 * np.pi / 64)
    radii = np.ones(64)
    for wave in range(2, 6):
        radii += draws.uniform(0.05, 0.45 / wave) * np.cos(wave * angles + draws.uniform(0, 6.28))
    return (_ring(angles, radii),)


def _creature(draws: Draws) -> tuple[Points, ...]:
    """Return a body with a head and two to four limbs, all overlapping the body."""
    body = _disc(0, 0, 1) * (draws.uniform(0.55, 0.8), 0.9)
    head = _disc(0, -1.0, draws.uniform(0.35, 0.55))
    limbs = []
    for side in (-1, 1):
        for height in (0.0, 0.75)[: 1 + draws.below(2)]:
            limb = _rounded(0.8) * (0.45, draws.uniform(0.15, 0.28))
            limbs.append(_moved(limb, side * 0.8, height - 0.2))
    return (body, head, *limbs)


def _cart(draws: Draws) -> tuple[Points, ...]:
    """Return a box with a cabin and two wheels."""
    body = _rounded(0.2) * (1.0, 0.4)
    cabin = _rounded(0.3) * (draws.uniform(0.35, 0.6), 0.4)
    cabin = _moved(cabin, draws.uniform(-0.4, 0.4), -0.55)
    wheel = draws.uniform(0.22, 0.34)
    return (body, cabin, _disc(-0.55, 0.45, wheel), _disc(0.55, 0.45, wheel))


SHAPES: dict[str, Callable[[Draws], tuple[Points, ...]]] = {
    "ellipse": _ellipse,
    "slab": _slab,
    "polygon": _polygon,
    "star": _star,
    "cross": _cross,
    "blob": _blob,
    "creature": _creature,
    "cart": _cart,
}


# Textures: (S, S) float32 in [0, 1], how much of the second colour each pixel takes.


def _grid() -> tuple[Image, Image]:
    line = ((np.arange(_SPRITE) + 0.5 - _SPRITE / 2) / _REACH).astype(np.float32)
    return line[None, :], line[:, None]


def _turned(draws: Draws) -> tuple[Image, Image]:
    xs, ys = _grid()
    turn = draws.uniform(0, np.pi)
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    shift = draws.uniforms(2).astype(np.float32) * 2
    return xs * cosine + ys * sine + shift[0], ys * cosine - xs * sine + shift[1]


def _stripes(draws: Draws) -> Image:
    along, _ = _turned(draws)
    period = np.float32(draws.uniform(0.25, 0.7))
    return ((along / period) % 1.0 < draws.uniform(0.35, 0.65)).astype(np.float32)


def _checks(draws: Draws) -> Image:
    along, across = _turned(draws)
    step = np.float32(draws.uniform(0.28, 0.6))
    return ((np.floor(along / step) + np.floor(across / step)) % 2).astype(np.float32)


def _spots(draws: Draws) -> Image:
    along, across = _turned(draws)
    step = np.float32(draws.uniform(0.35, 0.7))
    dx, dy = (along / step) % 1.0 - 0.5, (across / step) % 1.0 - 0.5
    radius = np.float32(draws.uniform(0.25, 0.42))
    return (dx * dx + dy * dy < radius * radius).astype(np.float32)


def _noise(draws: Draws) -> Image:
    field = noise_field(draws, (_SPRITE, _SPRITE), draws.uniform(30, 70), 3)
    return (field > 0.5).astype(np.float32) if draws.uniform() < 0.5 else field


def _gradient(draws: Draws) -> Image:
    along, _ = _turned(draws)
    low, high = along.min(), along.max()
    return np.broadcast_to((along - low) / (high - low), (_SPRITE, _SPRITE)).astype(np.float32)


def _rings(draws: Draws) -> Image:
    xs, ys = _grid()
    at = (draws.uniforms(2) * 0.8 - 0.4).astype(np.float32)
    distance = np.sqrt((xs - at[0]) ** 2 + (ys - at[1]) ** 2)
    return ((distance / np.float32(draws.uniform(0.3, 0.6))) % 1.0 < 0.5).astype(np.float32)


def _halves(draws: Draws) -> Image:
    along, across = _turned(draws)
    shift = draws.uniforms(2).astype(np.float32) * 0.6 + 0.7
    return ((along > shift[0]) ^ (across > shift[1])).astype(np.float32)


_TEXTURES: dict[str, Callable[[Draws], Image]] = {
    "striped": _stripes,
    "checked": _checks,
    "spotted": _spots,
    "mottled": _noise,
    "shaded": _gradient,
    "ringed": _rings,
    "two-tone": _halves,
}
