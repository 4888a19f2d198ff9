"""Times two ways of doing the same, in turn, so that other load on the machine hits both."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Times", "in_turn", "median_ratio"]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds an item of each side, one of each round."""

    seconds: Mapping[str, list[float]]
    cpu_seconds: Mapping[str, list[float]]
    """Of this process alone: time that other processes took is not in it."""

    def median(self, side: str) -> float:
        """Return the median of a side, in seconds an item."""
        return statistics.median(self.seconds[side])

    def ratio(self, side: str, to: str) -> float:
        """Return the median over the rounds of the time of `side` divided by that of `to`."""
        return median_ratio(self.seconds[side], self.seconds[to])

    def cpu_ratio(self, side: str, to: str) -> float:
        """Return `ratio` in processor time."""
        return median_ratio(self.cpu_seconds[side], self.cpu_seconds[to])


def in_turn(rounds: int, sides: Mapping[str, Callable[[], int]]) -> Times:
    """Run every side once a round, after a first round that is not counted.

    Args:
        rounds: that count.
        sides: name → what is timed; it returns how many items it did.
    """
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, work in sides.items():
            begin, begin_cpu = time.perf_counter(), time.process_time()
            items = work()
            if number:
                wall[name].append((time.perf_counter() - begin) / items)
                cpu[name].append((time.process_time() - begin_cpu) / items)
    return Times(wall, cpu)


def median_ratio(above: list[float], below: list[float]) -> float:
    """Return the median over the rounds of one side's seconds divided by the other's."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
