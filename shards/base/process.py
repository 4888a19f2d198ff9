"""A process among others: the cores it may use, and how it treats threads and memory.

glibc returns large blocks to the system as soon as they are freed. A process that decodes a frame of some megabytes,
drops it and decodes the next gets every page of every frame zeroed by the kernel again: a sixth of a build's time where
two processes do so at once.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names and numbers of malloc.h
# The most that glibc takes; a frame of 3840 by 2160 pixels fits. Larger blocks are still mapped and returned one by
# one.
_LARGEST_BLOCK = 32 << 20
_KEPT = 256 << 20  # enough for a worker: some frames and what is made of them
ALL_FREED = (1 << 31) - 1  # the most: for a process whose every step needs the same memory again


def usable_cores() -> int:
    """Return how many cores this process may use: fewer than the machine has under a scheduler."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it, macOS does not
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cores_a_rank() -> int:
    """Return how many of them each of the ranks has that torchrun started on this machine."""
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def processor_name() -> str:
    """Return what this machine's processor calls itself."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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
    """Let this process keep freed blocks for the next image, in all its threads.

    Free memory above so many bytes is returned. Whether that was done is told: other systems than Linux with glibc have
    allocators of their own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_M_TRIM_THRESHOLD, kept))
