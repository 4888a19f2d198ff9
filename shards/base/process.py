"""A process among others: how it treats threads and memory, and how it ends.

glibc returns large blocks to the system as soon as they are freed. A process that decodes a frame of some megabytes,
drops it and decodes the next gets every page of every frame zeroed by the kernel again: a sixth of a build's time where
two processes do so at once.
"""

import atexit
import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

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


def one_of_many() -> bool:
    """Return whether this process is one of several ranks, as torchrun says."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def end_process(status: object) -> NoReturn:
    """End with an exit status, as `sys.exit` takes it. One of several ranks does not take its interpreter down: gloo's
    threads outlive their groups, and once in some dozens of runs one of them then ended the process by SIGABRT (PyTorch
    2.14).
    """
    if not one_of_many():
        raise SystemExit(status)
    leave(status)


def leave(status: object) -> NoReturn:
    """End as `end_process` ends a rank; so does a forked process, which shares its interpreter's beginnings."""
    if isinstance(status, str):
        print(status, file=sys.stderr)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))
