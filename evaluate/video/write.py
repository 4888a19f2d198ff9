"""Tracking as a video, frame by frame: of an evaluation's sequence, or of one's own footage.

Promise: a video appears when it is whole, its length costs no memory, and pictures stand as long as in the footage.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.measure.ope import overlaps
from lorat.evaluate.pictures import Box, Picture, draw_frame, tint
from lorat.evaluate.results.files import SequenceResult
from lorat.evaluate.video.read import Footage, Shot, image_shots, load_av
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.console import progress_bar
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file
from lorat.shards.pixels.geometry import xywh_to_xyxy, xyxy_to_xywh

if TYPE_CHECKING:
    from lorat.evaluate.segment.sequences import Masked
    from lorat.evaluate.track.tracker import Tracker

HEADER = "frame,time,x,y,w,h,score"
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
        container = av.open(file, "w", format=path.suffix[1:])
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


def write_tracks(
    footage: Footage,
    shots: Iterator[Shot],
    tracker: "Tracker",
    box: Box,
    files: tuple[Path, Path],
    total: int | None,
    masked: "Masked | None" = None,
) -> tuple[int, list[int]]:
    """Track an object through footage into `files`: a video, as `writable` names it, and a CSV; both or neither. `box`
    is (4,) xyxy in the first of the `shots` that decodes; those before are left out, those after that do not decode
    keep picture and box. `total` are expected. `masked` draws and writes a mask in each. Returns how many there were,
    and the numbers of those lost.
    """
    done, lost, seconds, before, image, (video, csv) = 0, list[int](), 0.0, 0.0, None, files
    with progress_bar("tracking frames") as bar, atomic_file(csv) as table, video_file(video, footage.rate) as write:
        table.write(f"{HEADER}\n".encode())
        for number, time, shown in shots:
            score, said = np.nan, "does not decode"
            if shown is not None:
                if image is None:
                    tracker.start(shown, box)
                    score = 1.0
                else:
                    box, score, _ = tracker.track(shown)
                image, said = shown, f"score {score:.2f}"
            elif image is None:
                continue
            else:
                lost.append(number)
            passed = time - before if done else 0.0
            seconds += min(passed, _LONGEST_STILL) if footage.live else passed
            picture = masked.draw(number, shown, image, box) if masked else image
            write(draw_frame(picture, box, None, f"frame {number}   {time:.2f} s   {said}", legend=False), seconds)
            numbers = ",".join(f"{value:.4f}" for value in (time, *xyxy_to_xywh(box), score))
            table.write(f"{number},{numbers}\n".encode())
            before, done = time, done + 1
            bar(done, total)
        if not done:
            raise UserError(f"{footage.name}: ended before the first frame; nothing is written")
        bar(done, done)
    return done, lost
