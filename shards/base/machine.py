"""What this process may use of its machine: cores, the limits of its container, and how much other work leaves.

Schedulers and containers set their limits on groups of processes below the root, so a process's own groups are
followed up to the root, in both versions of Linux's control groups. Elsewhere there are none.
"""

import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_GROUPS, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_STAT, _TASKS, _MEMORY = Path("/proc/stat"), Path("/proc/self/task"), Path("/proc/meminfo")
_NO_LIMIT = 1 << 60  # version 1 writes the largest number of pages that it can
MUCH = 0.2  # share of wanted time that is worth a line when it is lost
_LOOK = 0.2  # seconds


def usable_cores() -> int:
    """Return how many cores this process may use, by its affinity and its container's quota, to the nearest number."""
    return max(1, min(allowed_cores(), math.floor(min(core_quota(), sys.maxsize) + 0.5)))


def allowed_cores() -> int:
    """Return how many cores this process may run on: fewer than the machine has under a scheduler."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it, macOS does not
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cores_a_rank() -> int:
    """Return how many usable cores each of the ranks has that torchrun started on this machine."""
    return max(1, usable_cores() // local_ranks())


def local_ranks() -> int:
    """Return how many ranks torchrun started on this machine; 1 where it did not."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def processor_name() -> str:
    """Return what this machine's processor calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def core_quota(groups: Path = _GROUPS, mount: Path = _MOUNT) -> float:
    """Return how many cores' time the groups of this process leave it, such as 1.5; infinite without a limit."""
    return min((quota for group in _own_groups("cpu", groups, mount) for quota in _quota(group)), default=math.inf)


def _quota(group: Path) -> Iterator[float]:
    new = _words(group / "cpu.max")
    old = [*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
    for words in (new, old):
        if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):  # not "max", not "-1"
            yield int(words[0]) / int(words[1])


class MemoryLimit(NamedTuple):
    """What a group of processes may hold, in bytes."""

    limit: int
    left: int  # the files that it has read count as free


def memory_limits(groups: Path = _GROUPS, mount: Path = _MOUNT) -> list[MemoryLimit]:
    """Return the limits of the groups that this process is in."""
    names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    found = []
    for group in _own_groups("memory", groups, mount):
        for limit, usage in ((_words(group / a), _words(group / b)) for a, b in names):
            if limit and usage and limit[0].isdecimal() and (most := int(limit[0])) < _NO_LIMIT:
                stat = _words(group / "memory.stat")
                files = dict(zip(stat[::2], stat[1::2], strict=False)).get("inactive_file", "0")
                found.append(MemoryLimit(most, most - int(usage[0]) + int(files)))
    return found


def memory_left() -> int:
    """Return the bytes that this process could still take; where the system does not tell, all that there are."""
    if not _MEMORY.is_file():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    words = next(line.split() for line in _MEMORY.read_text().splitlines() if line.startswith("MemAvailable:"))
    return min(int(words[1]) * 1024, *(limit.left for limit in memory_limits()), sys.maxsize)


def _own_groups(controller: str, groups: Path, mount: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups of a controller and of all groups above them."""
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, names, own = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        tops = (names, controller) if names else ("", "unified")
        # A container may see its own group as the root, and yet be told its name outside.
        place = PurePosixPath(own)
        for top in dict.fromkeys(mount / top for top in tops):
            yield from (top / str(part).lstrip("/") for part in (place, *place.parents) if ".." not in part.parts)


def _words(file: Path) -> list[str]:
    return file.read_text().split() if file.is_file() else []


class CoreWatch:
    """How many cores other work leaves this process, over the times that it watches. What the process itself uses, and
    what runs at a lower priority, counts as free. Where the system does not tell, all are.
    """

    def __init__(self) -> None:
        self.seconds = 0.0  # watched so far
        self._own, self._idle, self._every = 0.0, 0, 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs."""
        begin, own, before = time.monotonic(), time.process_time(), _ticks()
        yield
        idle, every = (now - then for now, then in zip(_ticks(), before, strict=True))
        self._idle, self._every = self._idle + idle, self._every + every
        self._own += time.process_time() - own
        self.seconds += time.monotonic() - begin

    def mean(self) -> float:
        """Return how many were free, after some hundredths of a second: that is how the kernel counts."""
        if not self._every:
            return float(usable_cores())
        return min(core_quota(), allowed_cores() * self._idle / self._every + self._own / self.seconds)


def free_cores(seconds: float = _LOOK) -> float:
    """Watch for some time, asleep, and return what `CoreWatch` saw."""
    watch = CoreWatch()
    with watch.watching():
        time.sleep(seconds)
    return watch.mean()


def _ticks() -> tuple[int, int]:
    """Return the ticks of the allowed cores so far that are free for this process, and all; 0 where nothing tells."""
    if not _STAT.is_file():
        return 0, 0
    cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    rows = [line.split() for line in _STAT.read_text().splitlines() if line.startswith("cpu")]
    counts = [[int(word) for word in words] for name, *words in rows if name in cores]
    lower = os.getpriority(os.PRIO_PROCESS, 0) <= 0  # then others that are counted as nice give way
    # user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of user and nice
    return sum(row[3] + row[4] + lower * row[1] for row in counts), sum(sum(row[:8]) for row in counts)


class Lost:
    """How much of the time that this process wanted a core it had none, from now on."""

    def __init__(self) -> None:
        """Begin to count."""
        self._begin = _scheduled()

    def line(self) -> str:
        """Return a warning where much was lost, so that a speed is not taken for the program's; else nothing."""
        share = self.share()
        what = f"for {share:.0%} of the time that this process wanted a core, other work had it"
        return f"the processor is shared: {what}; the speed is not what a free one gives" if share > MUCH else ""

    def share(self) -> float:
        """Return the share so far, of all threads that are there, 0 … 1; 0 where the system does not tell."""
        ran, waited = (max(now - then, 0) for now, then in zip(_scheduled(), self._begin, strict=True))
        return waited / (ran + waited) if waited else 0.0


def _scheduled() -> tuple[int, int]:
    """Return the nanoseconds that the threads of this process ran, and that they were ready and waited."""
    rows = [_task_words(task) for task in _TASKS.iterdir()] if _TASKS.is_dir() else []
    told = [(int(row[0]), int(row[1])) for row in rows if len(row) == 3]
    return sum(ran for ran, _ in told), sum(waited for _, waited in told)


def _task_words(task: Path) -> list[str]:
    try:
        return (task / "schedstat").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []  # it ended meanwhile
