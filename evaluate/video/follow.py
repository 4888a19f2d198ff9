"""Objects through footage, frame by frame, all of them in one batch."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lorat.evaluate.pictures import Box, Picture
from lorat.evaluate.results.files import State
from lorat.evaluate.video.footage import Shot
from lorat.evaluate.video.given import Given

if TYPE_CHECKING:
    from lorat.evaluate.track.tracker import Targets

_LOG = logging.getLogger("lorat")


class Mark(NamedTuple):
    """Where one object is in one frame."""

    object: int  # from 1
    box: Box
    score: float  # NaN in a frame that does not decode
    state: State


class Step(NamedTuple):
    """A frame and the objects that have begun; `image` is the last one where its own does not decode."""

    shot: Shot
    image: Picture
    marks: Sequence[Mark]


def follow(shots: Iterable[Shot], targets: "Targets", given: Sequence[Given]) -> Iterator[Step]:
    """Track the objects of `given` from the first of the `shots` that decodes on; those before are left out. In a frame
    in which an object begins, or begins anew, its box is the given one and its score 1.
    """
    waiting, order, image, marks = list(given), list[int](), None, list[Mark]()
    for shot in shots:
        if shot.image is None:
            if image is not None:
                marks = [mark._replace(score=np.nan) for mark in marks]
                yield Step(shot, image, marks)
            continue
        if image is None:
            targets.start(shot.image, [], room=len({each.object for each in given}))
        image = shot.image
        found = dict(zip(order, targets.track(image) if order else (), strict=True))
        now = {number: Mark(number, *result) for number, result in found.items()}
        for each in [each for each in waiting if each.place is None or each.place.reached(shot.number, shot.time)]:
            waiting.remove(each)
            index = order.index(each.object) if each.object in order else None
            targets.begin(image, each.xyxy, index)
            if index is None:
                order.append(each.object)
            now[each.object] = Mark(each.object, each.xyxy, 1.0, "tracked")
        marks = [now[number] for number in sorted(now)]
        yield Step(shot, image, marks)
    for each in waiting:
        _LOG.warning("%s: the footage ended before that frame", each)
