"""Whether the boxes of a set look as if they were written otherwise than x, y, width, height in pixels.

Promise: no official annotation that we know is called odd, even of a few sequences alone. There, boxes that read as two
corners as well are few (15 % of COCO's), and hardly any has both sides below two pixels (1 in 1,000 of COCO's).
"""

from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.clip import Clip

_SIDE = 2.0  # pixels: no object is smaller on both sides
_SMALL = 0.05  # share of boxes below that
_FIT = 0.95  # share of boxes that would lie in the image as two corners
_BEYOND = 0.25  # share of boxes that reach beyond the image; when corners are read as sizes, about 0.7 do
_STEADY = 0.1  # or sides that vary with the place, as corners do: what is left of their variance without it
_STEADY_STILLS = 0.5  # the same of stills, compared with each other; no 12 of COCO's that fit have less
_STILLS = 12  # fewer are not compared
_AT_ONCE = 1 << 15  # rows that are counted together: a call of numpy for every track would take longer than reading


@dataclass(slots=True)
class _Spread:
    """How the sides of visible boxes vary, and how what is left of them without x and y does: sums of squares."""

    boxes: int = 0
    sides: float = 0.0  # of width and height about their mean
    steady: float = 0.0  # of width - x and height - y

    def as_corners(self, most: float) -> bool:
        """Return whether sides vary with the place, by a pixel at least."""
        return self.sides > self.boxes and self.steady < self.sides * most


@dataclass(slots=True)
class Notation:
    """The visible boxes of a set, as read, counted by what would be odd about them."""

    boxes: int = 0
    small: int = 0  # both sides below `_SIDE`
    unit: int = 0  # of these, no value is above 1
    beyond: int = 0  # reach beyond the right or lower border by more than a pixel
    corners: int = 0  # x, y and width, height would be corners of a box in the image
    moving: _Spread = field(default_factory=_Spread)  # about the mean of each track of several boxes
    _stills: list[NDArray[np.float64]] = field(default_factory=list)  # (k, 4) x, y, w, h of the other tracks
    where: str = ""  # the first sequence with a small box
    _waiting: list[tuple[Clip, tuple[float, float]]] = field(default_factory=list)
    _rows: int = 0  # of those

    def add(self, clip: Clip, size: tuple[int, int] | None) -> None:
        """Count a clip as its reader gave it; `size`: (width, height) of its frames; None: unknown, none is beyond."""
        self._waiting.append((clip, size or (np.inf, np.inf)))
        self._rows += len(clip.frames) * len(clip.tracks)
        if self._rows >= _AT_ONCE:
            self._count()

    def _count(self) -> None:
        """Count what is waiting."""
        if not self._waiting:
            return
        clips, limits = zip(*self._waiting, strict=True)
        self._waiting, self._rows = [], 0
        tracks = list(chain.from_iterable(clip.tracks for clip in clips))
        visible = np.concatenate([track.visible for track in tracks])
        x, y, w, h = np.concatenate([track.boxes for track in tracks])[visible].T.copy()
        owner = np.repeat(np.arange(len(tracks)), [len(track.visible) for track in tracks])[visible]
        of_clip = np.repeat(np.arange(len(clips)), [len(clip.tracks) for clip in clips])[owner]
        right, lower = (np.array(limits).T + 1.0)[:, of_clip]
        self.beyond += int(((w > right) | (h > lower)).sum())
        w -= x
        h -= y
        small = (w < _SIDE) & (h < _SIDE)
        if small.any():
            self.where = self.where or clips[of_clip[np.argmax(small)]].name
            self.unit += int((small & (abs(x) <= 1.0) & (abs(y) <= 1.0) & (w <= 1.0) & (h <= 1.0)).sum())
        self.boxes += len(x)
        self.small += int(small.sum())
        self.corners += int(((w > x) & (h > y) & (w <= right) & (h <= lower)).sum())
        first, counts = np.unique(owner, return_index=True, return_counts=True)[1:]
        several = np.repeat(counts > 1, counts)
        self.moving.boxes += int(several.sum())
        for sides, place in ((w, x), (h, y)):
            self.moving.sides += _about_means(sides, first, counts)
            self.moving.steady += _about_means(sides - place, first, counts)
        self._stills.append(np.stack([x, y, w, h], axis=1)[~several])

    def oddities(self) -> list[str]:
        """Return what looks odd about the set, a line each; nothing for boxes as they should be."""
        self._count()
        found, of = [], f"of {self.boxes:,} visible boxes"
        if self.small > self.boxes * _SMALL:
            unit = f"; no value of {self.unit:,} of them is above 1: normalised?" if self.unit else ""
            found.append(f"{self.small:,} {of} have both sides below two pixels, such as in {self.where}{unit}")
        elif self.corners > self.boxes * _FIT:
            stills = np.concatenate(self._stills)
            sides, steady = stills[:, 2:], stills[:, 2:] - stills[:, :2]
            still = _Spread(len(stills), *(float(v.var(0).sum() * len(v)) if len(v) else 0.0 for v in (sides, steady)))
            why = ""
            if self.beyond > self.boxes * _BEYOND:
                why = f"{self.beyond:,} {of} reach beyond the right or lower border"
            elif self.moving.as_corners(_STEADY) or (len(stills) >= _STILLS and still.as_corners(_STEADY_STILLS)):
                why = f"width and height grow and shrink with x and y in {self.boxes:,} visible boxes"
            if why:
                found.append(
                    f"{why}, {self.corners:,} would fit into the image as two corners: corners instead of sizes?"
                )
        return found


def _about_means(values: NDArray[np.float64], first: NDArray[np.int64], counts: NDArray[np.int64]) -> float:
    """Return the sum of squares of (N,) values about the means of groups of `counts`, which begin at `first`."""
    if not len(values):
        return 0.0
    return float(((values - np.repeat(np.add.reduceat(values, first) / counts, counts)) ** 2).sum())
