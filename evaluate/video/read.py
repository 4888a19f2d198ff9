"""One's own pictures frame by frame: a video file, a camera, or a folder of images.

Promise: memory does not grow with the length. A frame inside that does not decode keeps its place, without an image.
FFmpeg and OpenCV print nothing. A video's rotation metadata is obeyed, images' EXIF orientation is not; their order is
natural (a2 before a10).
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
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.clip import FrameFiles
from lorat.prep.trees.base.folders import IMAGE_SUFFIXES, image_names, natural_order
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.jpeg import ImageError, Range16, examine

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

_LOG = logging.getLogger("lorat")
_RATE = 25.0  # frames a second of footage that does not say
_POLL = 0.1  # seconds


class NoPyAV(UserError):
    """The package that reads and writes video files is not installed."""


class Shot(NamedTuple):
    """One frame, its number and seconds from the beginning of the whole footage."""

    number: int
    time: float
    image: NDArray[np.uint8] | None  # (H, W, 3) RGB; None where it does not decode


Wanted = Callable[[int, float], bool]  # whether a frame, by number and seconds, is the first one wanted or after it


def from_start(text: str) -> Wanted:
    """Read where to begin: a frame's number, ``300``, or a time, ``12.5s``."""
    if text.isdecimal():
        return lambda number, seconds: number >= int(text)
    if re.fullmatch(r"\d+(\.\d+)?s", text):
        return lambda number, seconds: seconds >= float(text[:-1]) - 1e-6
    raise UserError(f"--start {text}: write a frame's number (300) or seconds (12.5s)")


@dataclass(frozen=True, eq=False, slots=True)
class Footage:
    """Footage that is opened; its frames can be taken once."""

    name: str
    rate: float  # frames a second
    count: int | None  # frames in all, as the file says; None where nothing does
    live: bool  # whether frames pass by whether they are taken or not
    shots: Generator[Shot, None, None]  # from the start that was asked for on

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


def open_footage(path: Path, start: str = "0", range16: Range16 | None = None) -> Footage:
    """Open a video or a folder of images, else a `UserError`, from a `start` of `from_start`; `range16` stretches."""
    name, wanted = str(path), from_start(start)
    if path.is_dir():
        try:
            images = FrameFiles(path, tuple(natural_order(image_names(path))), range16=range16)
        except UserError:
            kinds = ", ".join(IMAGE_SUFFIXES)
            raise UserError(f"{path}: no images in this folder that can be read ({kinds})") from None
        _LOG.info("%s: images have no frame rate; %g a second are assumed", path, _RATE)
        with suppress(ImageError):  # told when its turn comes
            for said in examine(images[0], range16)[1].values():
                _LOG.warning("%s: %s", images[0], said)
        return Footage(name, _RATE, len(images), False, image_shots(images, wanted))
    if not path.is_file():
        raise UserError(f"{path}: no such video or folder; check the name")
    av = load_av()
    with suppress(av.FFmpegError):
        container = av.open(name)
        for stream in container.streams.video[:1]:
            rate = _checked(float(stream.guessed_rate or 0), name)
            frames = stream.frames or round((container.duration or 0) / av.time_base * rate)
            count = frames if 0 < frames < 1 << 31 else None  # beyond it is no count
            bits, *colours = (component.bits for component in stream.format.components)
            if (counts := bits > 8 and not colours) != (range16 is not None):
                what = "only the upper 8 are read; --range16 stretches them" if counts else "--range16 needs grey of 16"
                _LOG.warning("%s: %d bits a pixel; %s", path, bits, what)
            shots = _file_shots(container, rate, count, wanted, range16 if counts else None)
            return Footage(name, rate, count, False, shots)
    raise UserError(f"{path}: not a video that FFmpeg reads; give one (.mp4, .avi, .mkv, …)")


def open_camera(number: int, start: str = "0") -> Footage:
    """Open a camera, 0 for the first one; times are the clock's since its first frame."""
    name, wanted, messages = f"camera {number}", from_start(start), cv2.utils.logging
    before = messages.setLogLevel(messages.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(number)
    messages.setLogLevel(before)
    if not capture.isOpened():
        why = "is it connected, free and allowed to this user? Cameras count from 0"
        raise UserError(f"--camera {number}: cannot be opened; {why}")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # else the driver hands out frames from a while ago
    return Footage(name, _checked(capture.get(cv2.CAP_PROP_FPS), name), None, True, _camera_shots(capture, wanted))


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
    if 0.1 <= rate <= 500.0:  # a container without a rate says 0, or its clock's 1000 or 90000
        return rate
    _LOG.info("%s: does not say its frame rate; %g a second are assumed", name, _RATE)
    return _RATE


def image_shots(images: FrameFiles, wanted: Wanted = lambda number, seconds: True) -> Generator[Shot, None, None]:
    """Read the images that are wanted, one after the other."""
    for index in range(len(images)):
        if wanted(index, index / _RATE):
            try:
                image = images.read(index)
            except ImageError:
                image = None
            yield Shot(index, index / _RATE, image)


def _file_shots(
    container: "InputContainer", rate: float, count: int | None, wanted: Wanted, range16: Range16 | None
) -> Generator[Shot, None, None]:
    """Read a video file; what does not decode is a frame lost if a frame comes after it."""
    from av import FFmpegError
    from av.video.reformatter import VideoReformatter

    stream = container.streams.video[0]
    to_rgb, tick, begin = VideoReformatter(), float(stream.time_base or 0), stream.start_time or 0
    index, lost, now = 0, 0, -1 / rate

    def upright(frame: "VideoFrame") -> NDArray[np.uint8]:
        nonlocal range16
        if range16 is None:
            image = to_rgb.reformat(frame, format="rgb24").to_ndarray()
        else:
            range16 = range16.fitted(frame.to_ndarray())
            image = cv2.cvtColor(range16.stretch(frame.to_ndarray()), cv2.COLOR_GRAY2RGB)
        return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))

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
                for left in range(lost, -1, -1):  # frames lost before it, then itself
                    seconds = now - left * (now - last) / (lost + 1)
                    if wanted(index, seconds):
                        yield Shot(index, seconds, None if left else upright(frame))
                    index += 1
                lost = 0
    if count is not None and count - index > count // 100:  # some containers only estimate
        _LOG.warning("%s: ends after %d of the %d frames that it says", container.name, index, count)


def _camera_shots(capture: cv2.VideoCapture, wanted: Wanted) -> Generator[Shot, None, None]:
    index, lost, begin = 0, 0, math.inf
    codes = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}  # by channels
    try:
        while lost < 10:  # without a frame it has ended
            done, frame = capture.read()
            now = time.monotonic()
            begin = min(begin, now)
            lost = 0 if done else lost + 1
            if wanted(index, now - begin):
                image = cv2.cvtColor(frame, codes[frame.shape[2] if frame.ndim == 3 else 1]) if done else None
                yield Shot(index, now - begin, image)
            index += 1
    finally:
        capture.release()


def read_ahead(footage: Footage, enough: Callable[[], bool] = lambda: False) -> Generator[Shot, None, None]:
    """Yield the rest of the footage, read by a thread of its own, until it ends or `enough`; raise what reading raises.
    Of live footage only the newest frame waits, so that what is taken is never old. A camera that hangs is left behind.
    """
    ready: queue.Queue[Shot | Exception | None] = queue.Queue(1 if footage.live else 2)
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
            all(map(offer, chain(footage.shots, [None])))
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
