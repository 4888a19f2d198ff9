"""Runs shard jobs: in this process, or in local processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from lorat.shards.errors import UserError

__all__ = ["run_local"]

Job = TypeVar("Job")
Result = TypeVar("Result")
_STATE: dict[str, Any] = {}


def run_local(
    work: Callable[[Any, Job], Result], shared: Any, jobs: Sequence[Job], workers: int
) -> Iterator[Result]:
    """Yield ``work(shared, job)`` for every job, in the order in which they finish.

    Args:
        work: a module-level function.
        shared: handed to each process once.
        jobs: picklable, small.
        workers: processes; 1 runs everything here.

    Raises:
        UserError: from the work itself, or when a worker process was killed.
    """
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield work(shared, job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(jobs)), context, initializer=_start, initargs=(work, shared)
    ) as pool:
        futures = [pool.submit(_run, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed (out of memory?); run the same command again with "
                "fewer --workers: finished shards are kept"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(work: Callable[[Any, Any], Any], shared: Any) -> None:
    import cv2

    cv2.setNumThreads(1)  # the processes are the parallelism
    _STATE["work"], _STATE["shared"] = work, shared


def _run(job: Any) -> Any:
    return _STATE["work"](_STATE["shared"], job)
