"""Tracking as a video, frame by frame.

Promise: a video is written beside its name and renamed when it is whole, so nobody finds half a
one, and its length costs no memory. The file is an .mp4 (MPEG-4 Part 2). Where this OpenCV was
built without that encoder, it is an .avi of JPEG images, which OpenCV writes by itself; the path
that is returned says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.draw import draw_frame
from lorat.evaluate.measure.ope import overlaps
from lorat.evaluate.results.files import SequenceResult
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import explain_disk
from lorat.shards.pixels.geometry import xywh_to_xyxy
from lorat.shards.pixels.jpeg import ImageError, read_image

__all__ = ["VIDEO_SUFFIXES", "VideoFile", "draw_frame", "write_tracking_video"]

VIDEO_SUFFIXES = (".mp4", ".avi")


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
    frames = _pictures(clip, result, limit)
    first = next(frames, None)
    if first is None:
        raise UserError(f"{clip.frames.folder}: no image decodes; restore the images")
    with VideoFile(path, fps, overwrite=True) as file:
        for picture in chain([first], frames):
            file.write(picture)
    return file.path


class VideoFile:
    """A video that has its name when the block ends, and leaves nothing when the block raises."""

    def __init__(self, path: Path, fps: float, *, overwrite: bool = False) -> None:
        """Prepare a video; nothing is written before the first picture, which gives its size.

        Args:
            path: ends in ``.mp4``, or in ``.avi`` for JPEG images.
            fps: frames a second.
            overwrite: replace a file of that name.
        """
        self.path, self.fps, self.overwrite = path, fps, overwrite
        self.written = 0
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> VideoFile:
        return self

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Add a picture, (H, W, 3) uint8 RGB; one of another size than the first is stretched.

        Raises:
            UserError: if the file exists, cannot be written, or this OpenCV has no encoder for it.
        """
        if self._writer is None:
            self._size = (picture.shape[1], picture.shape[0])
            self._writer = self._open()
        self._writer.write(cv2.cvtColor(_fit(picture, self._size), cv2.COLOR_RGB2BGR))
        self.written += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        """Finish the file.

        Raises:
            UserError: if it does not hold every picture, as on a full disk.
        """
        if self._writer is None:
            return
        self._writer.release()
        try:
            if kind is None:
                self._check()
                with explain_disk(self.path):
                    self._beside.replace(self.path)
        finally:
            self._beside.unlink(missing_ok=True)

    @property
    def _beside(self) -> Path:
        return self.path.with_name(f".{self.path.stem}.tmp{self.path.suffix}")

    def _open(self) -> cv2.VideoWriter:
        codecs = {".mp4": "mp4v", ".avi": "MJPG"}
        for suffix in VIDEO_SUFFIXES[VIDEO_SUFFIXES.index(self.path.suffix) :]:
            self.path = self.path.with_suffix(suffix)
            if self.path.exists() and not self.overwrite:
                raise UserError(f"{self.path}: exists; give another --out, or --overwrite")
            with explain_disk(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._beside.touch()
            codec = cv2.VideoWriter.fourcc(*codecs[suffix])
            writer = cv2.VideoWriter(str(self._beside), codec, self.fps, self._size)
            if writer.isOpened():
                return writer
            self._beside.unlink(missing_ok=True)
        raise UserError(
            f"{self.path}: this OpenCV writes neither mp4v nor MJPG; install "
            "opencv-python-headless from PyPI (an evaluation can do with --no-video)"
        )

    def _check(self) -> None:
        """Count the frames on the disk: the encoder does not tell when a write fails."""
        capture = cv2.VideoCapture(str(self._beside))
        there = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if there != self.written:
            raise UserError(
                f"{self.path}: only {max(there, 0)} of {self.written} frames reached the disk; "
                "make room, or write elsewhere"
            )


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


def _fit(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture of a frame of another size at the video's size."""
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
