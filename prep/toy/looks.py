"""What the toy world's objects and grounds look like: sprites with an exact outline, from which boxes come.

Promise: a look is a pure function of (seed, object id, alike); no two ids share a stream of draws. `alike` 0 is the
object itself; another number is a look-alike of the same colours and kind of texture, with another shape (odd numbers)
or the same shape and another texture (even). Unit coordinates: the object fills [-1, 1] × [-1, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.shards.rng import Draws

SHAPES = ("ellipse", "slab", "polygon", "star", "cross", "blob", "creature", "cart")
_TEXTURES = ("striped", "checked", "spotted", "mottled", "shaded", "ringed", "two-tone")
_HUES = {
    "red": (0.86, 0.12, 0.12),
    "orange": (0.95, 0.55, 0.10),
    "yellow": (0.95, 0.88, 0.16),
    "green": (0.13, 0.68, 0.22),
    "cyan": (0.10, 0.78, 0.80),
    "blue": (0.14, 0.28, 0.88),
    "purple": (0.52, 0.18, 0.76),
    "pink": (0.95, 0.42, 0.68),
    "white": (0.95, 0.95, 0.95),
    "black": (0.07, 0.07, 0.09),
    "brown": (0.45, 0.26, 0.12),
}
_SPRITE, _SUPERSAMPLE = 192, 4
REACH = 92 / 192  # of a sprite's side, from its centre to the edge of the unit square; the rest is border
Image = NDArray[np.float32]
Points = NDArray[np.floating]
_XS = ((np.arange(_SPRITE) + 0.5 - _SPRITE / 2) / (_SPRITE * REACH)).astype(np.float32)[None, :]
_YS = _XS.T  # unit coordinates of a sprite's pixels, x as a row and y as a column


@dataclass(frozen=True, eq=False, slots=True)
class Look:
    """One object's appearance."""

    colour: str
    texture: str
    shape: str
    outline: Points  # (P, 2) the points of all parts, unit coordinates, each axis reaching exactly -1 and 1
    parts: tuple[Points, ...]  # The polygons whose union the object is
    levels: list[NDArray[np.uint8]]  # Sprites (S, S, 4), RGB premultiplied by alpha; each half as wide as the last

    def __str__(self) -> str:
        return f"a {self.colour} {self.texture} {self.shape}"


def make_look(seed: int, object_id: int, alike: int = 0) -> Look:
    """Return the look of an object of a world, or of its look-alike number `alike`."""
    own = Draws("toy look", seed, object_id)
    hues = [list(_HUES)[i] for i in own.permutation(len(_HUES))[:3]]
    colours = np.array([_HUES[hue] for hue in hues]) + (own.uniforms(9).reshape(3, 3) - 0.5) * 0.24
    texture = _TEXTURES[own.below(len(_TEXTURES))]
    shape, parts = _shape(Draws("toy shape", seed, object_id, alike if alike % 2 else 0))
    paint = Draws("toy texture", seed, object_id, alike)
    rgb = _paint(paint, texture, colours)
    return _look((hues[0], texture, shape), parts, rgb, rim=paint.uniform() < 0.4)


def make_occluder(draws: Draws) -> Look:
    """Return a plain dull bar or slab, which passes in front of objects and is never tracked."""
    colours = (draws.uniform(0.15, 0.75) + (draws.uniforms(6).reshape(2, 3) - 0.5) * 0.25).astype(np.float32)
    texture = ("mottled", "striped", "shaded")[draws.below(3)]
    rgb = _paint(draws, texture, np.concatenate([colours, colours[:1] * 0.7]))
    return _look(("grey", texture, "slab"), [_rounded(draws.uniform(0.0, 0.3))], rgb, rim=False)


def make_ground(draws: Draws, size: tuple[int, int], unit: float) -> NDArray[np.uint8]:
    """Return a textured ground, (height, width, 3) uint8 RGB; patterns scale with `unit` pixels."""
    vivid = draws.uniform(0.3, 0.7) if draws.uniform() < 0.2 else draws.uniform(0.05, 0.3)
    base = draws.uniforms(3) * 0.75 + 0.12
    colours = base + (draws.uniforms(9).reshape(3, 3) - 0.5) * draws.uniform(0.3, 0.8)
    colours = colours.mean(1, keepdims=True) * (1 - vivid) + colours * vivid
    colours = np.clip(colours, 0.03, 0.97).astype(np.float32)
    mix = _noise(draws, size, unit * draws.uniform(0.3, 1.2), 3 + draws.below(3))
    if draws.uniform() < 0.5:
        pattern = _pattern(draws, size, unit)
        share = np.float32(draws.uniform(0.2, 0.6))
        mix = mix * (1 - share) + pattern * share
    ramp = np.stack([np.interp(np.linspace(0, 2, 256), np.arange(3), column) for column in colours.T], 1)
    ground = np.rint(ramp * 255).astype(np.uint8)[np.minimum((mix * 255).astype(np.int32), 255)]
    # Shapes in the ground's own colours, so that edges alone mean little.
    for _ in range(draws.below(1 + int(size[0] * size[1] / (unit * unit)))):
        _, parts = _shape(draws)
        colour = colours[draws.below(3)] + np.float32(draws.uniform(-0.12, 0.12))
        centre = np.array([draws.uniform(0, extent) for extent in size])
        reach = unit * draws.uniform(0.06, 0.35)
        value = np.clip(colour * 255, 0, 255).astype(int).tolist()
        for part in parts:
            points = np.rint((centre + part * reach) * 16).astype(np.int32)
            cv2.fillPoly(ground, [points], value, cv2.LINE_AA, shift=4)
    return ground


