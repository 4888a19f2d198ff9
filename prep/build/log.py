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
from typing import Any, BinaryIO

from lorat.prep.build.plan import Plan
from lorat.shards.base.errors import UserError


def log_path(plan: Plan) -> Path:
    """Return the log file of a run of a plan."""
    part = plan.options.part
    suffix = f"-{part.number}-of-{part.of}" if part else ""
    if isinstance(plan.folder, Path):
        return plan.folder / f"build{suffix}.log"
    return Path(f"{plan.name}-build{suffix}.log")


class BuildLog:
    """Appends events to a file.

    Args:
        path: of the file.
        file: open, without a buffer: closing one on a full disk would raise once more.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file

    def write(self, event: str, **values: Any) -> None:
        """Append one event.

        Raises:
            UserError: if it cannot be written, such as on a full disk.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with _refused(self.path):
            line = json.dumps({"time": now, "event": event, **values}) + "\n"
            self._file.write(line.encode())


@contextmanager
def open_log(plan: Plan) -> Iterator[BuildLog]:
    """Open a plan's log; an error that ends the block is its last line.

    Raises:
        UserError: if it cannot be written.
    """
    path = log_path(plan)
    with _refused(path):
        file = path.open("a+b", buffering=0)
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")  # a killed build left half a line
    with file:
        log = BuildLog(path, file)
        try:
            yield log
        except KeyboardInterrupt:
            with suppress(UserError):
                log.write("stopped")
            raise
        except UserError as error:
            with suppress(UserError):
                log.write("failed", error=error.message)
            raise


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); make room or make "
            f"{path.absolute().parent} writable, and run the same command again: finished shards "
            "are kept"
        ) from None
