"""What a training says: a line on the terminal, ``log.jsonl``, and curves at the end."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lorat.shards.storage import atomic_file

_PLAIN_SECONDS = 30.0  # between lines where there is no terminal

__all__ = ["TrainLog", "open_log", "read_log"]


class TrainLog:
    """Writes each record as a line of ``log.jsonl`` and shows the newest one."""

    def __init__(
        self, file: IO[str], show: Callable[[Text], None], steps: int, damaged: int
    ) -> None:
        self._file, self._show, self._steps = file, show, steps
        self.damaged = damaged
        """Damaged samples over the whole run, resumed parts included."""
        self._start = time.perf_counter()
        self._first_step: int | None = None

    def record(self, step: int, values: dict[str, float]) -> None:
        """Write the values of `step` (steps done) and refresh the line."""
        elapsed = time.perf_counter() - self._start
        if self._first_step is None:
            self._first_step = step
        done = step - self._first_step
        left = (self._steps - step) * elapsed / done if done else 0.0
        entry = {"step": step, "seconds": round(elapsed, 2), **values}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        self.damaged += int(values["damaged"])
        line = _line(step, self._steps, values, left)
        if self.damaged:
            line.append(f"  {self.damaged:,} damaged samples replaced")
        self._show(line)


@contextmanager
def open_log(run: Path, steps: int, first_step: int) -> Iterator[TrainLog]:
    """Open a run's log; what it says past `first_step` is cut off, because it comes again."""
    path = run / "log.jsonl"
    kept = [entry for entry in read_log(path) if entry["step"] <= first_step]
    with atomic_file(path) as whole:
        whole.writelines((json.dumps(entry) + "\n").encode() for entry in kept)
    damaged = sum(int(entry.get("damaged", 0)) for entry in kept)
    with path.open("a", encoding="utf-8") as file, _shown() as show:
        yield TrainLog(file, show, steps, damaged)


@contextmanager
def _shown() -> Iterator[Callable[[Text], None]]:
    """Yield what shows a line: in place on a terminal, now and then a new one elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        last = -math.inf

        def print_now_and_then(line: Text) -> None:
            nonlocal last
            if time.monotonic() - last >= _PLAIN_SECONDS:
                console.print(line, soft_wrap=True)
                last = time.monotonic()

        yield print_now_and_then
        return
    with Live(Text("starting"), console=console, refresh_per_second=4) as live:
        try:
            yield live.update
        except BaseException:
            live.transient = True  # an error is all that is left to read
            raise


def read_log(path: Path) -> list[dict[str, float]]:
    """Return the records of a ``log.jsonl``; none where there is no file."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    # The last line of a killed run may be half written.
    return [json.loads(line) for line in lines if line.endswith("}")]


def _line(step: int, steps: int, values: dict[str, float], left: float) -> Text:
    minutes, seconds = divmod(int(left), 60)
    return Text(
        f"step {step:,}/{steps:,}  loss {values['loss']:.3f} (score {values['score']:.3f}, box "
        f"{values['box']:.3f})  rate {values['rate']:.2e}  norm {values['norm']:.2f}  "
        f"{values['pairs_per_second']:.1f} pairs/s  data {values['data_wait']:.0%}  "
        f"{minutes}:{seconds:02d} left",
        no_wrap=True,
    )
