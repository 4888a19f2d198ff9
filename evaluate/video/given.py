"""The boxes that are given: which object, from which frame on, and whether the numbers can mean what they say."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.video.footage import Place
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import clip_boxes, xywh_to_xyxy

_OUTSIDE = 0.25  # of a box, beyond which it is doubted
_SMALLEST = 2.0  # pixels of a side, below which it is doubted
_FORM = re.compile(r"((?P<object>\d+)@)?((?P<place>[^:@]+):)?(?P<numbers>[^:@]+)")


@dataclass(frozen=True, eq=False, slots=True)
class Given:
    """A box that an object begins with, or begins anew."""

    name: str  # the option and its value up to the numbers
    object: int  # from 1
    place: Place | None  # None is the first frame
    xywh: NDArray[np.float64]  # (4,)

    @classmethod
    def parse(cls, text: str, number: int | None = None) -> Self:
        """Read ``--box`` of the object of this number, ``[WHERE:]x,y,w,h``, or without one ``--restart``,
        ``[OBJECT@]WHERE:x,y,w,h``; else a `UserError`.
        """
        option, form = ("--box", "x,y,w,h") if number is not None else ("--restart", "FRAME:x,y,w,h")
        found = _FORM.fullmatch(text.strip())
        try:
            numbers = np.array(re.split(r"[\s,]+", found["numbers"].strip()) if found else [], dtype=np.float64)
        except ValueError:
            numbers = np.zeros(0)
        if numbers.shape != (4,) or not np.isfinite(numbers).all():
            raise UserError(f"{option} {text}: write four numbers {form} with commas between")
        if (numbers[2:] <= 0).any():
            raise UserError(f"{option} {text}: width and height, the last two, must be above 0")
        assert found is not None
        if number is not None and found["object"]:
            raise UserError(f"{option} {text}: objects are numbered as they are given; --restart takes one@frame")
        if number is None and not found["place"]:
            raise UserError(f"{option} {text}: name the frame at which it begins anew, {form}")
        place = Place.parse(found["place"], option) if found["place"] else None
        return cls(f"{option} {text[: found.start('numbers')]}", number or int(found["object"] or 1), place, numbers)

    @property
    def xyxy(self) -> NDArray[np.float64]:
        """The box as (4,) xyxy."""
        return xywh_to_xyxy(self.xywh)

    def __str__(self) -> str:
        """The option as it is typed."""
        return self._typed(self.xywh)

    def _typed(self, xywh: NDArray[np.float64]) -> str:
        return self.name + ",".join(f"{value:.6g}" for value in xywh)

    def doubts(self, size: tuple[int, int]) -> Iterator[str]:
        """Yield why the numbers hardly mean pixels of a frame of (width, height), and what to type instead."""
        if (self.xywh <= 1).all() and (self.xywh >= 0).all():
            pixels = self.xywh * (*size, *size)
            yield (
                f"{self}: all numbers are at most 1, but they are pixels; if these are fractions of the frame: "
                f"{self._typed(pixels)}, or with the centre first: {self._typed(_centred(pixels))}"
            )
        elif (self.xywh[2:] < _SMALLEST).any():
            yield f"{self}: a side is below {_SMALLEST:g} pixels; is it in pixels of the {size[0]}x{size[1]} frame?"
        outside = 1 - np.prod(np.diff(clip_boxes(self.xyxy, size).reshape(2, 2), axis=0)) / np.prod(self.xywh[2:])
        if outside > _OUTSIDE:
            said = f"{self}: {outside:.0%} of it lies outside the {size[0]}x{size[1]} frame"
            readings = {
                "if these are corners": np.concatenate([self.xywh[:2], self.xywh[2:] - self.xywh[:2]]),
                "if the centre comes first": _centred(self.xywh),
            }
            fitting = [f"{name}: {self._typed(xywh)}" for name, xywh in readings.items() if _inside(xywh, size)]
            yield "; ".join([said, *fitting] if fitting else [said, "give left, top, width and height in pixels"])


def _centred(xywh: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([xywh[:2] - xywh[2:] / 2, xywh[2:]])


def _inside(xywh: NDArray[np.float64], size: tuple[int, int]) -> bool:
    return bool((xywh[:2] >= 0).all() and (xywh[2:] > 0).all() and (xywh[:2] + xywh[2:] <= size).all())


def read_given(boxes: Sequence[str], restarts: Sequence[str]) -> list[Given]:
    """Read the values of ``--box``, an object each, and of ``--restart``; a `UserError` if one cannot be read."""
    given = [Given.parse(text, number) for number, text in enumerate(boxes, start=1)]
    for text in restarts:
        again = Given.parse(text)
        if again.object > max(len(given), 1):
            raise UserError(f"{again}: there are {len(boxes)} objects; number them as --box gives them, from 1")
        given.append(again)
    return given
