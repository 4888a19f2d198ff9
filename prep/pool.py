"""Runs jobs: in this process, in local processes, or on a Ray cluster.

``engine.run(work, shared, jobs, tell)`` calls ``work(shared, job, tell)`` for every job, in any order, and ``tell``
here with whatever the work tells there. What the work raises comes out as it is and gives up jobs that have not ended.
All but ``tell`` must pickle; ``shared`` travels once to each process, not with each job.
"""

import functools
import logging
import multiprocessing
import os
import pickle
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from typing import Any, ClassVar, Literal

from lorat.shards.base.errors import UserError
from lorat.shards.base.machine import usable_cores
from lorat.shards.base.options import option
from lorat.shards.base.process import one_core, settle_worker
from lorat.shards.base.signals import held_back
from lorat.shards.base.waiting import tell_waits_through

_LOG = logging.getLogger("lorat")
Tell = Callable[[Any], None]
Work = Callable[[Any, Any, Tell], None]

# Workers are forked from a process that has imported what they need and has no threads of Python's: forking this one,
# which may have some, can lock up; a fresh interpreter each takes far longer.
_CONTEXT = multiprocessing.get_context("forkserver")
_PATIENCE = 5.0  # seconds that a process gets to clean up before it is killed
_UNPACKED = functools.cache(pickle.loads)  # of what the parent process packed
_TERMINATED = 128 + signal.SIGTERM  # exit status of a worker that was asked to end


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """Processes of this machine; with one worker, this process itself."""

    workers: int = 1

    def slots(self) -> int:
        """Return how many jobs run at once."""
        return self.workers

    def prepare(self, *modules: str) -> None:
        """Let the modules that workers need be imported while this process does something else."""
        if self.workers > 1:
            with _interrupts_held():
                _CONTEXT.set_forkserver_preload(list(modules))
                forkserver.ensure_running()

    def run(self, work: Work, shared: Any, jobs: Sequence[Any], tell: Tell) -> None:
        """Run the jobs; a `UserError` is the work's, or a process did not start or was killed."""
        if (workers := min(self.workers, len(jobs))) > 1:
            _run_in_processes(pickle.dumps((work, shared)), jobs, tell, workers)
        else:
            with one_core():
                for job in jobs:
                    work(shared, job, tell)


@dataclass(frozen=True, slots=True)
class RayEngine:
    """A Ray cluster whose nodes have our package; one CPU a job, and what a job tells arrives when it ends."""

    address: str | None = None  # as `ray.init` takes it; None: ``RAY_ADDRESS``, else a Ray of this machine

    def slots(self) -> int:
        """Return how many jobs run at once."""
        return max(1, int(_ray(self.address).cluster_resources().get("CPU", 1)))

    def run(self, work: Work, shared: Any, jobs: Sequence[Any], tell: Tell) -> None:
        """Run the jobs; a `UserError` is the work's, or Ray lost a job for good."""
        ray = _ray(self.address)
        plan, task = ray.put(shared), ray.remote(_collect)
        pending = [task.remote(work, plan, job) for job in jobs]
        try:
            while pending:
                (ready, *_), pending = ray.wait(pending)
                for message in ray.get(ready):
                    tell(message)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", error)
            if isinstance(cause, UserError):
                raise cause from None
            if not isinstance(cause, ray.exceptions.RayError):
                raise
            said = re.search(r"System error: (.*)", str(cause))  # of what a node could not unpack
            reason = said[1] if said else str(cause).strip().partition("\n")[0]
            message = f"Ray lost a shard ({reason}); run the same command again: finished shards are kept"
            raise UserError(message) from None
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


Engine = LocalEngine | RayEngine


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """Which engine, and how much of it."""

    engine: Literal["local", "ray"] = option("local", help="Processes of this machine, or Ray.")
    workers: int | None = option(None, least=1, help="Processes.  [default: one a core]")
    ray_address: str | None = option(None, help="Ray cluster.  [default: RAY_ADDRESS, or a local Ray]")

    def __post_init__(self) -> None:
        if self.engine != "ray" and self.ray_address:
            raise UserError("--ray-address needs --engine ray")
        if self.engine == "ray" and self.workers:
            raise UserError("--workers is for --engine local; Ray decides")

    def make(self) -> Engine:
        """Return the engine."""
        return RayEngine(self.ray_address) if self.engine == "ray" else LocalEngine(self.workers or usable_cores())


