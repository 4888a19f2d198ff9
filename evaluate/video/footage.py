"""Footage frame by frame, whatever it comes from: a file, a folder of images, a camera, a stream.

Promise: memory does not grow with the length. Of what is live only the newest frame waits, so that what is taken is
never old. A source that falls silent is told, and left after a limit; signals are heard all the while.
"""

import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lorat.shards.base.errors import UserError

_LOG = logging.getLogger("lorat")
RATE = 25.0  # frames a second of footage that does not say
SILENCE = 30.0  # seconds without a frame after which live footage has ended
_WORD = 5.0  # seconds without a frame that are told
_POLL = 0.1  # seconds


class Shot(NamedTuple):
    """One frame, its number and seconds from the beginning of the whole footage."""

    number: int
    time: float
    image: NDArray[np.uint8] | None  # (H, W, 3) RGB; None where it does not decode


@dataclass(frozen=True, slots=True)
class Place:
    """A place in footage: a frame's number, from 0, or a time in seconds; the other one is None."""

    number: int | None = 0
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str, name: str = "--start") -> Self:
        """Read ``300`` or ``12.5s``, else a `UserError` about the option of this name."""
        if text.isdecimal():
            return cls(int(text))
        if re.fullmatch(r"\d+(\.\d+)?s", text):
            return cls(None, float(text[:-1]))
        raise UserError(f"{name} {text}: write a frame's number (300) or seconds (12.5s)")

    def reached(self, number: int, seconds: float) -> bool:
        """Return whether a frame is the one at this place or after it."""
        return number >= self.number if self.number is not None else seconds >= (self.seconds or 0.0) - 1e-6

    def passed(self, number: int, seconds: float) -> bool:
        """Return whether a frame is after this place."""
        return number > self.number if self.number is not None else seconds > (self.seconds or 0.0) + 1e-6

    def is_before(self, other: "Place") -> bool:
        """Return whether this place surely comes before another: a number and a time have no order of their own."""
        if self.number is None or other.number is None:
            return self.number is other.number and (self.seconds or 0.0) < (other.seconds or 0.0)
        return self.number < other.number


BEGIN = Place()


@dataclass(frozen=True, eq=False, slots=True)
class Footage:
    """Footage that is opened; its frames can be taken once."""

    name: str
    rate: float  # frames a second
    count: int | None  # frames in all, as the file says; None where nothing does
    live: bool  # whether frames pass by whether they are taken or not
    shots: Generator[Shot, None, None]  # from the start that was asked for on
    far: bool = False  # whether frames come over a network, which may fall silent as what is live may

    def close(self) -> None:
        """Give the file or the camera back."""
        with suppress(ValueError):  # a camera that hangs is left behind in its thread
            self.shots.close()


def first_shot(footage: Footage, shots: Iterable[Shot] | None = None) -> tuple[Shot, NDArray[np.uint8]]:
    """Take the first frame that decodes, and its image, from the footage, or `shots` that are taken from it; a
    `UserError` if there is none.
    """
    for passed, shot in enumerate(footage.shots if shots is None else shots):
        if shot.image is not None:
            if passed and not footage.live:  # a stream is mostly met between two whole frames
                text = "%s: %d frames do not decode where it should begin; it begins at frame %d"
                _LOG.warning(text, footage.name, passed, shot.number)
            return shot, shot.image
    what = "check that it sends" if footage.live else "mend it, or give an earlier --start"
    raise UserError(f"{footage.name}: no frame to begin with; {what}")


def checked_rate(rate: float, name: str) -> float:
    """Return a rate that can be one: a container without says 0, or its clock's 1000 or 90000."""
    if 0.1 <= rate <= 500.0:
        return rate
    _LOG.info("%s: does not say its frame rate; %g a second are assumed", name, RATE)
    return RATE


def read_ahead(
    footage: Footage, enough: Callable[[], bool] = lambda: False, silence: float = SILENCE
) -> Generator[Shot, None, None]:
    """Yield the rest of the footage, read by a thread of its own, until it ends or `enough`; raise what reading raises.
    Of live footage only the newest frame waits. What hangs is left behind; what is live or far and gives nothing for
    `silence` seconds has ended.
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
        since, told, limited = time.monotonic(), False, footage.live or footage.far
        while not enough():
            try:
                item = ready.get(timeout=_POLL)  # what gives nothing must not keep Ctrl-C waiting
            except queue.Empty:
                silent = time.monotonic() - since
                if limited and silent >= silence:
                    _LOG.warning("%s: no frame for %.3g s; taken as its end", footage.name, silent)
                    return
                if limited and not told and silent >= min(_WORD, silence / 2):
                    told = True
                    _LOG.warning("%s: no frame for %.3g s; waiting for up to %g s", footage.name, silent, silence)
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item
            since, told = time.monotonic(), False
    finally:
        closed.set()
        thread.join(timeout=2)
