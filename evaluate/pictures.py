"""Pictures for people: a frame with boxes and a line of text, or under a ruled grid, at a legible size; all RGB."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Box = NDArray[np.float64]  # (4,) xyxy in frame pixels

_PREDICTED, _TRUE = (255, 140, 0), (60, 220, 90)  # orange, green
_MASK = (90, 140, 255)  # blue
_OBJECTS = (_PREDICTED, (0, 190, 255), (240, 80, 180), (150, 230, 60), (255, 225, 60), (165, 125, 255), (255, 110, 90))
_GONE = (170, 170, 170)  # grey
_DASH, _CORNER = 7, 0.2  # picture pixels; of a side
_INK, _BAND = (235, 235, 235), (24, 24, 24)
_SIDES, _RULED_SIDES, _THUMBNAIL_SIDES = (640, 1280), (1000, 2400), (240, 320)  # ranges of the longer side
_BAND_HEIGHT = 34
_NARROWEST = 480  # a narrower picture is set between margins, or the line below would not fit
_RULER_MARGINS = (26, 54)  # above and on the left
_LABEL_ROOM = 50  # pixels from line to line
_FINER = 5  # faint lines between two with labels
_FONT, _FONT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.5
_SHIFT = 4  # OpenCV draws at 1/16 pixel


class Outline(NamedTuple):
    """An object's box in a picture, in the colour of its number from 1, with a word at its corner."""

    object: int
    box: Box
    word: str = ""
    line: Literal["whole", "dashed", "corners"] = "whole"  # corners are grey


def colour_of(number: int) -> tuple[int, int, int]:
    """Return an object's colour by its number, from 1."""
    return _OBJECTS[(number - 1) % len(_OBJECTS)]


def draw_objects(frame: Picture, outlines: Iterable[Outline], text: str) -> Picture:
    """Draw objects on a copy of a frame, which becomes as `draw_frame`'s."""
    picture, ratio = _legible(frame, _SIDES)
    draw_outlines(picture, [outline._replace(box=outline.box * ratio) for outline in outlines])
    margin = max(0, _NARROWEST - picture.shape[1]) // 2
    return _framed(picture, 0, margin, margin, text, legend=False)


def draw_outlines(picture: Picture, outlines: Iterable[Outline]) -> Picture:
    """Draw objects into a picture, and return it."""
    for number, box, word, line in outlines:
        colour = _GONE if line == "corners" else colour_of(number)
        _rectangle(picture, box, colour, line)
        if word and np.isfinite(box).all():
            (width, height), below = cv2.getTextSize(word, _FONT, _FONT_SIZE, 1)
            most = (max(0, picture.shape[1] - width - 4), picture.shape[0] - below - 2)
            x, y = np.clip(box[:2] - (1, below + 4), (0, height + 2), most).astype(int).tolist()
            cv2.rectangle(picture, (x, y - height - 2), (x + width + 4, y + below + 1), _BAND, cv2.FILLED)
            _write(picture, word, (x + 2, y), colour)
    return picture


def draw_frame(frame: Picture, predicted: Box, true: Box | None, text: str) -> Picture:
    """Draw boxes on a copy of a frame, enlarged or reduced to a legible size and even sides, and a line below it, which
    names the colours. `true` is None where the object is absent or its box is not known.
    """
    picture = draw_boxes(frame, predicted, true, _SIDES)
    margin = max(0, _NARROWEST - picture.shape[1]) // 2
    return _framed(picture, 0, margin, margin, text, legend=True)


def draw_boxes(frame: Picture, predicted: Box, true: Box | None, sides: tuple[int, int] = _THUMBNAIL_SIDES) -> Picture:
    """Draw boxes, as `draw_frame`, on a copy whose longer side is in a range, by default small."""
    picture, ratio = _legible(frame, sides)
    if true is not None:
        _rectangle(picture, true * ratio, _TRUE)
    _rectangle(picture, predicted * ratio, _PREDICTED)
    return picture


def tint(frame: Picture, mask: NDArray[np.bool_], colour: tuple[int, int, int] = _MASK) -> Picture:
    """Return a copy of a frame with the (H, W) pixels of a mask in colour, and their outline."""
    picture, tone = frame.copy(), np.array(colour, np.uint8)
    picture[mask] = picture[mask] // 2 + tone // 2
    ring = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    picture[ring > 0] = tone
    return picture


