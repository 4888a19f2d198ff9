"""``python leash.py PARENT COMMAND …`` runs a command, and ends it with all that it started when it is told to
(SIGTERM, Ctrl-C), when PARENT, a process id, is no longer its parent (it was killed), and when the command has ended.

It is a program of its own, of the standard library alone, since who is killed outright can end nobody.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import FrameType

_A_WHILE, _GRACE = 0.1, 5.0  # seconds; between looks, and from SIGTERM to SIGKILL


def main(parent: int, command: list[str]) -> int:
    """Run the command in a group of its own and return its exit status."""
    told: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, hear)
    process = subprocess.Popen(command, start_new_session=True)
    while process.poll() is None and not told and os.getppid() == parent:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_A_WHILE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE if os.getppid() == parent else 0.0)
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
