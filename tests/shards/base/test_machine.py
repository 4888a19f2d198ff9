"""Limits of one's own groups are found in both versions, and what other work takes is seen."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorat.shards.base import machine
from lorat.shards.base.machine import CoreWatch, Lost, MemoryLimit, core_quota, free_cores, memory_limits, usable_cores

BUSY = [sys.executable, "-c", "while True: pass"]
ASK = "from lorat.shards.base.machine import *; print(core_quota(), usable_cores())"


@pytest.fixture
def tree(tmp_path):
    """Writes ``/proc/self/cgroup`` and files of groups; returns what `core_quota` and `memory_limits` take."""

    def written(own: str, files: dict[str, str]) -> tuple[Path, Path]:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            (tmp_path / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "mount" / name).write_text(text)
        return tmp_path / "own", tmp_path / "mount"

    return written


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {}, math.inf),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/job/step\n", {"job/cpu.max": "200000 100000\n", "job/step/cpu.max": "max 100000\n"}, 2.0),
        ("0::/job/step\n", {"job/cpu.max": "200000 100000\n", "job/step/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/other\n", {"job/cpu.max": "50000 100000\n"}, math.inf),
        ("0::/../gone\n", {"cpu.max": "50000 100000\n"}, 0.5),  # seen from inside a container
        (
            "4:cpu,cpuacct:/\n0::/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "9"},
            math.inf,
        ),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "70000", "cpu/a/cpu.cfs_period_us": "100000"}, 0.7),
        ("4:cpu:/docker/1\n", {"cpu/cpu.cfs_quota_us": "70000", "cpu/cpu.cfs_period_us": "100000"}, 0.7),
        ("3:cpuset:/a\n0::/b\n", {"unified/b/cpu.max": "30000 100000", "cpuset/a/cpu.max": "1 9"}, 0.3),
    ],
)
def test_the_smallest_quota_of_ones_own_groups_counts(tree, own, files, quota):
    assert core_quota(*tree(own, files)) == quota


def test_memory_is_what_each_group_allows_and_has_left(tree):
    new = {"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 500\ninactive_file 150\n"}
    groups = tree("0::/job\n", {f"job/{name}": text for name, text in new.items()} | {"memory.max": "max"})
    assert memory_limits(*groups) == [MemoryLimit(1000, 450)]
    old = {"limit_in_bytes": "3000", "usage_in_bytes": "700", "stat": "cache 3\n"}
    unlimited = {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "1"}
    groups = tree("5:memory:/a\n", {f"memory/a/memory.{name}": text for name, text in old.items()} | unlimited)
    assert memory_limits(*groups) == [MemoryLimit(3000, 2300)]


def test_a_machine_without_groups_has_no_limits(tmp_path):
    assert core_quota(tmp_path / "none") == math.inf and memory_limits(tmp_path / "none") == []


@pytest.mark.parametrize(("quota", "cores"), [(0.2, 1), (1.4, 1), (1.5, 2), (2.6, 3), (99.0, 4), (math.inf, 4)])
def test_usable_cores_are_those_of_affinity_and_quota(monkeypatch, quota, cores):
    monkeypatch.setattr(machine, "allowed_cores", lambda: 4)
    monkeypatch.setattr(machine, "core_quota", lambda: quota)
    assert usable_cores() == cores


@pytest.fixture
def limited() -> Iterator[Path]:
    """The list of members of a real group with half a core, a level below the root."""
    for root, write in (
        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}),
        (Path("/sys/fs/cgroup"), {"cpu.max": "50000 100000"}),
    ):
        group = root / f"lorat-test-{os.getpid()}"
        try:
            (group / "below").mkdir(parents=True)
            for name, text in write.items():
                (group / name).write_text(text)
        except OSError:
            for folder in (group / "below", group):
                if folder.is_dir():
                    folder.rmdir()
            continue
        yield group / "below" / "cgroup.procs"
        (group / "below").rmdir()
        group.rmdir()
        return
    pytest.skip("groups cannot be made here")


def test_a_real_quota_below_the_root_is_seen(limited):
    def enter() -> None:
        limited.write_text(str(os.getpid()))

    seen = subprocess.run([sys.executable, "-c", ASK], preexec_fn=enter, capture_output=True, text=True, check=True)
    assert seen.stdout.split() == ["0.5", "1"]


@pytest.mark.skipif(not Path("/proc/self/schedstat").is_file(), reason="the system does not tell")
def test_time_that_other_work_had_the_core_is_lost_and_not_free():
    core = {min(os.sched_getaffinity(0))}
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, core)
    others = [subprocess.Popen(BUSY) for _ in range(3)]
    try:
        lost, end = Lost(), time.monotonic() + 1.0
        while time.monotonic() < end:
            pass
        assert lost.share() > 0.4 and "other work had it" in lost.line()
        assert free_cores() < 0.5
        assert _free_while_busy() < 0.6
    finally:
        for other in others:
            other.kill()
            other.wait()
        os.sched_setaffinity(0, before)


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="the system does not tell")
def test_what_this_process_uses_itself_is_free():
    usable = usable_cores()
    share = Lost()
    free = _free_while_busy()
    assert free <= usable + 0.2 and free > 0.8 * (1 - share.share())


def _free_while_busy() -> float:
    """Watch in three parts, between which nobody does."""
    watch = CoreWatch()
    for _ in range(3):
        with watch.watching():
            end = time.monotonic() + 0.2
            while time.monotonic() < end:
                pass
        time.sleep(0.05)
    assert 0.6 <= watch.seconds < 10.0
    return watch.mean()
