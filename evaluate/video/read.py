"""One's own pictures frame by frame: a video file, a camera, or a folder of images.

Promise: frames come one at a time, so memory does not grow with the length. A frame inside the footage that does not
decode keeps its place, without an image. Nothing is printed by FFmpeg or OpenCV; what a user should know is a line of
ours.

A video is turned as its rotation metadata asks for, as players do. Images in a folder come in natural order (a2 before
a10), their EXIF orientation ignored as everywhere in this project.
"""

import logging
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.folders import image_names, natural_order
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.jpeg import ImageError, read_image

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_LOG = logging.getLogger("lorat")
_RATE = 25.0  # frames a second of footage that does not say
_RATES = (0.1, 500.0)  # a container without a rate says 0, or its clock's 1000 or 90000
_MOST_FRAMES = 1 << 31  # a count beyond is no count
_CAMERA_ENDS_AFTER = 10  # reads without a frame
_AHEAD = 2  # frames
_POLL = 0.1  # seconds


class NoPyAV(UserError):
    """The package that reads and writes video files is not installed."""


class Shot(NamedTuple):
    """One frame."""

    number: int
    """From 0, in the whole footage."""
    time: float
    """Seconds since the footage began."""
    image: NDArray[np.uint8] | None
    """(H, W, 3) uint8 RGB; None where it does not decode."""


Wanted = Callable[[int, float], bool]
"""Whether a frame, by its number and its time in seconds, is the first one wanted or after it."""


def from_start(text: str) -> Wanted:
    """Read where to begin: a frame's number, ``300``, or a time, ``12.5s``."""
    if text.isdecimal():
        return lambda number, seconds: number >= int(text)
    if re.fullmatch(r"\d+(\.\d+)?s", text):
        return lambda number, seconds: seconds >= float(text[:-1]) - 1e-6
    raise UserError(f"--start {text}: write a frame's number (300) or seconds (12.5s)")


_BEGINNING = from_start("0")


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


def load_av() -> ModuleType:
    """Return PyAV, or raise `NoPyAV`, which names the extra to install."""
    try:
        import av
    except ImportError:
        raise NoPyAV("video files need PyAV: pip install 'lorat[video]'") from None
    return av


def open_footage(path: Path, wanted: Wanted = _BEGINNING) -> Footage:
    """Open a video file or a folder of images; a `UserError` if it is neither."""
    name = str(path)
    if path.is_dir():
        try:
            images = [path / image for image in natural_order(image_names(path))]
        except UserError:
            raise UserError(f"{path}: no images in this folder that can be read") from None
        _LOG.info("%s: images have no frame rate; %g a second are assumed", path, _RATE)
        return Footage(name, _RATE, len(images), False, _image_shots(images, wanted))
    if not path.is_file():
        raise UserError(f"{path}: no such video or folder; check the name")
    av = load_av()
    with suppress(av.FFmpegError):
        container = av.open(name)
        for stream in container.streams.video[:1]:
            rate = _checked(float(stream.guessed_rate or 0), name)
            seconds = (container.duration or 0) / av.time_base
            frames = stream.frames or round(seconds * rate)
            count = frames if 0 < frames < _MOST_FRAMES else None
            shots = _file_shots(container, stream, rate, count, wanted)
            return Footage(name, rate, count, False, shots)
    raise UserError(f"{path}: not a video that FFmpeg reads; give one (.mp4, .avi, .mkv, …)")


