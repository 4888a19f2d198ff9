"""What a training says: a line on the terminal, ``log.jsonl``, and notes above the line."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lorat.shards.base.disk import explain_disk
from lorat.shards.base.storage import atomic_file

_PLAIN_SECONDS = 30.0  # between lines where there is no terminal

Entry = dict[str, Any]
Listener = Callable[[int, Mapping[str, Any]], None]  # is told the number of steps done and what is written about them


class TrainLog:
    """Writes each record as a line of ``log.jsonl`` and shows the newest: in place on a terminal, else now and then."""

    def __init__(self, file: IO[str], steps: int, kept: list[Entry], first_step: int) -> None:
        self._file, self._steps = file, steps
        self.damaged = sum(int(entry.get("damaged", 0)) for entry in kept)  # samples, of resumed parts too
        self._before = float(kept[-1].get("seconds", 0.0)) if kept else 0.0
        self._validation = next((entry["val_loss"] for entry in reversed(kept) if "val_loss" in entry), None)
        self.known = [entry for entry in kept if entry["step"] == first_step]  # of a run that goes on from there
        self._start = time.perf_counter()
        self._since: list[tuple[int, float]] = [(first_step, self._start)]  # a step, and when it was reached
        self.listeners: list[Listener] = []  # are told too, of all that is written from now on
        self._console = Console(stderr=True)
        # Transient until all went well: an error is all that is left to read.
        live = Live(Text("starting"), console=self._console, refresh_per_second=4, transient=True)
        self.live = live if self._console.is_terminal else None
        self._printed, self._waiting = -math.inf, ""

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Write what `Meter.read` says of the steps up to `step` (steps done); refresh the line."""
        self._write(step, values)
        self.damaged += int(values["damaged"])
        # At the speed since the first record, which has compiling in it; before the second, at the speed so far.
        (first, since), now = self._since[-1], time.perf_counter()
        self._since = [*self._since, (step, now)][:2]
        left = (self._steps - step) * (now - since) / max(step - first, 1)
        at = f"{step:,}/{self._steps:,}"
        extras = [] if self._validation is None else [f"val {self._validation:.3f}"]
        if values.get("skipped"):
            extras.append(f"{values['skipped']} steps overflowed")
        if self.damaged:
            extras.append(f"{self.damaged:,} damaged samples replaced")
        self._show(lambda width: status_line(at, values, left, extras, width))

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Write other results of `step`, such as ``val_loss``, as a line of their own, unless they were told before."""
        if not any(e["step"] == step and values.items() <= e.items() for e in self.known):
            self._write(step, values)

    def say(self, text: str) -> None:
        """Print a line above the one that refreshes."""
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def show(self, text: str) -> None:
        """Refresh the line with what goes on between two steps."""
        self._show(lambda width: text[:width])

    def flush(self) -> None:
        """Print the line that waits for its time where there is no terminal."""
        if self._waiting:
            self.say(self._waiting)
        self._waiting = ""

    def _show(self, line: Callable[[int], str]) -> None:
        """Show what `line` makes of the width in columns, in the place of what was shown."""
        if self.live is not None:
            self.live.update(Text(line(self._console.width), no_wrap=True, overflow="ellipsis"))
            return
        self._waiting = line(1000)
        if time.monotonic() - self._printed >= _PLAIN_SECONDS:
            self.flush()
            self._printed = time.monotonic()

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        seconds = self._before + time.perf_counter() - self._start
        with explain_disk(Path(self._file.name)):
            self._file.write(json.dumps({"step": step, "seconds": round(seconds, 2), **values}) + "\n")
            self._file.flush()
        self._validation = values.get("val_loss", self._validation)
        for listener in self.listeners:
            listener(step, values)


@contextmanager
def open_log(run: Path, steps: int, first_step: int) -> Iterator[TrainLog]:
    """Open a run's log; what it says past `first_step` is cut off, because it comes again."""
    path = run / "log.jsonl"
    kept = [entry for entry in read_log(path) if entry["step"] <= first_step]
    with atomic_file(path) as whole:
        whole.writelines((json.dumps(entry) + "\n").encode() for entry in kept)
    with explain_disk(path):
        file = path.open("a", encoding="utf-8")
    log = TrainLog(file, steps, kept, first_step)
    try:
        with log.live or nullcontext():
            yield log
            if log.live is not None:
                log.live.transient = False
        log.flush()
    finally:
        with suppress(OSError):  # every line is flushed; what the disk refused has been told
            file.close()


def read_log(path: Path) -> list[Entry]:
    """Return the lines of a ``log.jsonl``, if any: of training steps those with a ``loss``, else of other results."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    # The last line of a killed run may be half written.
    return [json.loads(line) for line in lines if line.endswith("}")]


def status_line(at: str, values: Mapping[str, Any], seconds: float, extras: list[str], width: int) -> str:
    """Return the line that is shown, in the longest of its forms that fits into `width` columns. The shortest fits into
    80 where the training is in order. `at` is how far the run is, `values` are of `Meter.read`, `seconds` are those to
    the end, and `extras` are said where there is room.
    """
    loss, score, box = (f"{values[name]:.3f}" for name in ("loss", "score", "box"))
    rate, speed, left = values["rate"], values["pairs_per_second"], _duration(seconds)
    norm, data = f"norm {values['norm']:.2f}", f"data {values['data_wait']:.0%}"
    pairs = f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}"
    long = [f"step {at}", f"loss {loss} (score {score}, box {box})", f"rate {rate:.2e}", norm]
    long += [f"{pairs} pairs/s", data, f"{left} left"]
    middle = [at, f"loss {loss} ({score} + {box})", *long[2:4], f"{pairs}/s", *long[5:]]
    short = [at, f"loss {loss} ({score}+{box})", f"{rate:.0e}", norm, f"{pairs}/s", data, left]
    forms = ["  ".join(parts) for parts in (long + extras, middle + extras, long, middle)]
    return next((form for form in forms if len(form) <= width), " ".join(short))


def _duration(seconds: float) -> str:
    """Return a time of at most five columns: 0:42, 12:05, 5h03, 2d04h."""
    minutes, rest = divmod(int(seconds), 60)
    (hours, minutes), days = divmod(minutes, 60), minutes // 1440
    if days:
        return f"{days}d{hours % 24:02d}h"
    return f"{hours}h{minutes:02d}" if hours else f"{minutes}:{rest:02d}"