def _noise(draws: Draws, size: tuple[int, int], cell: float, octaves: int) -> Image:
    """Return smooth noise in [0, 1], (height, width): grids, each half as coarse as the last."""
    total = np.zeros(size[::-1], np.float32)
    weight, weights = 1.0, 0.0
    for _ in range(octaves):
        columns, rows = (int(extent / cell) + 2 for extent in size)
        grid = draws.uniforms(columns * rows).astype(np.float32).reshape(rows, columns)
        total += np.float32(weight) * cv2.resize(grid, size, interpolation=cv2.INTER_LINEAR)
        weights += weight
        weight, cell = weight * 0.6, max(cell / 2, 2.0)
    return np.clip((total / np.float32(weights) - 0.5) * np.float32(1.8) + 0.5, 0, 1)


def _pattern(draws: Draws, size: tuple[int, int], unit: float) -> Image:
    """Return boards, tiles or bricks, 0 or 1."""
    xs = np.arange(size[0], dtype=np.float32)[None, :]
    ys = np.arange(size[1], dtype=np.float32)[:, None]
    step = np.float32(unit * draws.uniform(0.12, 0.6))
    along, across = _turned(xs, ys, draws.uniform(0, np.pi))
    kind = draws.below(3)
    if kind == 0:
        return ((along / step) % 1.0 < draws.uniform(0.3, 0.7)).astype(np.float32)
    if kind == 1:
        return ((np.floor(along / step) + np.floor(across / step)) % 2).astype(np.float32)
    shifted = (along / (step * 2) + 0.5 * (np.floor(across / step) % 2)) % 1.0  # every other row by half a brick
    return ((shifted > np.float32(0.06)) & ((across / step) % 1.0 > np.float32(0.12))).astype(np.float32)


def _paint(draws: Draws, texture: str, colours: NDArray[np.floating]) -> Image:
    """Colour a texture, add an emblem in the third colour and light from one side: (S, S, 3) RGB in [0, 1]."""
    colours = np.clip(colours, 0, 1).astype(np.float32)
    mix = _texture(draws, texture)[..., None]
    rgb = colours[0] * (1 - mix) + colours[1] * mix
    if draws.uniform() < 0.6:
        at = draws.uniforms(2) * 0.9 - 0.45
        dx, dy, radius = _XS - at[0], _YS - at[1], draws.uniform(0.18, 0.4)
        emblem = dx**2 + dy**2 < radius * radius
        if draws.uniform() < 0.5:
            emblem = (np.abs(dx) < radius) & (np.abs(dy) < radius * 0.5)
        rgb[emblem] = colours[2]
    slope = ((draws.uniforms(2) - 0.5) * 0.5).astype(np.float32)
    light = 1 + _XS * slope[0] + _YS * slope[1]
    return np.clip(rgb * light[..., None], 0, 1)


def _look(names: tuple[str, str, str], parts: Sequence[Points], rgb: Image, *, rim: bool) -> Look:
    """Cut a painted square into a shape, which is made to fill the unit square."""
    points = np.concatenate(parts)
    low, high = points.min(0), points.max(0)
    parts = tuple((part - (low + high) / 2) / ((high - low) / 2) for part in parts)
    mask = np.zeros((_SPRITE * _SUPERSAMPLE, _SPRITE * _SUPERSAMPLE), np.uint8)
    for part in parts:
        # fillPoly's coordinates name pixel centres, hence the half.
        at = (_SPRITE / 2 + part * (_SPRITE * REACH)) * _SUPERSAMPLE - 0.5
        cv2.fillPoly(mask, [np.rint(at * 16).astype(np.int32)], 255, shift=4)
    alpha = cv2.resize(mask, (_SPRITE, _SPRITE), interpolation=cv2.INTER_AREA)
    if rim:
        inner = cv2.erode(alpha, np.ones((9, 9), np.uint8))
        rgb = np.where((inner < 128)[..., None], rgb * np.float32(0.3), rgb)
    share = alpha.astype(np.float32)[..., None]
    levels = [np.rint(np.concatenate([rgb * share, share], axis=2)).astype(np.uint8)]
    for side in (96, 48, 24):
        levels.append(cv2.resize(levels[-1], (side, side), interpolation=cv2.INTER_AREA))
    return Look(*names, np.concatenate(parts), parts, levels)


