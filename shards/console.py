"""What every command prints: progress on stderr, tables on stdout, warnings as one line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

__all__ = ["OUT", "progress_bar", "start_logging"]

OUT = Console()
_ERR = Console(stderr=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f}/s" if task.speed else "", style="cyan")


def start_logging() -> None:
    """Send the package's warnings and notes to stderr, a line each."""
    log = logging.getLogger("lorat")
    if not log.handlers:
        handler = RichHandler(console=_ERR, show_time=False, show_path=False, markup=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


@contextmanager
def progress_bar(what: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with count, rate and time to the end; yields ``update(done, total)``.

    On a terminal the bar refreshes in place; elsewhere nothing but its final state is printed.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_ERR) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done, whole: progress.update(task, completed=done, total=whole)
