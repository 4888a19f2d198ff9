"""Tracking beside other work: S-224, one target, the network alone, in processes of their own and in the number type
that is fast here.

Sides: ours, whose threads wait briefly and follow the cores that are free, and PyTorch's defaults. The other work is
two processes that count for ever, started before the sides are, and ended here. A round is some frames of the one and
then of the other: without other work, beside it, and after it, when ours has had time to see that it is gone.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.timing import in_turn

__all__ = ["run", "serve"]

_OTHERS = 2
_CHILD = "import sys; from benchmarks.shared_cores import serve; serve(sys.argv[1] == 'ours', sys.argv[2] == 'quick')"
_ROOT = Path(__file__).parents[1]  # where children find this package


def run(quick: bool) -> dict[str, float | str]:
    """Measure both sides, alone and beside other work.

    Args:
        quick: a narrow network, one round.
    """
    rounds = 1 if quick else 12
    with _side("ours", quick) as ours, _side("plain", quick) as plain:
        alone = in_turn(rounds, {"ours": ours, "plain": plain})
    with _busy(_OTHERS) as end_others, _side("ours", quick) as ours, _side("plain", quick) as plain:
        beside = in_turn(rounds, {"ours": ours, "plain": plain})
        end_others()
        seen = time.monotonic() + (0.0 if quick else 6.0)
        while time.monotonic() < seen:
            ours()
        after = in_turn(rounds, {"ours": ours, "plain": plain})
    numbers: dict[str, float | str] = {}
    for name, times in (("alone", alone), ("beside", beside), ("after", after)):
        numbers[f"{name}_fps"] = round(1.0 / times.median("ours"), 2)
        numbers[f"{name}_speedup"] = round(times.ratio("plain", "ours"), 3)
    return numbers


@contextmanager
def _busy(count: int) -> Iterator[Callable[[], None]]:
    """Yield what ends the other work."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]

    def end() -> None:
        for other in others:
            other.kill()
            other.wait()

    try:
        yield end
    finally:
        end()


@contextmanager
def _side(name: str, quick: bool) -> Iterator[Callable[[], int]]:
    """Yield what lets a process of that side track some frames, once it is ready."""
    command, pipe = [sys.executable, "-c", _CHILD, name, "quick" if quick else "full"], subprocess.PIPE
    with subprocess.Popen(command, cwd=_ROOT, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        asks, answers = child.stdin, child.stdout

        def track() -> int:
            asks.write("\n")
            asks.flush()
            return int(answers.readline())

        try:
            answers.readline()
            yield track
        finally:
            asks.close()  # which ends it


def serve(ours: bool, quick: bool) -> None:
    """Track some frames for every line that comes in, and answer how many; the start is as the commands'."""
    if ours:
        from lorat.shards.base.process import wait_briefly

        wait_briefly()
    import torch

    from benchmarks.tracking import random_network
    from lorat.train.network.deploy.processor import Threads, settle_threads

    network, variant = random_network(quick)
    threads = settle_threads(network, 1) if ours else Threads()
    tokens = torch.randn(1, network.template_grid**2, network.token_type_embed.shape[1])
    search, frames = torch.randn(1, 3, variant.search_size, variant.search_size), 1 if quick else 5
    print("ready", flush=True)
    with torch.inference_mode():
        for _ in sys.stdin:
            for _ in range(frames):
                with threads.following():
                    network.follow(tokens, search)
            print(frames, flush=True)
