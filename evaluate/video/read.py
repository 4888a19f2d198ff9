"""One's own footage by its name: a video file, a folder of images, a camera, an address on a network.

OpenCV prints nothing. Images' EXIF orientation is not obeyed; their order is natural (a2 before a10).
"""

import logging
import math
import os
import re
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import cv2

from lorat.evaluate.video.container import is_url, open_file, open_stream
from lorat.evaluate.video.footage import BEGIN, RATE, SILENCE, Footage, Place, Shot, checked_rate
from lorat.prep.trees.base.clip import FrameFiles
from lorat.prep.trees.base.folders import IMAGE_SUFFIXES, image_names, natural_order
from lorat.shards.base.errors import UserError
from lorat.shards.base.waiting import wait_for
from lorat.shards.pixels.jpeg import ImageError, Range16, examine

_LOG = logging.getLogger("lorat")
_LOST = 10  # reads of a camera in a row that give no frame, after which it has ended


def open_footage(
    source: str | Path,
    start: Place = BEGIN,
    range16: Range16 | None = None,
    *,
    live: bool | None = None,
    silence: float = SILENCE,
) -> Footage:
    """Open a video, a folder of images, a camera's device (/dev/video2) or an address, else a `UserError`. `range16`
    stretches; of an address, `live` and `silence` are as in `open_stream`.
    """
    if is_url(str(source)):
        return open_stream(str(source), start, live=live, silence=silence)
    path = Path(source)
    if device := re.fullmatch(r"/dev/video(\d+)", os.path.realpath(path)):
        return open_camera(int(device[1]), start)
    if path.is_dir():
        return _open_folder(path, start, range16)
    if not path.is_file():
        raise UserError(f"{path}: no such video or folder; check the name")
    return open_file(path, start, range16)


def _open_folder(path: Path, start: Place, range16: Range16 | None) -> Footage:
    try:
        images = FrameFiles(path, tuple(natural_order(image_names(path))), range16=range16)
    except UserError:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"{path}: no images in this folder that can be read ({kinds})") from None
    _LOG.info("%s: images have no frame rate; %g a second are assumed", path, RATE)
    with suppress(ImageError):  # told when its turn comes
        for said in examine(images[0], range16)[1].values():
            _LOG.warning("%s: %s", images[0], said)
    return Footage(str(path), RATE, len(images), False, image_shots(images, start))


def image_shots(images: FrameFiles, start: Place = BEGIN) -> Generator[Shot, None, None]:
    """Read images one after the other from a place on."""
    for index in range(len(images)):
        if start.reached(index, index / RATE):
            try:
                image = images.read(index)
            except ImageError:
                image = None
            yield Shot(index, index / RATE, image)


def open_camera(number: int, start: Place = BEGIN) -> Footage:
    """Open a camera, 0 for the first one; times are the clock's since its first frame."""
    name, messages = f"camera {number}", cv2.utils.logging
    before = messages.setLogLevel(messages.LOG_LEVEL_SILENT)
    try:
        capture = wait_for(lambda: cv2.VideoCapture(number), name)
    finally:
        messages.setLogLevel(before)
    if not capture.isOpened():
        why = "is it connected, free and allowed to this user? Cameras count from 0"
        raise UserError(f"--camera {number}: cannot be opened; {why}")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # else the driver hands out frames from a while ago
    rate = checked_rate(capture.get(cv2.CAP_PROP_FPS), name)
    return Footage(name, rate, None, True, _camera_shots(capture, name, start))


def _camera_shots(capture: cv2.VideoCapture, name: str, start: Place) -> Generator[Shot, None, None]:
    """Read a camera; what it does not give has its number but no shot, so that its silence is noticed."""
    index, lost, begin = 0, 0, math.inf
    codes = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}  # by channels
    try:
        while lost < _LOST:
            done, frame = capture.read()
            now = time.monotonic()
            lost = 0 if done else lost + 1
            if done:
                begin = min(begin, now)
                if start.reached(index, now - begin):
                    yield Shot(index, now - begin, cv2.cvtColor(frame, codes[frame.shape[2] if frame.ndim == 3 else 1]))
            index += 1
        _LOG.warning("%s: gives no frames any more; it has ended", name)
    finally:
        capture.release()
