"""A process among others: how it treats threads and memory, and what signals do to it.

glibc returns large blocks to the system as soon as they are freed. A process that decodes a frame of some megabytes,
drops it and decodes the next gets every page of every frame zeroed by the kernel again: a sixth of a build's time where
two processes do so at once.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import cv2

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names and numbers of malloc.h
# The most that glibc takes; a frame of 3840 by 2160 pixels fits. Larger blocks are mapped and returned one by one.
_LARGEST_BLOCK = 32 << 20
_KEPT = 256 << 20  # enough for a worker: some frames and what is made of them
_TURNS = "3000"  # of GNU OpenMP's waiting loop; it takes 300,000 where it is not told
ALL_FREED = (1 << 31) - 1  # the most: for a process whose every step needs the same memory again


def wait_briefly() -> None:
    """Let OpenMP's threads wait for each other awake for some microseconds only, unless the environment says how; to be
    called before torch is imported. GNU's default is milliseconds: beside other work, whose turn that is, each wait
    then costs both of them a core's whole turn. Shorter, a free machine is as fast; asleep at once, it is a quarter
    slower.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _TURNS)


def settle_worker() -> None:
    """Make this process a worker among others: one core, its images' memory used again."""
    cv2.setNumThreads(1)
    keep_freed_memory()


@contextmanager
def one_core() -> Iterator[None]:
    """Work inside the block as a worker does, and give OpenCV its threads back after it."""
    before = cv2.getNumThreads()
    settle_worker()
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def keep_freed_memory(kept: int = _KEPT) -> bool:
    """Let this process keep up to so many freed bytes for the next image, in all its threads. Returns whether it does:
    other systems than Linux with glibc have allocators of their own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return bool(mallopt and mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_M_TRIM_THRESHOLD, kept))


@dataclass(slots=True)
class Heard:
    """Which signal asked this process to end; 0 is none yet."""

    number: int = 0


@contextmanager
def hear_signals(speaks: bool) -> Iterator[Heard]:
    """Note SIGTERM and Ctrl-C inside the block instead of being ended by them, for a loop to end after its step. A
    signal that is ignored, as in what a script started in the background, stays ignored. Who `speaks` says on stderr
    that one was heard. A second Ctrl-C is a `SystemExit` with 130, at once.
    """
    heard, owner = Heard(), os.getpid()

    def hear(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # a loader worker that is just starting
        if heard.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        if heard.number:
            return
        heard.number = number
        if speaks:
            again = "; Ctrl-C once more ends at once" if number == signal.SIGINT else ""
            text = f"\n{signal_name(number)}: the training ends after this step and saves{again}\n"
            os.write(2, text.encode())  # a stream may be in the middle of writing

    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    before = {n: handler for n, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, hear)
    try:
        yield heard
    except KeyboardInterrupt:
        raise SystemExit(exit_status(signal.SIGINT)) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def outlive_signals() -> None:
    """Make this loader worker ignore Ctrl-C, and SIGTERM from others than the training itself. A whole group of
    processes gets the same signals, while the training needs its workers to the end of a step. Where the system does
    not tell who sent a signal (macOS), SIGTERM ends the worker.
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


def signal_name(number: int) -> str:
    """Return what users call a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def exit_status(number: int) -> int:
    """Return the exit status of a process that a signal ended, as shells give it."""
    return 128 + number
