"""One's own pictures frame by frame: a video file, a camera, or a folder of images.

Promise: frames come one at a time, so memory does not grow with the length. A frame inside the
footage that does not decode keeps its place, without an image. Nothing is printed by OpenCV or
FFmpeg; what a user should know is a line of ours.

A video is turned as its rotation metadata asks for, as players do. Images in a folder come in
natural order (a2 before a10), their EXIF orientation ignored as everywhere in this project.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.folders import image_names, natural_order
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.jpeg import ImageError, read_image

__all__ = [
    "DEFAULT_RATE",
    "Footage",
    "ReadAhead",
    "Shot",
    "Start",
    "as_rgb",
    "first_shot",
    "open_camera",
    "open_footage",
    "read_ahead",
]

DEFAULT_RATE = 25.0
"""Frames a second of footage that does not say."""
_LOG = logging.getLogger("lorat")
_RATES = (0.1, 500.0)  # a container without a rate says 0, or its clock's 1000 or 90000
_MOST_FRAMES = 1 << 31  # a count beyond is no count
_END_AFTER = 250  # reads without a frame, where no count promises more
_CAMERA_ENDS_AFTER = 10
_UNEVEN = 1.5  # longest over shortest time between frames; clocks in whole ms stay below
_AHEAD = 2  # frames
_POLL = 0.1  # seconds


class Shot(NamedTuple):
    """One frame."""

    number: int
    """From 0, in the whole footage."""
    time: float
    """Seconds since the footage began."""
    image: NDArray[np.uint8] | None
    """(H, W, 3) uint8 RGB; None where it does not decode."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin: the first frame that is past both."""

    frame: int = 0
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Start:
        """Read a frame's number, ``300``, or a time, ``12.5s``.

        Raises:
            UserError: if it is neither.
        """
        if text.isdecimal():
            return cls(frame=int(text))
        if re.fullmatch(r"\d+(\.\d+)?s", text):
            return cls(seconds=float(text[:-1]))
        raise UserError(f"--start {text}: write a frame's number (300) or seconds (12.5s)")

    def reached(self, index: int, seconds: float) -> bool:
        """Return whether a frame is the first one wanted, or after it."""
        return index >= self.frame and seconds >= self.seconds - 1e-6


_BEGINNING = Start()


@dataclass(frozen=True, eq=False, slots=True)
class Footage:
    """Footage that is opened; its frames can be taken once."""

    name: str
    """What messages call it."""
    rate: float
    """Frames a second."""
    count: int | None
    """Frames in all, as the file says; None where nothing does."""
    live: bool
    """Whether frames pass by whether they are taken or not."""
    shots: Generator[Shot, None, None]
    """The frames, from the start that was asked for on."""

    def close(self) -> None:
        """Give the file or the camera back."""
        with suppress(ValueError):  # a camera that hangs is left behind in its thread
            self.shots.close()


def open_footage(path: Path, start: Start = _BEGINNING) -> Footage:
    """Open a video file or a folder of images.

    Raises:
        UserError: if it is missing, no video, or a folder without images.
    """
    if path.is_dir():
        return _open_folder(path, start)
    if not path.is_file():
        raise UserError(f"{path}: no such video or folder; check the name")
    capture = _capture(str(path))
    if not capture.isOpened():
        raise UserError(f"{path}: not a video that OpenCV reads; give one (.mp4, .avi, .mkv, …)")
    rate, count = _rate(capture, str(path)), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    known = int(count) if 0 < count < _MOST_FRAMES else None
    shots = _file_shots(capture, str(path), rate, known, start)
    return Footage(str(path), rate, known, False, shots)


def open_camera(number: int, start: Start = _BEGINNING) -> Footage:
    """Open a camera; times are the clock's since its first frame.

    Args:
        number: 0 is the first camera.
        start: how much of the beginning is left out, such as the frames until it is exposed.

    Raises:
        UserError: if there is no such camera, or it may not be used.
    """
    name = f"camera {number}"
    capture = _capture(number)
    if not capture.isOpened():
        raise UserError(
            f"--camera {number}: cannot be opened; is it connected, free and allowed to this user? "
            "Cameras count from 0"
        )
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # else the driver hands out frames from a while ago
    rate = _rate(capture, name)
    return Footage(name, rate, None, True, _camera_shots(capture, start))


def first_shot(footage: Footage) -> tuple[Shot, NDArray[np.uint8]]:
    """Take the first frame that decodes, and its image; says so if others come before it.

    Raises:
        UserError: if there is none.
    """
    for passed, shot in enumerate(footage.shots):
        if shot.image is not None:
            if passed:
                _LOG.warning(
                    "%s: %d frames do not decode where it should begin; it begins at frame %d",
                    footage.name,
                    passed,
                    shot.number,
                )
            return shot, shot.image
    raise UserError(f"{footage.name}: no frame to begin with; mend it, or give an earlier --start")


