"""Freed memory is kept for the next image."""

import multiprocessing
import resource

import numpy as np
import pytest

from lorat.shards.base.process import keep_freed_memory

FRAME = (1080, 1920, 3)


def _faults(keep: bool) -> int | None:
    """Return the pages a process gets from the kernel for 20 pairs of frames, one after another."""
    if keep and not keep_freed_memory():
        return None
    for _ in range(3):
        _two_frames()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        _two_frames()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _two_frames() -> None:
    frames = [np.full(FRAME, value, np.uint8) for value in (1, 2)]
    del frames


def test_frames_that_are_dropped_give_their_pages_to_the_next_ones():
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        kept, returned = (pool.apply(_faults, (keep,)) for keep in (True, False))
    if kept is None:
        pytest.skip("another allocator than glibc's")
    assert kept < 100
    assert returned > 10 * (kept + 1)