def _shape(draws: Draws) -> tuple[str, list[Points]]:
    """Draw one of `SHAPES`: its name and its polygons, in any units."""
    name = SHAPES[draws.below(len(SHAPES))]
    angles: Points
    match name:
        case "ellipse":
            parts = [_disc(0, 0, 1)]
        case "slab":
            parts = [_rounded(draws.uniform(0.05, 0.6))]
        case "polygon":
            corners = 3 + draws.below(5)
            angles = (np.arange(corners) + draws.uniforms(corners) * 0.5) * (2 * np.pi / corners)
            parts = [_ring(angles + draws.uniform(0, np.pi), 1.0)]
        case "star":
            arms = 4 + draws.below(5)
            angles = np.arange(2 * arms) * (np.pi / arms) + draws.uniform(0, np.pi)
            parts = [_ring(angles, np.tile([1.0, draws.uniform(0.4, 0.7)], arms))]
        case "cross":
            bar = draws.uniform(0.3, 0.5)
            square = _rounded(draws.uniform(0.0, 0.3))
            parts = [square * (1, bar), square * (bar, 1)]
        case "blob":
            angles, radii = np.arange(64) * (2 * np.pi / 64), np.ones(64)
            for wave in range(2, 6):
                size = draws.uniform(0.05, 0.45 / wave)
                radii += size * np.cos(wave * angles + draws.uniform(0, 6.28))
            parts = [_ring(angles, radii)]
        case "creature":  # a body, a head and two to four limbs, all overlapping the body
            parts = [_disc(0, 0, 1) * (draws.uniform(0.55, 0.8), 0.9), _disc(0, -1.0, draws.uniform(0.35, 0.55))]
            for side in (-0.8, 0.8):
                for height in (-0.2, 0.55)[: 1 + draws.below(2)]:
                    limb = _rounded(0.8) * (0.45, draws.uniform(0.15, 0.28))
                    parts.append(np.add(limb, (side, height)))
        case _:  # a cart: a box with a cabin and two wheels
            cabin = _rounded(0.3) * (draws.uniform(0.35, 0.6), 0.4)
            cabin = np.add(cabin, (draws.uniform(-0.4, 0.4), -0.55))
            wheel = draws.uniform(0.22, 0.34)
            parts = [_rounded(0.2) * (1.0, 0.4), cabin, _disc(-0.55, 0.45, wheel), _disc(0.55, 0.45, wheel)]
    return name, parts


def _ring(angles: Points, radii: Points | float) -> Points:
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], 1)


def _disc(x: float, y: float, radius: float) -> Points:
    return np.add(_ring(np.arange(48) * (2 * np.pi / 48), radius), (x, y))


def _rounded(corner: float) -> Points:
    """Return a square of half side 1 whose corners are arcs of radius `corner`."""
    angles = (np.arange(4)[:, None] + np.arange(9) / 8) * (np.pi / 2)
    corners = np.repeat([(1, 1), (-1, 1), (-1, -1), (1, -1)], 9, axis=0)
    return _ring(angles.ravel(), corner) + corners * (1 - corner)


def _texture(draws: Draws, kind: str) -> Image:
    """Return one of `_TEXTURES`: (S, S) in [0, 1], the second colour's share of each pixel."""
    if kind == "mottled":
        field = _noise(draws, (_SPRITE, _SPRITE), draws.uniform(30, 70), 3)
        return (field > 0.5).astype(np.float32) if draws.uniform() < 0.5 else field
    if kind == "ringed":
        at = (draws.uniforms(2) * 0.8 - 0.4).astype(np.float32)
        distance = np.sqrt((_XS - at[0]) ** 2 + (_YS - at[1]) ** 2)
        return ((distance / np.float32(draws.uniform(0.3, 0.6))) % 1.0 < 0.5).astype(np.float32)
    along, across = _turned(_XS, _YS, draws.uniform(0, np.pi))
    shift = draws.uniforms(2).astype(np.float32) * 2
    along, across = along + shift[0], across + shift[1]
    match kind:
        case "striped":
            period = np.float32(draws.uniform(0.25, 0.7))
            mix = (along / period) % 1.0 < draws.uniform(0.35, 0.65)
        case "checked":
            step = np.float32(draws.uniform(0.28, 0.6))
            mix = (np.floor(along / step) + np.floor(across / step)) % 2
        case "spotted":
            step = np.float32(draws.uniform(0.35, 0.7))
            dx, dy = (along / step) % 1.0 - 0.5, (across / step) % 1.0 - 0.5
            radius = np.float32(draws.uniform(0.25, 0.42))
            mix = dx * dx + dy * dy < radius * radius
        case "shaded":
            mix = (along - along.min()) / (along.max() - along.min())
        case _:  # two-tone
            edge = draws.uniforms(2).astype(np.float32) * 0.6 + 0.7
            mix = (along > edge[0]) ^ (across > edge[1])
    return mix.astype(np.float32)


def _turned(xs: Image, ys: Image, turn: float) -> tuple[Image, Image]:
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return xs * cosine + ys * sine, ys * cosine - xs * sine
