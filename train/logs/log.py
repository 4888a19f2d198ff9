"""What a training says: a line on the terminal, ``log.jsonl``, and notes above the line."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lorat.shards.base.storage import atomic_file, explain_disk

_PLAIN_SECONDS = 30.0  # between lines where there is no terminal

__all__ = ["Entry", "Listener", "Standing", "TrainLog", "open_log", "read_log", "status_line"]

Entry = dict[str, Any]
Listener = Callable[[int, Mapping[str, Any]], None]
"""Is told the number of steps done and what is written about them."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a run is."""

    step: int
    """Steps done."""
    steps: int
    left: float
    """Seconds to the end."""
    damaged: int = 0
    validation: float | None = None
    """Newest loss on pairs that are not trained on."""


class TrainLog:
    """Writes each record as a line of ``log.jsonl`` and shows the newest one."""

    def __init__(
        self, file: IO[str], screen: _Screen, steps: int, kept: list[Entry], first_step: int
    ) -> None:
        self._file, self._screen, self._steps = file, screen, steps
        self.damaged = sum(int(entry.get("damaged", 0)) for entry in kept)
        """Damaged samples over the whole run, resumed parts included."""
        self._before = float(kept[-1].get("seconds", 0.0)) if kept else 0.0
        self._validation = _newest(kept, "val_loss")
        self._known = [entry for entry in kept if entry["step"] == first_step]
        self._start = self._since = time.perf_counter()
        self._first_step = first_step
        self._settled = False
        self._listeners: list[Listener] = []

    def also(self, listener: Listener) -> None:
        """Tell `listener` too, of all that is written from now on."""
        self._listeners.append(listener)

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Write what `Meter.read` says of the steps up to `step` (steps done); refresh the line."""
        self._write(step, values)
        self.damaged += int(values["damaged"])
        self._validation = values.get("val_loss", self._validation)
        left = self._left(step)
        standing = Standing(step, self._steps, left, self.damaged, self._validation)
        self._screen.show(lambda width: status_line(standing, values, width))

    def has(self, step: int, name: str) -> bool:
        """Return whether a run that goes on after `step` told a value of that name of it before."""
        return any(name in entry for entry in self._known if entry["step"] == step)

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Write other results of `step`, such as ``val_loss``, as a line of their own.

        What a run that went on found once more, such as the scores at its end, is left out.
        """
        if any(e["step"] == step and values.items() <= e.items() for e in self._known):
            return
        self._write(step, values)
        self._validation = values.get("val_loss", self._validation)

    def say(self, text: str) -> None:
        """Print a line above the one that refreshes."""
        self._screen.say(text)

    def show(self, text: str) -> None:
        """Refresh the line with what goes on between two steps."""
        self._screen.show(lambda width: Text(text[:width], no_wrap=True))

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        seconds = self._before + time.perf_counter() - self._start
        entry = {"step": step, "seconds": round(seconds, 2), **values}
        with explain_disk(Path(self._file.name)):
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        for listener in self._listeners:
            listener(step, values)

    def _left(self, step: int) -> float:
        """Return the seconds to the end at the speed so far.

        What came before the first record does not count, once there are others: compiling and the
        start of workers are in it.
        """
        now = time.perf_counter()
        left = (self._steps - step) * (now - self._since) / max(step - self._first_step, 1)
        if not self._settled:
            self._settled = True
            self._since, self._first_step = now, step
        return left


def _newest(entries: list[Entry], name: str) -> float | None:
    return next((entry[name] for entry in reversed(entries) if name in entry), None)


@contextmanager
def open_log(run: Path, steps: int, first_step: int) -> Iterator[TrainLog]:
    """Open a run's log; what it says past `first_step` is cut off, because it comes again."""
    path = run / "log.jsonl"
    kept = [entry for entry in read_log(path) if entry["step"] <= first_step]
    with atomic_file(path) as whole:
        whole.writelines((json.dumps(entry) + "\n").encode() for entry in kept)
    with explain_disk(path):
        file = path.open("a", encoding="utf-8")
    try:
        with _screen() as screen:
            yield TrainLog(file, screen, steps, kept, first_step)
    finally:
        with suppress(OSError):  # every line is flushed; what the disk refused has been told
            file.close()


@dataclass(frozen=True, slots=True)
class _Screen:
    show: Callable[[Callable[[int], Text]], None]
    """Shows what a function makes of the width in columns, in the place of what was shown."""
    say: Callable[[str], None]


@contextmanager
def _screen() -> Iterator[_Screen]:
    """Yield what shows a line: in place on a terminal, now and then a new one elsewhere."""
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    if console.is_terminal:
        with Live(Text("starting"), console=console, refresh_per_second=4) as live:
            try:
                yield _Screen(lambda line: live.update(line(console.width)), say)
            except BaseException:
                live.transient = True  # an error is all that is left to read
                raise
        return
    last, waiting = -math.inf, None

    def print_now_and_then(line: Callable[[int], Text]) -> None:
        nonlocal last, waiting
        waiting = line(1000)
        if time.monotonic() - last >= _PLAIN_SECONDS:
            console.print(waiting, soft_wrap=True)
            last, waiting = time.monotonic(), None

    yield _Screen(print_now_and_then, say)
    if waiting is not None:
        console.print(waiting, soft_wrap=True)


def read_log(path: Path) -> list[Entry]:
    """Return the lines of a ``log.jsonl``; none where there is no file.

    Those of training steps have a ``loss``; others hold results such as ``val_loss``.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    # The last line of a killed run may be half written.
    return [json.loads(line) for line in lines if line.endswith("}")]


def status_line(standing: Standing, values: Mapping[str, Any], width: int) -> Text:
    """Return the line that is shown, in the longest of its forms that fits into `width` columns.

    The shortest fits into 80 as long as the numbers are those of a training in its order.
    """
    at = f"{standing.step:,}/{standing.steps:,}"
    left, v = _duration(standing.left), values
    loss, score, box = (f"{v[name]:.3f}" for name in ("loss", "score", "box"))
    speed, data = _number(v["pairs_per_second"]), f"data {v['data_wait']:.0%}"
    extras = _extras(standing, values)
    long = [
        f"step {at}",
        f"loss {loss} (score {score}, box {box})",
        f"rate {v['rate']:.2e}",
        f"norm {v['norm']:.2f}",
        f"{speed} pairs/s",
        data,
        f"{left} left",
    ]
    middle = [at, f"loss {loss} ({score} + {box})", *long[2:4], f"{speed}/s", data, long[-1]]
    short = [at, f"loss {loss} ({score}+{box})", f"{v['rate']:.0e}", long[3], f"{speed}/s", data]
    forms = ["  ".join(parts + extras) for parts in (long, middle)]
    forms += ["  ".join(parts) for parts in (long, middle)]
    forms.append(" ".join([*short[:2], f"rate {short[2]}", *short[3:], left]))
    forms.append(" ".join([*short, left]))
    text = next((form for form in forms if len(form) <= width), forms[-1])
    return Text(text, no_wrap=True, overflow="ellipsis")


def _extras(standing: Standing, values: Mapping[str, Any]) -> list[str]:
    extras = []
    if standing.validation is not None:
        extras.append(f"val {standing.validation:.3f}")
    if values.get("skipped"):
        extras.append(f"{values['skipped']} steps overflowed")
    if standing.damaged:
        extras.append(f"{standing.damaged:,} damaged samples replaced")
    return extras


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _duration(seconds: float) -> str:
    """Return a time of at most five columns: 0:42, 12:05, 5h03, 2d04h."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    return f"{hours}h{minutes:02d}" if hours else f"{minutes}:{rest:02d}"
