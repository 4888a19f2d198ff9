"""SIGTERM and Ctrl-C during a training: heard at once, obeyed after a step.

The first one is noted and the loop ends the training when all ranks know of it. Ctrl-C after that ends the process at
once. Loader workers, which get the same signals when a whole group of processes does, live on until the training has no
more use for them.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from lorat.shards.base.console import INTERRUPTED

_HEEDED = (signal.SIGTERM, signal.SIGINT)


@dataclass(slots=True)
class Heard:
    """Which signal asked this process to end; 0 is none yet."""

    number: int = 0


@contextmanager
def hear_signals(speaks: bool) -> Iterator[Heard]:
    """Note SIGTERM and Ctrl-C inside the block instead of being ended by them.

    A signal that is ignored, as in what a script started in the background, stays ignored. Who `speaks` says on stderr
    that one was heard. A second Ctrl-C is a `SystemExit` with 130.
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

    before = {n: signal.getsignal(n) for n in _HEEDED if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, hear)
    try:
        yield heard
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def outlive_signals() -> None:
    """Make this loader worker ignore Ctrl-C, and SIGTERM from others than the training itself.

    Where the system does not tell who sent a signal (macOS), SIGTERM ends the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        training = os.getppid()

        def end_for_it() -> None:
            while signal.sigwaitinfo({signal.SIGTERM}).si_pid != training:
                pass
            os._exit(exit_status(signal.SIGTERM))

        threading.Thread(target=end_for_it, daemon=True).start()


def signal_name(number: int) -> str:
    """Return what users call a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def exit_status(number: int) -> int:
    """Return the exit status of a process that a signal ended, as shells give it."""
    return 128 + number
