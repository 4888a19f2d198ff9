"""Waits for what is outside this process: a store, another process, a disk.

Promise: whoever waits inside `waiting` for longer than ``$LORAT_PATIENCE`` seconds (30) says so in one line, and for
what. A thread looks after that, since what waits may be deaf. Loader workers and threads, for which another waits,
leave word in a `Note` instead. Limits are seconds in the environment too; who waits sees to them, and to signals.
"""

import logging
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from lorat.shards.base.errors import UserError

POLL = 0.5  # seconds between two looks at what may end a wait
_LOG = logging.getLogger("lorat")
Result = TypeVar("Result")


def seconds_in(variable: str, default: float) -> float:
    """Return what an environment variable says, a positive number of seconds; else a `UserError`."""
    text = os.environ.get(variable) or str(default)
    with suppress(ValueError):
        if 0.0 < float(text) < float("inf"):
            return float(text)
    raise UserError(f"${variable} is '{text}'; give a positive number of seconds")


def patience() -> float:
    """Return for how many seconds a wait is silent."""
    return seconds_in("LORAT_PATIENCE", 30.0)


@dataclass(slots=True)
class _Wait:
    what: str | Callable[[], str]
    longer: float = 0.0  # than the patience for all
    early: Callable[[], None] | None = None
    since: float = field(default_factory=time.monotonic)
    told: bool = False

    def look(self, silent: float) -> str:
        """Return what is to be said now, if anything."""
        lasts, silent = time.monotonic() - self.since, silent + self.longer
        if self.early is not None and lasts >= silent / 3:
            early, self.early = self.early, None
            early()
        if self.told or lasts < silent:
            return ""
        what = self.what if isinstance(self.what, str) else self.what()
        self.told = bool(what)
        return what and f"waiting for {what} since {lasts:.0f} s"


class _Watch:
    """Looks at the waits of this process that are open, in a thread, and says which take long."""

    def __init__(self) -> None:
        self.say: Callable[[str], None] = lambda text: _LOG.warning("%s", text)
        self.forget()

    def forget(self) -> None:
        """Begin anew: in a forked process the thread is gone, and so are the waits."""
        self.open: dict[int, _Wait] = {}
        self._process = 0

    def begin(self, wait: _Wait) -> None:
        """Add a wait; no lock is held, which a fork could leave closed."""
        patience()  # a mistyped one is told here, not in the thread
        self.open[id(wait)] = wait
        if self._process != os.getpid():
            self._process = os.getpid()
            threading.Thread(target=self._look, name="lorat-waits", daemon=True).start()

    def _look(self) -> None:
        while True:
            silent = patience()
            time.sleep(min(POLL, silent / 4))
            for wait in list(self.open.values()):
                if text := wait.look(silent):
                    self.say(text)


_WATCH = _Watch()
_OWN = threading.local()  # the `Note` of this thread, where it has one
os.register_at_fork(after_in_child=_WATCH.forget)


@contextmanager
def waiting(
    what: str | Callable[[], str], *, longer: float = 0.0, early: Callable[[], None] | None = None
) -> Iterator[None]:
    """Wait inside the block for `what`; a callable is asked in another thread, when it is told, and again where it
    gives nothing. So many seconds `longer` than other waits this one is silent; after a third of the time `early` is
    called in that thread.
    """
    note: Note | None = getattr(_OWN, "note", None)
    if note is not None:
        before, note.text = note.text, what if isinstance(what, str) else what()
        try:
            yield
        finally:
            note.text = before
        return
    wait = _Wait(what, longer, early)
    _WATCH.begin(wait)
    try:
        yield
    finally:
        _WATCH.open.pop(id(wait), None)  # a fork begins anew


def wait_for(work: Callable[[], Result], what: str) -> Result:
    """Return what `work` gives, done in another thread: this one hears signals, to which what blocks may be deaf."""
    coming = Future[Result]()
    threading.Thread(target=fulfil, args=(work, coming), name="lorat-work", daemon=True).start()
    with waiting(what):
        while not coming.done():
            with suppress(TimeoutError):
                coming.exception(POLL)
    return coming.result()


def fulfil(work: Callable[[], Result], coming: "Future[Result]") -> None:
    """Do work, and put what it gives or raises into a future."""
    try:
        coming.set_result(work())
    except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
        coming.set_exception(error)


def tell_waits_through(say: Callable[[str], None]) -> None:
    """Let another process say what this one waits for."""
    _WATCH.say = say


def made_one() -> None:
    """Count one thing more in this thread's note."""
    _OWN.note.count()


class Note:
    """What a loader worker, or a thread, waits for, and how many things it has made, for its parent to read."""

    _HEAD = struct.Struct("qqq")  # process, things made, bytes of the text
    _MOST = 1000

    def __init__(self) -> None:
        """Make one before the fork."""
        self._memory = mmap.mmap(-1, self._HEAD.size + self._MOST)

    def take(self) -> None:
        """Let this thread leave word here."""
        _OWN.note = self
        self._HEAD.pack_into(self._memory, 0, os.getpid(), 0, 0)

    @property
    def process(self) -> int:
        """The process that writes here; 0 if none has begun."""
        return int(self._HEAD.unpack_from(self._memory)[0])

    @property
    def made(self) -> int:
        """How many things are made."""
        return int(self._HEAD.unpack_from(self._memory)[1])

    def count(self) -> None:
        """Count one thing more."""
        process, made, length = self._HEAD.unpack_from(self._memory)
        self._HEAD.pack_into(self._memory, 0, process, made + 1, length)

    @property
    def text(self) -> str:
        """What is waited for now; nothing where it is empty."""
        length = self._HEAD.unpack_from(self._memory)[2]
        return self._memory[self._HEAD.size : self._HEAD.size + length].decode(errors="replace")

    @text.setter
    def text(self, text: str) -> None:
        process, made, _ = self._HEAD.unpack_from(self._memory)
        data = text.encode()[: self._MOST]
        self._memory[self._HEAD.size : self._HEAD.size + len(data)] = data
        self._HEAD.pack_into(self._memory, 0, process, made, len(data))