def _ray(address: str | None) -> Any:
    """Return the ray module, connected; Ray itself disconnects when the process ends."""
    try:
        import ray.exceptions
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'lorat[ray]'") from None
    if not ray.is_initialized():
        try:
            ray.init(address=address, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"Ray at {address or 'this machine'}: {reason}") from None
    return ray


def _collect(work: Work, shared: Any, job: Any) -> list[Any]:
    """Run one job on a Ray worker and return what it told."""
    settle_worker()
    messages: list[Any] = []
    work(shared, job, messages.append)
    return messages


def _run_in_processes(packed: bytes, jobs: Sequence[Any], tell: Tell, workers: int) -> None:
    """Start the workers, hand on what the work tells until every job has ended, and end them."""
    pool: ProcessPoolExecutor | None = None
    try:
        try:
            with _interrupts_held():
                ours, theirs = _CONTEXT.Pipe(duplex=False)
                with theirs:  # only workers keep it, so that their end is the end of the pipe
                    about = (packed, theirs, _CONTEXT.Lock(), dict(os.environ))
                    pool = ProcessPoolExecutor(workers, _CONTEXT, _Worker, about)
                    futures = [pool.submit(_Worker.do, number, job) for number, job in enumerate(jobs)]
        except (EOFError, OSError) as error:  # the process that forks ended, or this one's limit
            reason = getattr(error, "strerror", None) or "its error stands above"
            raise UserError(
                f"a worker process cannot be started ({reason}); run the same command again with fewer --workers, or "
                "raise the limits on open files and processes (ulimit -n, ulimit -u)"
            ) from None
        left, silent = len(futures), False
        with ours:
            while left:
                try:
                    ended, message = ours.recv()
                except (EOFError, OSError):
                    break  # no worker is left; the futures know
                if isinstance(message, _Word):
                    if not silent:  # the others wait for much the same
                        _LOG.warning("%s", message)
                    silent = True
                    continue
                silent = False
                if ended is None:
                    tell(message)
                else:
                    futures[ended].result()
                    left -= 1
        for future in futures:
            future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed (out of memory?), unless its error stands above; run the same command again "
            "with fewer --workers (a build keeps its finished shards)"
        ) from None
    finally:
        if pool is not None:
            with _interrupts_held():  # who presses twice would leave processes behind
                processes = list((pool._processes or {}).values())
                for process in processes:  # whatever they do; the executor itself would wait for their jobs
                    process.terminate()
                for process in processes:
                    process.join(_PATIENCE)
                    process.kill()  # where it has not ended
                pool.shutdown(cancel_futures=True)


class _Word(str):
    """What a worker says of a long wait."""


class _Worker:
    """This process, where it is one that does one job after another."""

    here: ClassVar["_Worker"]

    def __init__(self, packed: bytes, pipe: Connection, lock: Any, environment: Mapping[str, str]) -> None:
        os.environ.clear()  # of the process that it was forked from, and perhaps no longer ours
        os.environ.update(environment)
        settle_worker()
        self._packed, self._pipe, self._lock, self._busy = packed, pipe, lock, False
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
        signal.signal(signal.SIGTERM, self._leave)
        tell_waits_through(lambda text: self._send(None, _Word(text)))
        threading.Thread(target=self._follow_parent, daemon=True).start()
        _Worker.here = self

    @staticmethod
    def do(number: int, job: Any) -> None:
        worker = _Worker.here
        worker._busy = True
        try:
            work, shared = _UNPACKED(worker._packed)  # here, where its error is told
            work(shared, job, lambda message: worker._send(None, message))
        except SystemExit:
            os._exit(_TERMINATED)  # the executor would go on with the next job
        finally:
            worker._busy = False
            worker._send(number, None)

    def _send(self, ended: int | None, message: Any) -> None:
        with self._lock:
            self._pipe.send((ended, message))

    def _leave(self, *_: object) -> None:
        """End this process; unlike a signal's own way, this runs what cleans up after a job."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # another one would leave files and print a traceback
        if self._busy:
            raise SystemExit(_TERMINATED)
        os._exit(_TERMINATED)

    def _follow_parent(self) -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
        # To this thread the signal would not end what the main thread waits for.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while processes start or end; those that start inherit the block and never see it."""
    resource_tracker.ensure_running()  # would lift the block below if it had to start there
    pressed: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    held = callable(handler) and threading.current_thread() is threading.main_thread()
    if held:  # another thread, such as a progress bar's, takes the signal then, and Python still calls the handler here
        signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        with held_back(signal.SIGINT):
            yield
    finally:
        if held:
            signal.signal(signal.SIGINT, handler)
    if pressed and callable(handler):
        handler(signal.SIGINT, None)
