"""What a build did, line by line, in a file beside its shards.

Each line is one JSON object with ``time`` and ``event``: ``start``, ``lost sequence``,
``estimate``, ``skipped`` (a pair and why), ``shard`` (written, with its counts), and ``end``,
``merged``, ``stopped`` or ``failed``. Runs append; parts write a file each, since appending over a
network is not safe. For shards in an object store, which cannot append, the file lies in the
working folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from lorat.prep.build.plan import Plan
from lorat.shards.base.errors import UserError

__all__ = ["BuildLog", "log_path", "open_log"]


def log_path(plan: Plan) -> Path:
    """Return the log file of a run of a plan."""
    part = plan.options.part
    suffix = f"-{part.number}-of-{part.of}" if part else ""
    if isinstance(plan.folder, Path):
        return plan.folder / f"build{suffix}.log"
    return Path(f"{plan.name}-build{suffix}.log")


class BuildLog:
    """Appends events to an open file."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path = path
        self._file = file

    def write(self, event: str, **values: Any) -> None:
        """Append one event.

        Raises:
            UserError: if it cannot be written, such as on a full disk.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            self._file.write(json.dumps({"time": now, "event": event, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise _refused(self.path, error) from None


@contextmanager
def open_log(plan: Plan) -> Iterator[BuildLog]:
    """Open a plan's log; an error that ends the block is its last line.

    Raises:
        UserError: if it cannot be written.
    """
    path = log_path(plan)
    try:
        file = path.open("a", encoding="utf-8")
        whole = _ends_a_line(path)
    except OSError as error:
        raise _refused(path, error) from None
    # The descriptor is closed by hand: a full disk makes a buffered close raise once more.
    log = BuildLog(path, file)
    try:
        if not whole:
            file.write("\n")  # a killed build left half a line
        yield log
    except KeyboardInterrupt:
        with suppress(UserError):
            log.write("stopped")
        raise
    except UserError as error:
        with suppress(UserError):
            log.write("failed", error=error.message)
        raise
    finally:
        with suppress(OSError):
            file.close()


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _refused(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be written ({error.strerror}); make room or make {path.absolute().parent} "
        "writable, and run the same command again: finished shards are kept"
    )
