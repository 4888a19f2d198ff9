"""Runs jobs: in this process, in local processes, or on a Ray cluster.

An engine calls ``work(shared, job, tell)`` for every job, and ``tell`` here with whatever the work
tells there. What the work raises as a `UserError` comes out as it is and ends the run; jobs that
had not ended by then are given up. `shared` travels once to each process, not with each job.
"""

from __future__ import annotations

import logging
import multiprocessing
import re
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from typing import Any, NoReturn, Protocol

from lorat.shards.base.errors import UserError
from lorat.shards.base.process import one_core, settle_worker

__all__ = ["Engine", "LocalEngine", "RayEngine", "Tell", "Work"]

Tell = Callable[[Any], None]
Work = Callable[[Any, int, Tell], None]
_PATIENCE = 5.0  # seconds that a process gets to clean up before it is killed
_TERMINATED = 128 + signal.SIGTERM  # exit status of a worker that was asked to end


class Engine(Protocol):
    """Where jobs run."""

    def slots(self) -> int:
        """Return how many jobs run at once."""

    def run(self, work: Work, shared: Any, jobs: Sequence[int], tell: Tell) -> None:
        """Run ``work(shared, job, tell)`` for every job, in any order."""


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """Processes of this machine; with one worker, this process itself."""

    workers: int = 1

    def slots(self) -> int:
        """Return how many jobs run at once."""
        return self.workers

    def run(self, work: Work, shared: Any, jobs: Sequence[int], tell: Tell) -> None:
        """Run the jobs.

        Args:
            work: a module-level function.
            shared: picklable.
            jobs: numbers.
            tell: called in this process.

        Raises:
            UserError: from the work, or when a process cannot be started or was killed.
        """
        workers = min(self.workers, len(jobs))
        if workers > 1:
            _run_in_processes(work, shared, jobs, tell, workers)
            return
        with one_core():
            for job in jobs:
                work(shared, job, tell)


@dataclass(frozen=True, slots=True)
class RayEngine:
    """A Ray cluster, or a local Ray where none runs; one CPU a job."""

    address: str | None = None
    """As `ray.init` takes it; None: ``RAY_ADDRESS``, else a Ray of this machine."""

    def slots(self) -> int:
        """Return how many jobs run at once."""
        return max(1, int(_ray(self.address).cluster_resources().get("CPU", 1)))

    def run(self, work: Work, shared: Any, jobs: Sequence[int], tell: Tell) -> None:
        """Run the jobs; what a job tells arrives when it ends.

        Args:
            work: a module-level function of a package that is installed on every node.
            shared: picklable; put into Ray's store once.
            jobs: numbers.
            tell: called in this process.

        Raises:
            UserError: from the work, or when Ray lost a job for good.
        """
        ray = _ray(self.address)
        plan = ray.put(shared)
        task = ray.remote(_collect)
        pending = [task.remote(work, plan, job) for job in jobs]
        try:
            while pending:
                (ready, *_), pending = ray.wait(pending)
                for message in ray.get(ready):
                    tell(message)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            if isinstance(error.cause, ray.exceptions.RayError):
                raise _lost(error.cause) from None
            raise
        except ray.exceptions.RayError as error:
            raise _lost(error) from None
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


def _ray(address: str | None) -> Any:
    """Return the ray module, connected; Ray itself disconnects when the process ends."""
    try:
        import ray
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


def _lost(error: Exception) -> UserError:
    """Say in one line what Ray says in many; what a node could not unpack is its system error."""
    said = re.search(r"System error: (.*)", str(error))
    reason = said[1] if said else str(error).strip().partition("\n")[0]
    return UserError(
        f"Ray lost a shard ({reason}); run the same command again: finished shards are kept"
    )


def _collect(work: Work, shared: Any, job: int) -> list[Any]:
    """Run one job on a Ray worker and return what it told."""
    settle_worker()
    messages: list[Any] = []
    work(shared, job, messages.append)
    return messages


def _run_in_processes(
    work: Work, shared: Any, jobs: Sequence[int], tell: Tell, workers: int
) -> None:
    context = multiprocessing.get_context("spawn")
    resource_tracker.ensure_running()  # would lift the block below if it had to start there
    waiting = deque(jobs)
    processes: list[_Process] = []
    try:
        with _interrupts_held():
            for _ in range(workers):
                processes.append(_Process(context))
        busy: dict[Any, _Process] = {}
        for process in processes:
            process.send((work, shared))
            process.send(waiting.popleft())
            busy[process.connection] = process
        while busy:
            for connection in wait(list(busy)):
                process = busy[connection]
                message = process.receive()
                if message is not None:
                    tell(message)
                elif waiting:
                    process.send(waiting.popleft())
                else:
                    del busy[connection]
    finally:
        with _interrupts_held():  # who presses twice would leave processes to the interpreter's end
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()


class _Process:
    """A process that does one job after another; it ends when this process is gone."""

    def __init__(self, context: SpawnContext) -> None:
        try:
            self.connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
        except OSError as error:
            raise UserError(
                f"a worker process cannot be started ({error.strerror}); run the same command "
                "again with fewer --workers, or raise the limits on open files and processes "
                "(ulimit -n, ulimit -u)"
            ) from None
        theirs.close()  # so that the end of that process is the end of the pipe

    def send(self, what: Any) -> None:
        """Hand over the work, then a job; `receive` says so where nobody is there any more."""
        with suppress(OSError):
            self.connection.send(what)

    def receive(self) -> Any:
        """Return what the work told, or None where a job has ended."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(_PATIENCE)
            code = self._process.exitcode
            if code is not None and code > 0 and code != _TERMINATED:
                raise RuntimeError("a worker process failed; its error stands above") from None
            raise UserError(
                "a worker process was killed (out of memory?); run the same command again with "
                "fewer --workers: finished shards are kept"
            ) from None
        if isinstance(message, UserError):
            raise message
        return message

    def terminate(self) -> None:
        self.connection.close()
        self._process.terminate()

    def join(self) -> None:
        self._process.join(_PATIENCE)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


def _serve(connection: Connection) -> None:
    """Take the work and then jobs from the pipe until its other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, lambda *_: _leave(_TERMINATED))
    settle_worker()
    try:
        work, shared = _take(connection)
        while True:
            job = _take(connection)
            work(shared, job, lambda message: _send(connection, message))
            _send(connection, None)
    except UserError as error:
        _ignore_termination()
        _send(connection, error)


def _take(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, ConnectionError):
        _leave(0)  # the parent is done, or gone


def _send(connection: Connection, message: Any) -> None:
    try:
        connection.send(message)
    except ConnectionError:
        _leave(0)


def _leave(status: int) -> NoReturn:
    """End this process; unlike a signal's own way, this runs what cleans up."""
    _ignore_termination()
    sys.exit(status)


def _ignore_termination() -> None:
    """Let no SIGTERM interrupt the end of this process: files would stay, a traceback be printed.

    It is the rule and not the exception that one comes: the parent closes the pipe, which ends a
    worker that waits, and then terminates those that work.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while processes start or end; those that start never see it.

    They inherit the block. Here it is not enough: another thread, such as that of a progress bar,
    takes the signal then, and Python calls the handler in the main thread all the same.
    """
    pressed: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    held = callable(handler) and threading.current_thread() is threading.main_thread()
    if held:
        signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if held:
            signal.signal(signal.SIGINT, handler)
    if pressed and callable(handler):
        handler(signal.SIGINT, None)
