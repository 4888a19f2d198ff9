"""Tracking as a video, frame by frame: of an evaluation's sequence, or of one's own footage.

Promise: a video appears when it is whole, its length costs no memory, and pictures stand as long as in the footage.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.measure.ope import overlaps
from lorat.evaluate.pictures import Outline, Picture, draw_frame, draw_objects, tint
from lorat.evaluate.results.files import SequenceResult, State
from lorat.evaluate.video.container import load_av
from lorat.evaluate.video.follow import Mark, Step
from lorat.evaluate.video.footage import Footage
from lorat.evaluate.video.read import image_shots
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.console import progress_bar
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file
from lorat.shards.pixels.geometry import xywh_to_xyxy, xyxy_to_xywh

if TYPE_CHECKING:
    from lorat.evaluate.video.masks import Masked

HEADER = "frame,time,x,y,w,h,score,object,state"
CODECS = {  # suffix of a video → its encoder, pixel format and options
    ".mp4": ("libx264", "yuv420p", {"crf": "20", "preset": "veryfast", "bf": "0"}),
    ".webm": ("libvpx-vp9", "yuv420p", {"crf": "30", "deadline": "realtime", "cpu-used": "8"}),
    ".avi": ("mjpeg", "yuvj420p", {"qmin": "2", "qmax": "4"}),
}
_LONGEST_STILL = 10.0  # seconds that a live picture stands in the video until the next


def writable(path: Path) -> Path:
    """Return a video's path as it can be written: .mp4 becomes .webm where FFmpeg was built without H.264's encoder."""
    no_h264 = CODECS[".mp4"][0] not in load_av().codecs_available
    return path.with_suffix(".webm") if no_h264 and path.suffix == ".mp4" else path


@contextmanager
def video_file(path: Path, rate: float) -> Iterator[Callable[[Picture, float], None]]:
    """Write a video that appears as `path` when the block ends, if it does not raise. Yields what adds an even-sided
    picture, stretched to the first's size, from a time in seconds on (in an .avi multiples of 1 / `rate`).
    """
    (codec, pixels, options), av, last = CODECS[path.suffix], load_av(), -1
    fraction = Fraction(rate).limit_denominator(1 << 16)
    tick = 1 / fraction if path.suffix == ".avi" else Fraction(1, 1_000_000)
    with atomic_file(path) as file:

        def opened_again(*_: object) -> BinaryIO:
            file.flush()
            return Path(file.name).open("rb")

        # With its index in front an .mp4 plays while it is still being fetched; FFmpeg reads it again for that.
        index_first = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
        container = av.open(file, "w", format=path.suffix[1:], options=index_first, io_open=opened_again)
        stream = container.add_stream(codec, fraction, options=options)
        stream.pix_fmt, stream.codec_context.time_base = pixels, tick

        def write(picture: Picture, seconds: float) -> None:
            nonlocal last
            if last < 0:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts = last = max(last + 1, round(seconds / tick))
            frame.time_base = tick
            container.mux(stream.encode(frame))

        try:
            yield write
            container.mux(stream.encode())
            container.close()
        finally:
            with suppress(av.FFmpegError):  # a full disk is told again
                container.close()


def write_tracking_video(
    clip: Clip,
    result: SequenceResult,
    path: Path,
    *,
    rate: float = 25.0,
    limit: int | None = None,
    masks: Iterable[NDArray[np.bool_]] | None = None,
) -> Path:
    """Write the video of one tracked sequence, with its true boxes where the tree has them, and the (H, W) `masks` of
    its frames if given, of `limit` frames at most. Returns what `writable` makes of `path`; a `UserError` if no image
    decodes.
    """
    path, track, boxes, written = writable(path), clip.tracks[0], xywh_to_xyxy(result.boxes), 0
    with video_file(path, rate) as write:
        shots = islice(image_shots(clip.frames), min(len(boxes), limit or len(boxes)))
        for (index, _, frame), mask in zip(shots, masks if masks is not None else repeat(None), strict=False):
            if frame is None:
                continue  # nothing to draw on; the evaluation counted it
            frame = frame if mask is None else tint(frame, mask)
            text, true = f"frame {index + 1}/{len(boxes)}", None
            if np.isfinite(result.scores[index]):
                text += f"   score {result.scores[index]:.2f}"
            if index < clip.annotated and track.visible[index]:
                true = track.boxes[index]
                text += f"   overlap {overlaps(boxes[index, None], true[None])[0]:.2f}"
            write(draw_frame(frame, boxes[index], true, text), written / rate)
            written += 1
        if not written:
            raise UserError(f"{clip.frames.folder}: no image decodes; restore the images")
    return path


class Files(NamedTuple):
    """What is written of footage: a video, as `writable` names it, a CSV, and lines of JSON if asked for."""

    video: Path
    csv: Path
    json: Path | None = None


@dataclass(slots=True)
class Written:
    """What there was."""

    frames: int = 0
    lost: list[int] = field(default_factory=list)  # numbers of frames that do not decode
    passed: int = 0  # frames of live footage that came and went while others were tracked


def write_tracks(
    footage: Footage,
    steps: Iterable[Step],
    files: Files,
    total: int | None,
    *,
    masked: "Masked | None" = None,
    show: Callable[[Picture], bool] = lambda picture: True,
) -> Written:
    """Write objects through footage, as `follow` yields them, into `files`, all or none, until `show` of a picture says
    no. `total` frames are expected. `masked` draws and writes masks in each.
    """
    written, seconds, before, last = Written(), 0.0, 0.0, 0
    with ExitStack() as stack:
        bar, table = stack.enter_context(progress_bar("tracking frames")), stack.enter_context(atomic_file(files.csv))
        lines = files.json and stack.enter_context(atomic_file(files.json))
        write = stack.enter_context(video_file(files.video, footage.rate))
        table.write(f"{HEADER}\n".encode())
        for step in steps:
            (number, time, shown), marks = step.shot, step.marks
            if shown is None:
                written.lost.append(number)
            if written.frames:
                written.passed += (number - last - 1) * footage.live
                seconds += min(time - before, _LONGEST_STILL) if footage.live else time - before
            picture = draw_step(step, masked.draw(step) if masked else step.image)
            write(picture, seconds)
            table.write("".join(_row(step, mark) for mark in marks).encode())
            if lines:
                lines.write(f"{_line(step)}\n".encode())
            before, last, written.frames = time, number, written.frames + 1
            bar(written.frames, total)
            if not show(picture):
                break
        if not written.frames:
            raise UserError(f"{footage.name}: ended before the first frame; nothing is written")
        bar(written.frames, written.frames)
    return written


def draw_step(step: Step, picture: Picture) -> Picture:
    """Draw the objects of a frame on its picture: dashed where unsure, grey corners where lost."""
    line: dict[State, Any] = {"tracked": "whole", "unsure": "dashed", "lost": "corners"}
    several, text = len(step.marks) > 1, f"frame {step.shot.number}   {step.shot.time:.2f} s"
    words = [f"{mark.object}  {_said(mark)}" if several else "" for mark in step.marks]
    if step.shot.image is None:
        text += "   does not decode"
    elif not several:
        text = "   ".join([text, *(f"score {_said(mark)}" for mark in step.marks)])
    outlines = [Outline(m.object, m.box, word, line[m.state]) for m, word in zip(step.marks, words, strict=True)]
    return draw_objects(picture, outlines, text)


def _said(mark: Mark) -> str:
    score = "" if np.isnan(mark.score) else f"{mark.score:.2f}"
    return f"{score}  {mark.state}" if mark.state != "tracked" else score


def _row(step: Step, mark: Mark) -> str:
    numbers = ",".join(f"{value:.4f}" for value in (step.shot.time, *xyxy_to_xywh(mark.box), mark.score))
    return f"{step.shot.number},{numbers},{mark.object},{mark.state}\n"


def _line(step: Step) -> str:
    objects = [
        {
            "object": mark.object,
            "box": xyxy_to_xywh(mark.box).round(4).tolist(),
            "score": None if np.isnan(mark.score) else round(mark.score, 4),
            "state": mark.state,
        }
        for mark in step.marks
    ]
    return json.dumps({"frame": step.shot.number, "time": round(step.shot.time, 4), "objects": objects})
