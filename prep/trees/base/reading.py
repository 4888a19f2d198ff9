"""Reading sequence by sequence: one that does not parse ends the reading, or is collected.

A reader hands the sequences it found to `read_each`. As a rule the first one that does not parse
raises. An audit reads inside ``reading(faults=[])``, where such a sequence is left out and listed
and the others are read; a build that leaves sequences out reads inside ``reading(skip=…)``, which
never opens their files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import UserError

__all__ = ["Fault", "is_skipping", "read_each", "reading", "report_fault"]

_LOG = logging.getLogger("lorat")
Source = TypeVar("Source")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one sequence's annotations."""

    sequence: str
    message: str
    """One line that names the file."""
    damage: bool
    """Whether the sequence should not be used; otherwise there is just less of it."""


@dataclass(frozen=True, slots=True)
class _Reading:
    skip: frozenset[str] = frozenset()
    faults: list[Fault] | None = None
    progress: Callable[[int, int], None] | None = None


_READING: ContextVar[_Reading] = ContextVar("reading")
_PLAIN = _Reading()


@contextmanager
def reading(
    *,
    skip: frozenset[str] = frozenset(),
    faults: list[Fault] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[None]:
    """Set how the readers called in this block, in this thread, go through sequences.

    Args:
        skip: names of sequences that are not read.
        faults: a list that collects what is wrong; None: a sequence that does not parse raises,
            and one that is read in part is a warning.
        progress: called with (sequences read, sequences in all) of a folder of sequences.
    """
    token = _READING.set(_Reading(skip, faults, progress))
    try:
        yield
    finally:
        _READING.reset(token)


def read_each(sources: Mapping[str, Source], read: Callable[[Source], Clip]) -> list[Clip]:
    """Return ``read(source)`` of every sequence, in order; what fails is treated as `reading` says.

    Args:
        sources: the clip's name → what `read` needs: a folder, a file, a row of a table.
        read: reads one sequence.

    Raises:
        UserError: from `read`, where faults are not collected.
    """
    how = _READING.get(_PLAIN)
    wanted = {name: source for name, source in sources.items() if name not in how.skip}
    clips = []
    for done, (name, source) in enumerate(wanted.items(), start=1):
        try:
            clips.append(read(source))
        except UserError as error:
            if how.faults is None:
                raise
            how.faults.append(Fault(name, error.message, damage=True))
        if how.progress:
            how.progress(done, len(wanted))
    return clips


def is_skipping() -> bool:
    """Return whether sequences are left out in this thread: then all of them may be."""
    return bool(_READING.get(_PLAIN).skip)


def report_fault(sequence: str, message: str, *, damage: bool = False) -> None:
    """Note that a sequence is read in part, or a folder not as a sequence: a warning or a fault.

    Args:
        sequence: its name.
        message: one line that names the file.
        damage: whether what was read of the sequence cannot be trusted.
    """
    faults = _READING.get(_PLAIN).faults
    if faults is None:
        _LOG.warning("%s", message)
    else:
        faults.append(Fault(sequence, message, damage))
