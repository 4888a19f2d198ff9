"""The errors that end a command in one line on stderr.

A user's mistake (a missing tree, a bad annotation line, weights of another variant) is a ``UserError``: exit status 2,
no traceback. Anything else that escapes a command is a defect of ours and keeps its traceback.
"""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake outside our code; the message names the file, what is wrong and what to do."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        self.message = " ".join(message.split())
        super().__init__(self.message)


class ShardCorrupt(UserError):
    """A shard, index or manifest that is not what was written."""


class Stopped(Exception):
    """Ctrl-C, with what was kept and how to go on."""

    exit_code = 130

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to `name`, or an empty string."""
    lowered = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return f"; did you mean '{lowered[close[0]]}'?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a name that is not among the `known` names of its kind."""
    names = sorted(known)
    return UserError(f"unknown {kind} '{name}'; known: {', '.join(names)}{nearest(name, names)}")


def counted(number: int, what: str, ending: str = "s") -> str:
    """Return a number of things of a kind: ``1 sequence``, ``1,120 sequences``."""
    return f"{number:,} {what}{ending * (number != 1)}"


def some(names: Sequence[object], most: int = 3) -> str:
    """Return the first `most` names with commas between, and how many more there are."""
    shown = ", ".join(map(str, names[:most]))
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown
