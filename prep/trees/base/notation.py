"""Whether the boxes of a set look as if they were written otherwise than x, y, width, height in pixels.

Promise: no official annotation that we know is called odd, even of a few sequences alone. There, boxes that read as two
corners as well are few (15 % of COCO's), and hardly any has both sides below two pixels (1 in 1,000 of COCO's).
"""

from dataclasses import dataclass

import numpy as np

from lorat.prep.trees.base.clip import Clip

_SIDE = 2.0  # pixels: no object is smaller on both sides
_SMALL = 0.05  # share of boxes below that
_FIT = 0.95  # share of boxes that would lie in the image as two corners
_BEYOND = 0.25  # share of boxes that reach beyond the image; when corners are read as sizes, about 0.7 do
_STEADY = 0.1  # or sides that vary with the place, as corners do: what is left of their variance without it


@dataclass(slots=True)
class Notation:
    """The visible boxes of a set, as read, counted by what would be odd about them."""

    boxes: int = 0
    small: int = 0  # both sides below `_SIDE`
    unit: int = 0  # of these, no value is above 1
    beyond: int = 0  # reach beyond the right or lower border by more than a pixel
    corners: int = 0  # x, y and width, height would be corners of a box in the image
    spread: float = 0.0  # sum of squares of widths and heights about their track's mean
    steady: float = 0.0  # the same, of width - x and height - y
    where: str = ""  # the first sequence with a small box

    def add(self, clip: Clip, size: tuple[int, int] | None) -> None:
        """Count a clip as its reader gave it; `size`: (width, height) of its frames; None: unknown, none is beyond."""
        seen = [track.boxes[track.visible] for track in clip.tracks]
        for track in seen:
            if len(track) > 1:
                sides = track[:, 2:] - track[:, :2]
                self.spread += float(sides.var(0).sum() * len(track))
                self.steady += float((sides - track[:, :2]).var(0).sum() * len(track))
        boxes, limit = np.concatenate(seen), np.add(size or (np.inf, np.inf), 1.0)
        low, sides = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
        small = (sides < _SIDE).all(1)
        if small.any():
            self.where = self.where or clip.name
            self.unit += int((small & (np.hstack([abs(low), sides]) <= 1.0).all(1)).sum())
        self.boxes += len(boxes)
        self.small += int(small.sum())
        self.beyond += int((boxes[:, 2:] > limit).any(1).sum())
        self.corners += int(((sides > low) & (sides <= limit)).all(1).sum())

    def oddities(self) -> list[str]:
        """Return what looks odd about the set, a line each; nothing for boxes as they should be."""
        found, of = [], f"of {self.boxes:,} visible boxes"
        if self.small > self.boxes * _SMALL:
            unit = f"; no value of {self.unit:,} of them is above 1: normalised?" if self.unit else ""
            found.append(f"{self.small:,} {of} have both sides below two pixels, such as in {self.where}{unit}")
        moving = self.spread > self.boxes and self.steady < self.spread * _STEADY
        if not found and self.corners > self.boxes * _FIT and (self.beyond > self.boxes * _BEYOND or moving):
            what = f"{self.beyond:,} {of} reach beyond the right or lower border"
            found.append(f"{what}, {self.corners:,} would fit into the image as two corners: corners instead of sizes?")
        return found
