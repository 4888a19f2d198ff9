"""Annotations on a disk that answers late: an index, and a start that only sees that nothing changed.

Every opening, stat and listing of this process waits 5 ms more, as over a network. The other side reads one file after
another: the same code with one thread. The tree is a small one of the index's benchmark.
"""

import builtins
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.index import write_tree
from benchmarks.timing import in_turn
from lorat.prep.annotations.index import indexed_clips
from lorat.prep.trees.base import reading
from lorat.prep.trees.registry import DATASETS

__all__ = ["late", "run"]

_SEQUENCES, _ROUNDS = 1000, 2
_DELAY = 0.005  # seconds
_CALLS = ((io, "open"), (builtins, "open"), (os, "open"), (os, "stat"), (os, "lstat"), (os, "scandir"))


def run(quick: bool) -> dict[str, float | str]:
    """Measure both with threads and without, in turn.

    Args:
        quick: a small tree, one round.

    Returns:
        Milliseconds a sequence of each, and how many times as fast it is as with one thread.
    """
    with tempfile.TemporaryDirectory(prefix="lorat-bench-slow-") as folder:
        tree, cache = Path(folder) / "TrackingNet", Path(folder) / "cache"
        write_tree(tree, _SEQUENCES // 25 if quick else _SEQUENCES)

        rounds = dict.fromkeys((1, many := reading._THREADS), 0)

        def side(threads: int, anew: bool) -> Callable[[], int]:
            def work() -> int:
                rounds[threads] += anew  # a cache of its own, which the start of the same round finds filled
                where = cache / f"{threads}-{rounds[threads]}"
                with patch.object(reading, "_THREADS", threads), late(_DELAY):
                    return len(indexed_clips(DATASETS["trackingnet"], "train", tree, cache=where))

            return work

        sides = {
            f"{what}{threads}": side(threads, what == "index") for what in ("index", "start") for threads in (many, 1)
        }
        times = in_turn(1 if quick else _ROUNDS, sides)
    found: dict[str, float | str] = {"late_threads": many}
    for what in ("index", "start"):
        found[f"late_{what}_ms"] = round(1e3 * times.median(f"{what}{many}"), 3)
        found[f"late_{what}_speedup"] = round(times.ratio(f"{what}1", f"{what}{many}"), 2)
    return found


@contextmanager
def late(seconds: float) -> Iterator[None]:
    """Let every opening, stat and listing of this process wait inside the block."""

    def waiting(call: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*args: Any, **options: Any) -> Any:
            time.sleep(seconds)
            return call(*args, **options)

        return wait

    before = [getattr(module, name) for module, name in _CALLS]
    for (module, name), call in zip(_CALLS, before, strict=True):
        setattr(module, name, waiting(call))
    try:
        yield
    finally:
        for (module, name), call in zip(_CALLS, before, strict=True):
            setattr(module, name, call)


if __name__ == "__main__":
    print(json.dumps(run("--quick" in sys.argv), indent=1))
