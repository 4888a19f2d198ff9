"""One object through footage: a tracker's answers, written as a video and a CSV while they come.

Promise: both files hold the same frames and appear together, when tracking has ended or was
stopped; an error leaves neither. Memory does not grow with the length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.draw import draw_frame
from lorat.evaluate.video.footage import Footage, Shot
from lorat.evaluate.video.write import VideoFile
from lorat.shards.base.console import progress_bar
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file
from lorat.shards.pixels.geometry import xyxy_to_xywh

if TYPE_CHECKING:
    from lorat.evaluate.track.tracker import Tracker

__all__ = ["HEADER", "Followed", "follow", "write_tracks"]

HEADER = "frame,time,x,y,w,h,score"
_LONGEST_STILL = 10.0  # seconds that a live picture stands in the video until the next


@dataclass(frozen=True, eq=False, slots=True)
class Followed:
    """The object in one frame."""

    shot: Shot
    box: NDArray[np.float64]
    """(4,) xyxy in frame pixels."""
    score: float
    """In [0, 1]; 1 for the box that was given, NaN in a frame that does not decode."""


def follow(tracker: Tracker, shots: Iterator[Shot], box: NDArray[np.float64]) -> Iterator[Followed]:
    """Track the object whose (4,) xyxy box is given in the first frame that decodes.

    Yields:
        One for each frame from that on.
    """
    started = False
    for shot in shots:
        score = np.nan
        if shot.image is not None and started:
            box, score = tracker.track(shot.image)
        elif shot.image is not None:
            tracker.start(shot.image, box)
            started, score = True, 1.0
        if started:
            yield Followed(shot, box, score)


def write_tracks(
    footage: Footage, steps: Iterator[Followed], video: VideoFile, csv: Path, total: int | None
) -> tuple[int, list[int]]:
    """Write the video and the CSV, which appear when the steps end and not at all on an error.

    Live footage is written so that it plays as fast as it happened: a picture is repeated until the
    next one was there.

    Args:
        footage: where the steps come from.
        steps: as `follow` yields them.
        video: the file to write.
        csv: the file to write.
        total: steps expected, where that is known.

    Returns:
        How many steps there were, and the numbers of the frames that do not decode.

    Raises:
        UserError: if there was no step, or a file cannot be written.
    """
    done, lost, began = 0, [], 0.0
    image = picture = np.zeros((0, 0, 3), np.uint8)
    with (
        progress_bar("tracking frames") as progress,
        atomic_file(csv) as table,
        video,
    ):
        table.write(f"{HEADER}\n".encode())
        for step in steps:
            shot = step.shot
            began = began if done else shot.time
            if footage.live and done:
                due = round((shot.time - began) * footage.rate) - video.written
                for _ in range(min(due, round(_LONGEST_STILL * footage.rate))):
                    video.write(picture)
            if shot.image is None:
                lost.append(shot.number)
            else:
                image = shot.image
            picture = draw_frame(image, step.box, None, _line(step), legend=False)
            video.write(picture)
            _write_row(table, step)
            done += 1
            progress(done, total)
        if not done:
            raise UserError(f"{footage.name}: ended before the first frame; nothing is written")
        progress(done, done)
    return done, lost


def _line(step: Followed) -> str:
    """Return the text below a picture."""
    said = "does not decode" if np.isnan(step.score) else f"score {step.score:.2f}"
    return f"frame {step.shot.number}   {step.shot.time:.2f} s   {said}"


def _write_row(table: BinaryIO, step: Followed) -> None:
    numbers = (step.shot.time, *xyxy_to_xywh(step.box), step.score)
    row = ",".join([str(step.shot.number), *(f"{number:.4f}" for number in numbers)])
    table.write(f"{row}\n".encode())
