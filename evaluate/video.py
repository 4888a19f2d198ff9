"""A tracked sequence as a video: the predicted box, the true one, and the score, frame by frame.

The file is an .mp4 (MPEG-4 Part 2). Where this OpenCV was built without that encoder, it is an .avi
of JPEG images, which OpenCV writes by itself; the path that is returned says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.metrics import overlaps
from lorat.evaluate.results import SequenceResult
from lorat.prep.trees.clip import Clip
from lorat.shards.errors import UserError
from lorat.shards.geometry import xywh_to_xyxy
from lorat.shards.jpeg import ImageError, read_image

__all__ = ["draw_frame", "write_tracking_video"]

_PREDICTED = (255, 140, 0)  # RGB: orange
_TRUE = (60, 220, 90)  # green
_INK = (235, 235, 235)
_BAND = (24, 24, 24)
_SIDES = (640, 1280)  # the longer side is enlarged or reduced into this range
_BAND_HEIGHT = 34
_NARROWEST = 480  # a narrower picture is set between margins, or the line below would not fit
_SHIFT = 4  # OpenCV draws at 1/16 pixel


def write_tracking_video(
    clip: Clip,
    result: SequenceResult,
    path: Path,
    *,
    fps: float = 25.0,
    limit: int | None = None,
) -> Path:
    """Write the video of one tracked sequence.

    Args:
        clip: its images and, where the tree has them, true boxes.
        result: the tracker's boxes and scores, a row a frame.
        path: where to write, ending in ``.mp4``; replaced when it exists.
        fps: frames a second of the video.
        limit: leave out what comes after so many frames.

    Returns:
        `path`, or the same with the suffix ``.avi``.

    Raises:
        UserError: if no image decodes, or this OpenCV writes neither format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = _pictures(clip, result, limit)
    first = next(frames, None)
    if first is None:
        raise UserError(f"{clip.frames.folder}: no image decodes; restore the images")
    size = (first.shape[1], first.shape[0])
    for suffix, codec in ((".mp4", "mp4v"), (".avi", "MJPG")):
        out = path.with_suffix(suffix)
        temporary = out.with_name(f".{out.stem}.tmp{suffix}")
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*codec), fps, size)
        if not writer.isOpened():
            temporary.unlink(missing_ok=True)
            continue
        writer.write(cv2.cvtColor(first, cv2.COLOR_RGB2BGR))
        for picture in frames:
            writer.write(cv2.cvtColor(_fit(picture, size), cv2.COLOR_RGB2BGR))
        writer.release()
        temporary.replace(out)
        return out
    raise UserError(
        f"{path}: this OpenCV writes neither mp4v nor MJPG; install opencv-python-headless from "
        "PyPI, or use --no-video"
    )


def draw_frame(
    frame: NDArray[np.uint8],
    predicted: NDArray[np.float64],
    true: NDArray[np.float64] | None,
    text: str,
) -> NDArray[np.uint8]:
    """Draw boxes on a copy of a frame, enlarged or reduced to a legible size, and a line below it.

    Args:
        frame: (H, W, 3) uint8 RGB.
        predicted: (4,) xyxy in frame pixels.
        true: (4,) xyxy, or None where the object is absent or its box is not known.
        text: the line below the picture.

    Returns:
        (H', W', 3) uint8 RGB, both sides even, as video encoders want them.
    """
    height, width = frame.shape[:2]
    longer = max(height, width)
    scale = float(np.clip(longer, *_SIDES)) / longer
    size = tuple(max(2, round(side * scale / 2) * 2) for side in (width, height))
    enlarge = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    picture = cv2.resize(frame, size, interpolation=enlarge)
    ratio = np.array([size[0] / width, size[1] / height] * 2)
    if true is not None:
        _rectangle(picture, true * ratio, _TRUE)
    _rectangle(picture, predicted * ratio, _PREDICTED)
    left = max(0, _NARROWEST - size[0]) // 2
    picture = cv2.copyMakeBorder(
        picture, 0, _BAND_HEIGHT, left, left, cv2.BORDER_CONSTANT, value=_BAND
    )
    _caption(picture[-_BAND_HEIGHT:], text)
    return picture


def _pictures(clip: Clip, result: SequenceResult, limit: int | None) -> Iterator[NDArray[np.uint8]]:
    track = clip.tracks[0]
    boxes = xywh_to_xyxy(result.boxes)
    for index in range(min(len(result.boxes), len(clip.frames), limit or len(result.boxes))):
        try:
            frame = read_image(clip.frames[index])
        except ImageError:
            continue  # nothing to draw on; the engine counted it
        known = index < clip.annotated and bool(track.visible[index])
        true = track.boxes[index] if known else None
        words = [f"frame {index + 1}/{len(result.boxes)}"]
        if np.isfinite(result.scores[index]):
            words.append(f"score {result.scores[index]:.2f}")
        if true is not None:
            words.append(f"overlap {float(overlaps(boxes[index, None], true[None])[0]):.2f}")
        yield draw_frame(frame, boxes[index], true, "   ".join(words))


def _rectangle(
    picture: NDArray[np.uint8], box: NDArray[np.float64], colour: tuple[int, int, int]
) -> None:
    """Draw the outline of a box of positive size, dark below bright to stand out on any ground."""
    if not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        return
    x1, y1, x2, y2 = (int(v) for v in np.rint((box - 0.5) * 2**_SHIFT))
    for tone, thickness in (((0, 0, 0), 4), (colour, 2)):
        cv2.rectangle(picture, (x1, y1), (x2, y2), tone, thickness, cv2.LINE_AA, _SHIFT)


def _caption(band: NDArray[np.uint8], text: str) -> None:
    """Write the text on the left and the colours' meaning on the right."""
    font, size, baseline = cv2.FONT_HERSHEY_SIMPLEX, 0.5, _BAND_HEIGHT - 12
    cv2.putText(band, text, (10, baseline), font, size, _INK, 1, cv2.LINE_AA)
    right = band.shape[1] - 10
    for word, colour in (("true", _TRUE), ("predicted", _PREDICTED)):
        (width, _), _ = cv2.getTextSize(word, font, size, 1)
        right -= width
        cv2.putText(band, word, (right, baseline), font, size, colour, 1, cv2.LINE_AA)
        right -= 16


def _fit(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture of a frame of another size at the video's size."""
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
