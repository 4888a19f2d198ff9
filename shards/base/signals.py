"""SIGTERM and Ctrl-C: what they do to this process, also where its main thread is deaf.

Python calls a signal's handler between two steps of its own. A main thread that is inside a compiler, a backward pass
or an exchange with a rank that fell silent takes none, so a thread of `obey_in_time` hears signals too: the system's
own handler writes them to a pipe.
"""

import multiprocessing
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import ClassVar, NoReturn

from lorat.shards.base.errors import UserError
from lorat.shards.base.waiting import seconds_in

_BOTH = (signal.SIGTERM, signal.SIGINT)
_PASSED_ON = 2.0  # seconds within which torchrun tells its ranks again what they have heard themselves
_UNWINDING = 1.0  # seconds that a second Ctrl-C leaves the main thread to tidy up


def signal_name(number: int) -> str:
    """Return what users call a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def exit_status(number: int) -> int:
    """Return the exit status of a process that a signal ended, as shells give it."""
    return 128 + number


def grace() -> float:
    """Return how many seconds a signal leaves the work that it finds: ``$LORAT_GRACE`` (10)."""
    return seconds_in("LORAT_GRACE", 10.0)


@dataclass(slots=True)
class Heard:
    """Which signal asked this process to end, and what is said of that on stderr, after the signal's name."""

    text: str = ""
    number: int = 0  # 0 is none yet
    since: float = 0.0  # of the monotonic clock
    _first: list[None] = field(default_factory=lambda: [None])

    def note(self, number: int) -> bool:
        """Note a signal, in any thread, even in a handler; return whether it is another than the first."""
        with suppress(IndexError):
            self._first.pop()  # one thread alone gets it
            self.number, self.since = number, time.monotonic()
            if self.text:
                again = "; Ctrl-C once more ends at once" if number == signal.SIGINT else ""
                # A stream may be in the middle of writing.
                os.write(2, f"\n{signal_name(number)}: {self.text}{again}\n".encode())
            return False
        return not ("TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self.since < _PASSED_ON)


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[None]:
    """Handle signals inside the block, but for those that are ignored, as in what a script started in the background.
    Python knows handlers in its main thread alone; in others nothing changes.
    """
    here = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in numbers if here}
    before = {number: known for number, known in handlers.items() if known != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


@contextmanager
def sigterm_stops() -> Iterator[Heard]:
    """Let SIGTERM end what is done inside the block as Ctrl-C does, by a `KeyboardInterrupt`, and note it."""
    heard, owner = Heard(), os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked process that has not said yet what it wants
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not heard.note(number):  # another one would break off the tidying
            raise KeyboardInterrupt

    with _handling(stop, signal.SIGTERM):
        yield heard


@contextmanager
def hear_signals(heard: Heard) -> Iterator[Heard]:
    """Note SIGTERM and Ctrl-C inside the block instead of being ended by them, for a loop to end after its step. A
    second Ctrl-C is a `SystemExit` with 130, at once.
    """
    owner, taken = os.getpid(), list[int]()

    def hear(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # a loader worker that is just starting
        again = heard.note(number) and bool(taken)  # the first may have been noted by another thread
        taken.append(number)
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt

    try:
        with _handling(hear, *_BOTH):
            yield heard
    except KeyboardInterrupt:
        raise SystemExit(exit_status(signal.SIGINT)) from None


@contextmanager
def obey_in_time(heard: Heard, last: Callable[[int], None], seconds: float) -> Iterator[None]:
    """See to it, in a thread, that a signal ends this process. Where the main thread is still inside the block so many
    seconds after it, or when SIGTERM comes again, `last` is called there with the signal's number, and the process
    ended. A second Ctrl-C does not wait for `last`. For the main thread, whose signals have handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ear = _Ear(heard, last, seconds)
    ear.start()
    try:
        yield
    finally:
        ear.close()


class _Ear(threading.Thread):
    """Waits for signals, and for the end of the block."""

    open: ClassVar[list["_Ear"]] = []  # those of this process

    def __init__(self, heard: Heard, last: Callable[[int], None], seconds: float) -> None:
        super().__init__(name="lorat-signals", daemon=True)
        self._heard, self._last, self._grace = heard, last, seconds
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._writes, False)
        self._before = signal.set_wakeup_fd(self._writes, warn_on_full_buffer=False)
        self.open.append(self)

    def close(self) -> None:
        """End the thread, and let go of signals."""
        signal.set_wakeup_fd(self._before)
        self.open.remove(self)
        os.write(self._writes, b"\0")
        self.join()
        os.close(self._reads)
        os.close(self._writes)

    def run(self) -> None:
        """Hear signals until the block is left, or the process."""
        begun, abrupt, until = False, False, float("inf")
        while True:
            left = None if until == float("inf") else max(until - time.monotonic(), 0.0)
            if not select.select([self._reads], [], [], left)[0]:
                if abrupt:
                    _leave(exit_status(signal.SIGINT))
                until = float("inf")
                threading.Thread(target=self._end, name="lorat-end", daemon=True).start()
                continue
            for number in os.read(self._reads, 64):
                if number == 0:
                    return
                if number not in _BOTH:
                    continue
                again = self._heard.note(number)  # true of the first too, where the main thread noted it
                if not begun:
                    begun, until = True, time.monotonic() + self._grace
                elif again and number == signal.SIGINT:
                    abrupt, until = True, time.monotonic() + _UNWINDING
                elif again and until != float("inf"):
                    until = time.monotonic()

    def _end(self) -> None:
        status = exit_status(self._heard.number)
        try:
            self._last(self._heard.number)
        except UserError as error:
            os.write(2, f"Error: {error.message}\n".encode())
            status = error.exit_code
        except BaseException:  # noqa: BLE001 (the process ends with it)
            traceback.print_exc()
            status = 1
        _leave(status)


def _leave(status: int) -> NoReturn:
    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(status)


_MASKS: list[set[int | signal.Signals]] = []  # of threads that fork now


def _before_fork() -> None:
    if _Ear.open:  # or a signal to the forked process would be written to its parent's pipe
        _MASKS.append(signal.pthread_sigmask(signal.SIG_BLOCK, _BOTH))


def _after_fork() -> None:
    if _MASKS:
        signal.pthread_sigmask(signal.SIG_SETMASK, _MASKS.pop())


def _forget() -> None:
    if _Ear.open:
        _Ear.open.clear()
        signal.set_wakeup_fd(-1)
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forget)


@contextmanager
def held_back(number: int) -> Iterator[None]:
    """Hold a signal back from this thread inside the block; threads and processes that start there inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def sigterm_held() -> AbstractContextManager[None]:
    """Hold SIGTERM back inside the block, where `outlive_signals` can tell who sent it (Linux). Processes forked there
    begin so in all their threads, also in what PyTorch starts in them before any of our code runs, through which a
    signal would end them all the same.
    """
    return held_back(signal.SIGTERM) if sys.platform == "linux" else nullcontext()


def outlive_signals() -> None:
    """Make this loader worker ignore Ctrl-C, and SIGTERM from others than the training itself. A whole group of
    processes gets the same signals, while the training needs its workers to the end of a step. It is to be forked
    inside `sigterm_held`. Where the system does not tell who sent a signal (macOS), SIGTERM ends the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        training = os.getppid()

        def end_for_it() -> None:
            while signal.sigwaitinfo({signal.SIGTERM}).si_pid != training:
                pass
            os._exit(0)  # as it wants it: no failure of a worker

        threading.Thread(target=end_for_it, daemon=True).start()
