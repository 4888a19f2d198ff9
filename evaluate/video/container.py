"""Video files and streams from the network, decoded by FFmpeg through PyAV, which prints nothing.

Promise: a frame inside that does not decode keeps its place, without an image. Rotation and mirroring of the metadata
are obeyed. An address is never printed with its password.
"""

import logging
import math
import re
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.video.footage import SILENCE, Footage, Place, Shot, checked_rate
from lorat.shards.base.errors import UserError
from lorat.shards.base.waiting import wait_for
from lorat.shards.pixels.jpeg import Range16

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer

_LOG = logging.getLogger("lorat")
_STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt", "tcp")  # that send as they please
SCHEMES = ("http", "https", *_STREAMS)
_NOW = {"fflags": "nobuffer", "flags": "low_delay", "rtsp_flags": "prefer_tcp"}  # of what is live: no queue of frames


class NoPyAV(UserError):
    """The package that reads and writes video files is not installed."""


def load_av() -> ModuleType:
    """Return PyAV, or raise `NoPyAV`, which names the extra to install."""
    try:
        import av
    except ImportError:
        raise NoPyAV("video files need PyAV: pip install 'lorat[video]'") from None
    return av


def is_url(source: str) -> bool:
    """Return whether a source is an address on a network."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None


def shown_url(url: str) -> str:
    """Return an address without user, password and query, any of which may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def open_file(path: Path, start: Place, range16: Range16 | None) -> Footage:
    """Open a video file; a `UserError` if FFmpeg does not read it."""
    av, name = load_av(), str(path)
    with suppress(av.FFmpegError):
        container = av.open(str(path.absolute()))  # what stands before a colon would be taken for a protocol
        if container.streams.video:
            return _footage(container, name, start, range16, live=False)
    raise UserError(f"{path}: not a video that FFmpeg reads; give one (.mp4, .avi, .mkv, …)")


def open_stream(url: str, start: Place, *, live: bool | None, silence: float = SILENCE) -> Footage:
    """Open a video at an address of `SCHEMES`; a `UserError` where there is none within `silence` seconds. It is live
    unless it is a file with an end; `live` says otherwise.
    """
    name, scheme = shown_url(url), urlsplit(url).scheme.lower()
    if scheme not in SCHEMES:
        raise UserError(f"{name}: addresses may begin with {', '.join(SCHEMES)}")
    av, options = load_av(), _NOW if scheme in _STREAMS else {}
    _LOG.info("%s: connecting, for up to %g s", name, silence)
    try:
        container = wait_for(lambda: av.open(url, options=options, timeout=(silence, 2 * silence)), name)
    except (av.FFmpegError, OSError) as error:
        why = f"no answer for {silence:g} s" if isinstance(error, av.ExitError) else error.strerror
        raise UserError(f"{name}: cannot be opened ({why}); check address, password and network") from None
    if not container.streams.video:
        raise UserError(f"{name}: no video in it; check the address")
    if live is None:
        live = scheme in _STREAMS or not container.duration
    return _footage(container, name, start, None, live=live, far=True)


def _footage(
    container: "InputContainer", name: str, start: Place, range16: Range16 | None, *, live: bool, far: bool = False
) -> Footage:
    stream, second = container.streams.video[0], load_av().time_base
    rate = checked_rate(float(stream.guessed_rate or 0), name)
    lasting = round((container.duration or 0) / second * rate)
    count = stream.frames or lasting
    if "mp4" in container.format.name and lasting:  # an edit list shows fewer frames than the file holds
        count = min(count, lasting)
    known = count if 0 < count < 1 << 31 and not live else None  # beyond it is no count
    bits, *colours = (component.bits for component in stream.format.components)
    if (grey := bits > 8 and not colours) != (range16 is not None):
        what = "only the upper 8 are read; --range16 stretches them" if grey else "--range16 needs grey of 16"
        _LOG.warning("%s: %d bits a pixel; %s", name, bits, what)
    shots = _shots(container, name, rate, known, start, range16 if grey else None, live=live)
    return Footage(name, rate, known, live, shots, far)


def upright(image: NDArray[np.uint8], matrix: NDArray[np.int32] | None) -> NDArray[np.uint8]:
    """Return an image as players show it, by the (9,) display matrix of its frame, in quarters of a turn: a point (x,
    y) goes to (a x + c y, b x + d y) for a matrix a, b, u, c, d, v, …
    """
    if matrix is not None:
        a, b, _, c, d = (int(value) for value in matrix[:5])
        if turned := abs(b) + abs(c) > abs(a) + abs(d):
            image = image.swapaxes(0, 1)
        image = image[:: -1 if (b if turned else d) < 0 else 1, :: -1 if (c if turned else a) < 0 else 1]
    return np.ascontiguousarray(image)


def _shots(
    container: "InputContainer",
    name: str,
    rate: float,
    count: int | None,
    start: Place,
    range16: Range16 | None,
    *,
    live: bool,
) -> Generator[Shot, None, None]:
    """Read a video; what does not decode is a frame lost if a frame comes after it. Times are the file's, and of live
    footage the clock's since its first frame.
    """
    from av import FFmpegError
    from av.video.reformatter import VideoReformatter

    stream = container.streams.video[0]
    to_rgb, tick, begin = VideoReformatter(), float(stream.time_base or 0), stream.start_time or 0
    index, lost, now, epoch, ended = 0, 0, -1 / rate, math.inf, ""

    def packets() -> Iterator["Packet[Any]"]:
        nonlocal ended
        try:
            yield from container.demux(stream)
        except FFmpegError as error:  # what cannot be read any further is the end
            ended = f" ({error.strerror})"

    def image_of(frame: "VideoFrame") -> NDArray[np.uint8]:
        nonlocal range16
        image: Any
        if range16 is None:
            image = to_rgb.reformat(frame, format="rgb24").to_ndarray()
        else:
            range16 = range16.fitted(frame.to_ndarray())
            image = cv2.cvtColor(range16.stretch(frame.to_ndarray()), cv2.COLOR_GRAY2RGB)
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
        return upright(image, None if matrix is None else np.frombuffer(bytes(matrix), np.int32))

    with container:
        for packet in packets():
            try:
                frames = packet.decode()
            except FFmpegError:
                lost += 1
                continue
            for frame in frames:
                if live:
                    epoch = min(epoch, time.monotonic())
                last, now = now, math.nan if frame.pts is None else (frame.pts - begin) * tick
                now = time.monotonic() - epoch if live else now
                if not now > last:  # no time stamps, or none that can be believed
                    now = last + (lost + 1) / rate
                for left in range(lost, -1, -1):  # frames lost before it, then itself
                    seconds = now - left * (now - last) / (lost + 1)
                    if start.reached(index, seconds):
                        yield Shot(index, seconds, None if left else image_of(frame))
                    index += 1
                lost = 0
    if live:
        _LOG.warning("%s: has ended%s", name, ended)
    elif count is not None and count - index > count // 100:  # some containers only estimate
        _LOG.warning("%s: ends after %d of the %d frames that it says%s", name, index, count, ended)
    elif ended:
        _LOG.warning("%s: cannot be read after frame %d%s", name, index - 1, ended)
