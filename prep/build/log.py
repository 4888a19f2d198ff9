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
from typing import Any, Self

from lorat.prep.build.plan import Plan
from lorat.shards.base.errors import UserError


class BuildLog:
    """The log file of a run of a plan, open inside ``with``; an error that ends it is its last line.

    Raises:
        UserError: if it cannot be opened or written, such as on a full disk.
    """

    def __init__(self, plan: Plan) -> None:
        part = plan.options.part
        name = f"build-{part.number}-of-{part.of}.log" if part else "build.log"
        local = isinstance(plan.folder, Path)
        self.path = plan.folder / name if local else Path(f"{plan.name}-{name}")

    def __enter__(self) -> Self:
        with self._refused():
            # Closing a buffered file on a full disk would raise once more.
            self._file = self.path.open("a+b", buffering=0)
            if self._file.seek(0, os.SEEK_END):
                self._file.seek(-1, os.SEEK_END)
                if self._file.read() != b"\n":
                    self._file.write(b"\n")  # a killed build left half a line
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        with self._file, suppress(UserError):
            if isinstance(error, KeyboardInterrupt):
                self.write("stopped")
            elif isinstance(error, UserError):
                self.write("failed", error=error.message)

    def write(self, event: str, **values: Any) -> None:
        """Append one event."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._refused():
            line = json.dumps({"time": now, "event": event, **values}) + "\n"
            self._file.write(line.encode())

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); make room or make "
                f"{self.path.absolute().parent} writable, and run the same command again: finished "
                "shards are kept"
            ) from None