def draw_ruler(frame: Picture, boxes: Iterable[Box] = ()) -> Picture:
    """Draw a frame, and `boxes` of objects, under a grid that is labelled in the frame's pixels, to read boxes off."""
    height, width = frame.shape[:2]
    picture, ratio = _legible(frame, _RULED_SIDES)
    steps = [_grid_step(float(ratio[axis])) for axis in (0, 1)]
    if min(steps) >= _FINER:
        picture = _ruled(picture, ratio, [step // _FINER for step in steps], 0.12)
    picture = _ruled(picture, ratio, steps, 0.5)
    for number, box in enumerate(boxes, start=1):
        _rectangle(picture, box * ratio, colour_of(number))
    (top, left), text = _RULER_MARGINS, f"{width} x {height} pixels   --box left,top,width,height"
    picture = _framed(picture, top, left, max(0, _NARROWEST - left - picture.shape[1]), text, legend=False)
    for value in range(0, width, steps[0]):
        _write(picture, str(value), (left + int(value * ratio[0]), top - 8))
    for value in range(0, height, steps[1]):
        _write(picture, str(value), (8, top + int(value * ratio[1]) + 5))
    return picture


def _ruled(picture: Picture, ratio: Box, steps: list[int], strength: float) -> Picture:
    """Return a picture with lines every so many frame pixels in x and in y."""
    lines = picture.copy()
    for beside, tone in ((1, 0), (0, 255)):  # dark beside bright is seen on any ground
        for axis, across in ((0, lines.swapaxes(0, 1)), (1, lines)):
            places = (np.arange(0, len(across) / ratio[axis], steps[axis]) * ratio[axis]).astype(int) + beside
            across[np.minimum(places, len(across) - 1)] = tone
    return cv2.addWeighted(picture, 1 - strength, lines, strength, 0.0)


def _grid_step(ratio: float) -> int:
    """Return the least of 1, 2, 5, 10, … frame pixels that leaves room for labels."""
    steps = (factor * 10**power for power in range(6) for factor in (1, 2, 5))
    return next(step for step in steps if step * ratio >= _LABEL_ROOM)


def _legible(frame: Picture, sides: tuple[int, int]) -> tuple[Picture, Box]:
    """Return a copy with even sides, the longer in a range, and (4,) its scale in x, y, x, y."""
    height, width = frame.shape[:2]
    longer = max(height, width)
    scale = float(np.clip(longer, *sides)) / longer
    size = tuple(max(2, round(side * scale / 2) * 2) for side in (width, height))
    picture = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    return picture, np.array([size[0] / width, size[1] / height] * 2)


def _rectangle(picture: Picture, box: Box, colour: tuple[int, int, int], line: str = "whole") -> None:
    """Draw the outline of a box of positive size, dark below bright to stand out on any ground."""
    if not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        return
    corners = (box - 0.5)[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
    for tone, thickness in (((0, 0, 0), 4), (colour, 2)):
        for here, there in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            for part in _parts(float(np.abs(there - here).max()), line):
                ends = np.rint((here + np.outer(part, there - here)) * 2**_SHIFT).astype(int).tolist()
                cv2.line(picture, ends[0], ends[1], tone, thickness, cv2.LINE_AA, _SHIFT)


def _parts(length: float, line: str) -> list[tuple[float, float]]:
    """Return which parts of a side of so many pixels are drawn, from and to in fractions of it."""
    if line == "corners":
        return [(0.0, _CORNER), (1 - _CORNER, 1.0)]
    steps = max(1, 2 * round(length / _DASH / 2) - 1) if line == "dashed" else 1  # odd: both ends are drawn
    return [(step / steps, (step + 1) / steps) for step in range(0, steps, 2)]


def _framed(picture: Picture, top: int, left: int, right: int, text: str, legend: bool) -> Picture:
    """Set a picture between margins, with a line below and what the colours mean on its right."""
    framed = cv2.copyMakeBorder(picture, top, _BAND_HEIGHT, left, right, cv2.BORDER_CONSTANT, value=_BAND)
    baseline, end = framed.shape[0] - 12, framed.shape[1] - 10
    _write(framed, text, (10, baseline))
    for word, colour in (("true", _TRUE), ("predicted", _PREDICTED)) if legend else ():
        end -= cv2.getTextSize(word, _FONT, _FONT_SIZE, 1)[0][0]
        _write(framed, word, (end, baseline), colour)
        end -= 16
    return framed


def _write(picture: Picture, text: str, place: tuple[int, int], colour: tuple[int, int, int] = _INK) -> None:
    """Write text whose baseline begins at a place."""
    cv2.putText(picture, text, place, _FONT, _FONT_SIZE, colour, 1, cv2.LINE_AA)
