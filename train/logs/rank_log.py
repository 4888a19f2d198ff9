"""``log-rank-0.txt`` and so on: what each process of a run prints, with the time, and what ends it.

What a terminal draws again and again (a line of progress) is kept as it was last. The files are a copy: one that cannot
be written any more is said once, and the training goes on.
"""

import faulthandler
import logging
import os
import platform
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Any

from lorat.shards.base.disk import explain_disk
from lorat.shards.base.errors import UserError
from lorat.train.distributed.world import World

_LOG = logging.getLogger("lorat")
_CONTROL = re.compile(r"(\n|\r|\x1b\[[0-9;?]*[A-Za-z])")
_ANEW = ("\r", "\x1b[2K")  # what follows takes the place of the line so far


@contextmanager
def rank_log(run: Path, world: World) -> Iterator[None]:
    """Keep what this process prints from now on, and how it ends, in the file of its rank. A `UserError` if that cannot
    be opened.
    """
    path = run / f"log-rank-{world.rank}.txt"
    with explain_disk(path):
        file = path.open("ab", buffering=0)  # closing a buffered file on a full disk would raise once more
    lines = _Lines(file)
    lines.write(f"rank {world.rank} of {world.size}, process {os.getpid()} on {platform.node()}, {world.device}")
    with file, ExitStack() as stack:
        stack.enter_context(redirect_stdout(_Copy(sys.stdout, lines)))
        stack.enter_context(redirect_stderr(_Copy(sys.stderr, lines)))
        if not world.speaks:  # what the first rank says is not printed, but kept
            handler = _Kept(lines)
            _LOG.addHandler(handler)
            stack.callback(_LOG.removeHandler, handler)
        if not faulthandler.is_enabled():
            faulthandler.enable(file)
            stack.callback(faulthandler.disable)
        try:
            yield
        except BaseException as error:
            plain = isinstance(error, UserError | SystemExit)
            lines.write(f"{type(error).__name__}: {error}" if plain else traceback.format_exc().rstrip())
            raise
        lines.write("done")


class _Lines:
    """Whole lines with the time, in a file that may become full."""

    def __init__(self, file: FileIO) -> None:
        self._file: FileIO | None = file

    def write(self, text: str) -> None:
        """Write a line, or several as one record."""
        if self._file is None:
            return
        try:
            self._file.write(f"{datetime.now().isoformat(' ', 'seconds')} {text}\n".encode())
        except OSError as error:
            name, self._file = self._file.name, None
            _LOG.warning("%s: not written any more (%s); the training goes on", name, error.strerror)


class _Copy:
    """A stream whose lines are kept, too; everything else of it is the stream's own."""

    def __init__(self, stream: Any, lines: _Lines) -> None:
        self._stream, self._lines, self._line = stream, lines, ""

    def write(self, text: str) -> int:
        """Write to the stream, and keep the lines that end with this."""
        written = self._stream.write(text)
        for part in _CONTROL.split(text):
            if part == "\n" or part in _ANEW:
                if part == "\n" and self._line:
                    self._lines.write(self._line)
                self._line = ""
            elif not _CONTROL.fullmatch(part):
                self._line += part
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Kept(logging.Handler):
    """Keeps records that are not printed."""

    def __init__(self, lines: _Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:
            self._lines.write(f"{record.levelname.lower()}: {record.getMessage()}")
