"""Tracking beside other work: S-224 in bfloat16, one target, the network alone, in processes of their own.

Sides: ours, whose threads wait briefly and follow the cores that are free, and PyTorch's defaults. The other work is
two processes that count for ever, started before the sides are, and ended here; and none.
"""

import subprocess
import sys
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
    numbers: dict[str, float | str] = {}
    for name, others in (("alone", 0), ("beside", _OTHERS)):
        with _busy(others), _side("ours", quick) as ours, _side("plain", quick) as plain:
            times = in_turn(1 if quick else 8, {"ours": ours, "plain": plain})
        numbers[f"{name}_fps"] = round(1.0 / times.median("ours"), 2)
        numbers[f"{name}_speedup"] = round(times.ratio("plain", "ours"), 3)
    return numbers


@contextmanager
def _busy(count: int) -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextmanager
def _side(name: str, quick: bool) -> Iterator[Callable[[], int]]:
    """Yield what lets a process of that side track some frames."""
    command, pipe = [sys.executable, "-c", _CHILD, name, "quick" if quick else "full"], subprocess.PIPE
    with subprocess.Popen(command, cwd=_ROOT, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        asks, answers = child.stdin, child.stdout

        def track() -> int:
            asks.write("\n")
            asks.flush()
            return int(answers.readline())

        try:
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
    from lorat.train.network.deploy.processor import settle_threads

    network, variant = random_network(quick)
    if ours:
        settle_threads(network, 1)
    tokens = torch.randn(1, network.template_grid**2, network.token_type_embed.shape[1])
    search, frames = torch.randn(1, 3, variant.search_size, variant.search_size), 1 if quick else 5
    with torch.inference_mode():
        for _ in sys.stdin:
            for _ in range(frames):
                network.track(tokens, search)
            print(frames, flush=True)
