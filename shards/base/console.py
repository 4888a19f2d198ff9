"""What every command prints: progress on stderr, tables on stdout, warnings as one line."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

INTERRUPTED = 130  # exit status after Ctrl-C, as shells give it
OUT = Console()
_ERR = Console(stderr=True)
_PATIENCE = 2.0  # seconds


class Update(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, total: int | None, text: str = ..., /) -> None:
        """Show how much is done, of how much, and of what."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f}/s" if task.speed else "", style="cyan")


class _OneLine(logging.Handler):
    """Prints a record as one line above any bar, however wide the terminal is."""

    def emit(self, record: logging.LogRecord) -> None:
        _ERR.print(f"{record.levelname.lower()}: {record.getMessage()}", soft_wrap=True, highlight=False, markup=False)


def say(text: str) -> None:
    """Print a line on stdout as it is: not wrapped, no markup, no colours."""
    OUT.print(text, soft_wrap=True, highlight=False, markup=False)


def plain_table(columns: Sequence[str], title: str | None = None) -> Table:
    """Return a table of names, in its first column, and numbers, in the others."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.HORIZONTALS)
    table.collapse_padding, table.pad_edge = True, False
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def start_logging() -> None:
    """Send the package's warnings and notes to stderr, a line each."""
    log = logging.getLogger("lorat")
    if not log.handlers:
        log.addHandler(_OneLine())
        log.setLevel(logging.INFO)
        log.propagate = False


@contextmanager
def progress_bar(what: str) -> Iterator[Update]:
    """Show a bar with count, rate and time to the end; yields ``update(done, total, what)``, total None if unknown. The
    bar appears once the work has taken two seconds, and goes when it fails, so that an error is all that is left to
    read. Where stderr is no terminal only the final state is printed.
    """
    begin = time.monotonic()
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    progress = Progress(TextColumn("{task.description}"), *columns, console=_ERR)
    task = progress.add_task(what, total=None)

    def update(done: int, total: int | None, text: str = what) -> None:
        progress.update(task, completed=done, total=total, description=text)
        # Started before there is a bar to show, it would leave an empty line off a terminal.
        if time.monotonic() - begin > _PATIENCE:
            progress.start()

    try:
        yield update
    except BaseException:
        progress.update(task, visible=False)
        raise
    finally:
        if progress.live.is_started:
            progress.stop()