def as_rgb(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn what OpenCV reads, grey, BGR or BGRA, into (H, W, 3) uint8 RGB."""
    channels = frame.shape[2] if frame.ndim == 3 else 1
    code = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}[channels]
    return cv2.cvtColor(frame, code)


def _capture(source: str | int) -> cv2.VideoCapture:
    """Open a source without OpenCV's and FFmpeg's own messages, which name no file."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return cv2.VideoCapture(source)
    finally:
        cv2.utils.logging.setLogLevel(before)


def _rate(capture: cv2.VideoCapture, name: str) -> float:
    rate = capture.get(cv2.CAP_PROP_FPS)
    if math.isfinite(rate) and _RATES[0] <= rate <= _RATES[1]:
        return rate
    _LOG.info("%s: does not say its frame rate; %g a second are assumed", name, DEFAULT_RATE)
    return DEFAULT_RATE


def _open_folder(folder: Path, start: Start) -> Footage:
    try:
        names = natural_order(image_names(folder))
    except UserError:
        raise UserError(f"{folder}: no images in this folder that can be read") from None
    _LOG.info("%s: images have no frame rate; %g a second are assumed", folder, DEFAULT_RATE)
    return Footage(str(folder), DEFAULT_RATE, len(names), False, _images(folder, names, start))


def _images(folder: Path, names: list[str], start: Start) -> Generator[Shot, None, None]:
    for index, name in enumerate(names):
        seconds = index / DEFAULT_RATE
        if start.reached(index, seconds):
            try:
                yield Shot(index, seconds, read_image(folder / name))
            except ImageError:
                yield Shot(index, seconds, None)


def _file_shots(
    capture: cv2.VideoCapture, name: str, rate: float, count: int | None, start: Start
) -> Generator[Shot, None, None]:
    """Read a video file; a read that fails is a frame lost if a frame comes after it."""
    index, lost, now = 0, 0, -1 / rate
    pace = _Pace(name, rate)
    try:
        while lost <= max(_END_AFTER, (count or 0) - index):
            if not capture.grab():
                lost += 1
                continue
            last, now = now, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if not now > last:  # no time stamps, or none that can be believed
                now = last + (lost + 1) / rate
            step = (now - last) / (lost + 1)
            for place in range(1, lost + 1):
                if start.reached(index, last + place * step):
                    yield Shot(index, last + place * step, None)
                index += 1
            if start.reached(index, now):
                done, frame = capture.retrieve()
                yield Shot(index, now, as_rgb(frame) if done else None)
            index, lost = index + 1, 0
            if index > 1:  # the first frame may come late
                pace.see(step)
        if count is not None and count - index > count // 100:  # some containers only estimate
            _LOG.warning("%s: ends after %d of the %d frames that it says", name, index, count)
    finally:
        capture.release()


def _camera_shots(capture: cv2.VideoCapture, start: Start) -> Generator[Shot, None, None]:
    index, lost, begin = 0, 0, math.inf
    try:
        while lost < _CAMERA_ENDS_AFTER:
            done, frame = capture.read()
            now = time.monotonic()
            begin = min(begin, now)
            seconds = now - begin
            lost = 0 if done else lost + 1
            if start.reached(index, seconds):
                yield Shot(index, seconds, as_rgb(frame) if done else None)
            index += 1
    finally:
        capture.release()


class _Pace:
    """Says once if the time between frames varies."""

    def __init__(self, name: str, rate: float) -> None:
        self._name, self._rate = name, rate
        self._shortest, self._longest = math.inf, 0.0

    def see(self, step: float) -> None:
        was_even = self._longest <= _UNEVEN * self._shortest
        self._shortest, self._longest = min(self._shortest, step), max(self._longest, step)
        if was_even and self._longest > _UNEVEN * self._shortest:
            _LOG.info(
                "%s: its frame rate varies; the video written has its mean, %.4g a second, "
                "throughout, and the CSV the time of each frame",
                self._name,
                self._rate,
            )


class ReadAhead:
    """Frames read by a thread of its own while others are worked on.

    Of live footage only the newest frame waits, so that what is taken is never old.
    """

    def __init__(self, footage: Footage) -> None:
        self._live, self._shots = footage.live, footage.shots
        self._ready: queue.Queue[Shot | Exception | None] = queue.Queue(1 if self._live else _AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="footage", daemon=True)
        self._thread.start()

    def shots(self, enough: Callable[[], bool] = lambda: False) -> Iterator[Shot]:
        """Yield frames until the footage ends or `enough` says so.

        Raises:
            UserError: what reading raised.
        """
        while not enough():
            try:
                item = self._ready.get(timeout=_POLL)
            except queue.Empty:
                continue  # a camera that gives nothing must not keep Ctrl-C from being heard
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def close(self) -> None:
        """Stop reading; a camera that hangs is left behind."""
        self._closed.set()
        self._thread.join(timeout=2)

    def _read(self) -> None:
        try:
            for shot in self._shots:
                if not self._offer(shot):
                    return
            self._offer(None)
        except Exception as error:  # noqa: BLE001 (raised again where frames are taken)
            self._offer(error)

    def _offer(self, item: Shot | Exception | None) -> bool:
        """Hand over an item; False if nobody wants it any more."""
        while not self._closed.is_set():
            if self._live and item is not None:
                with suppress(queue.Empty):
                    self._ready.get_nowait()
            with suppress(queue.Full):
                self._ready.put(item, timeout=_POLL)
                return True
        return False


@contextmanager
def read_ahead(footage: Footage) -> Iterator[ReadAhead]:
    """Read the rest of the footage ahead inside the block."""
    reader = ReadAhead(footage)
    try:
        yield reader
    finally:
        reader.close()
