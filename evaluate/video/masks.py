"""Masks of the objects of footage, written as it is tracked."""

from dataclasses import dataclass, field

import numpy as np

from lorat.evaluate.pictures import Picture, colour_of, tint
from lorat.evaluate.segment.files import Mask, Write
from lorat.evaluate.segment.segmenter import Segmenter
from lorat.evaluate.video.follow import Step

_GONE = np.full(4, np.nan)


@dataclass(eq=False, slots=True)
class Masked:
    """The masks of objects by their numbers, in frame after frame."""

    segmenter: Segmenter
    writers: dict[int, Write]
    last: dict[int, Mask] = field(default_factory=dict)

    def draw(self, step: Step) -> Picture:
        """Make and write the masks of a frame's objects, empty where one is lost or has not begun, and return the
        frame's picture with them. A frame that does not decode keeps the last ones.
        """
        picture = step.image
        if step.shot.image is not None:
            boxes = {mark.object: _GONE if mark.state == "lost" else mark.box for mark in step.marks}
            masks = self.segmenter(picture, [boxes.get(number, _GONE) for number in self.writers])
            self.last = dict(zip(self.writers, masks, strict=True))
        for number, write in self.writers.items():
            write(f"{step.shot.number:08d}", self.last[number])
            picture = tint(picture, self.last[number], *[colour_of(number)] * (len(self.writers) > 1))
        return picture