def open_camera(number: int, wanted: Wanted = _BEGINNING) -> Footage:
    """Open a camera, 0 for the first one; times are the clock's since its first frame."""
    name, messages = f"camera {number}", cv2.utils.logging
    before = messages.setLogLevel(messages.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(number)
    messages.setLogLevel(before)
    if not capture.isOpened():
        raise UserError(
            f"--camera {number}: cannot be opened; is it connected, free and allowed to this user? Cameras count from 0"
        )
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # else the driver hands out frames from a while ago
    rate = _checked(capture.get(cv2.CAP_PROP_FPS), name)
    return Footage(name, rate, None, True, _camera_shots(capture, wanted))


def first_shot(footage: Footage) -> tuple[Shot, NDArray[np.uint8]]:
    """Take the first frame that decodes, and its image; a `UserError` if there is none."""
    for passed, shot in enumerate(footage.shots):
        if shot.image is not None:
            if passed:
                text = "%s: %d frames do not decode where it should begin; it begins at frame %d"
                _LOG.warning(text, footage.name, passed, shot.number)
            return shot, shot.image
    raise UserError(f"{footage.name}: no frame to begin with; mend it, or give an earlier --start")


def _checked(rate: float, name: str) -> float:
    if _RATES[0] <= rate <= _RATES[1]:
        return rate
    _LOG.info("%s: does not say its frame rate; %g a second are assumed", name, _RATE)
    return _RATE


def _image_shots(images: list[Path], wanted: Wanted) -> Generator[Shot, None, None]:
    for index, path in enumerate(images):
        if wanted(index, index / _RATE):
            try:
                image = read_image(path)
            except ImageError:
                image = None
            yield Shot(index, index / _RATE, image)


def _file_shots(
    container: "InputContainer", stream: "VideoStream", rate: float, count: int | None, wanted: Wanted
) -> Generator[Shot, None, None]:
    """Read a video file; what does not decode is a frame lost if a frame comes after it."""
    from av import FFmpegError
    from av.video.reformatter import VideoReformatter

    to_rgb, tick, begin = VideoReformatter(), float(stream.time_base or 0), stream.start_time or 0
    index, lost, now = 0, 0, -1 / rate
    with container, suppress(FFmpegError):  # what cannot be read any further is the end
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except FFmpegError:
                lost += 1
                continue
            for frame in frames:
                last, now = now, math.nan if frame.pts is None else (frame.pts - begin) * tick
                if not now > last:  # no time stamps, or none that can be believed
                    now = last + (lost + 1) / rate
                for place in range(1, lost + 1):
                    seconds = last + place * (now - last) / (lost + 1)
                    if wanted(index, seconds):
                        yield Shot(index, seconds, None)
                    index += 1
                if wanted(index, now):
                    image = to_rgb.reformat(frame, format="rgb24").to_ndarray()
                    turned = np.rot90(image, round(frame.rotation / 90))
                    yield Shot(index, now, np.ascontiguousarray(turned))
                index, lost = index + 1, 0
    if count is not None and count - index > count // 100:  # some containers only estimate
        _LOG.warning("%s: ends after %d of the %d frames that it says", container.name, index, count)


def _camera_shots(capture: cv2.VideoCapture, wanted: Wanted) -> Generator[Shot, None, None]:
    index, lost, begin = 0, 0, math.inf
    try:
        while lost < _CAMERA_ENDS_AFTER:
            done, frame = capture.read()
            now = time.monotonic()
            begin = min(begin, now)
            lost = 0 if done else lost + 1
            if wanted(index, now - begin):
                yield Shot(index, now - begin, as_rgb(frame) if done else None)
            index += 1
    finally:
        capture.release()


def as_rgb(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn what a camera gives, grey, BGR or BGRA, into (H, W, 3) uint8 RGB."""
    channels = frame.shape[2] if frame.ndim == 3 else 1
    code = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}[channels]
    return cv2.cvtColor(frame, code)


def read_ahead(footage: Footage, enough: Callable[[], bool] = lambda: False) -> Generator[Shot, None, None]:
    """Yield the rest of the footage, read by a thread of its own, until it ends or `enough`.

    Of live footage only the newest frame waits, so that what is taken is never old. A camera that hangs is left behind
    when the generator is closed. What reading raises is raised here.
    """
    ready: queue.Queue[Shot | Exception | None] = queue.Queue(1 if footage.live else _AHEAD)
    closed = threading.Event()

    def offer(item: Shot | Exception | None) -> bool:
        """Hand over an item; False if nobody wants it any more."""
        while not closed.is_set():
            if footage.live and item is not None:
                with suppress(queue.Empty):
                    ready.get_nowait()
            with suppress(queue.Full):
                ready.put(item, timeout=_POLL)
                return True
        return False

    def read() -> None:
        try:
            if all(offer(shot) for shot in footage.shots):
                offer(None)
        except Exception as error:  # noqa: BLE001 (raised again where frames are taken)
            offer(error)

    thread = threading.Thread(target=read, name="footage", daemon=True)
    thread.start()
    try:
        while not enough():
            with suppress(queue.Empty):  # a camera that gives nothing must not keep Ctrl-C waiting
                item = ready.get(timeout=_POLL)
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
    finally:
        closed.set()
        thread.join(timeout=2)
