"""What a machine has, and what that means for building and training.

Promise: nothing is changed and nothing is downloaded; one file is written beside the shards for as
long as the disk is measured. What is missing comes with its remedy. The measurements take a second
or two each and see the machine as busy as it is.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import zstandard
from numpy.typing import NDArray

from lorat.shards.base.process import usable_cores
from lorat.shards.pixels.jpeg import codec_name, decode, encode

__all__ = [
    "DiskSpeed",
    "Finding",
    "codec",
    "cores",
    "disk",
    "extras",
    "files_and_shared_memory",
    "measure_disk",
    "memory",
    "software",
    "zstd",
]

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_SHARED = Path("/dev/shm")
_FRAME = (1920, 1080)
_SECONDS = 0.5  # of trying out the codec
_SHARE_OF_CODEC = 0.7  # of its processing time that a build spends in the codec
_WORKER_GB = 0.6  # a process that has torch imported
_PAIR_BYTES = 100_000  # a stored pair of full HD frames, about
_PAIRS = 500_000  # the default of a large data set
_FILE_BYTES = 64 << 20
_READS = 200
_LEAST_FILES = 1024
_EXTRAS = (
    ("ray", "ray", "builds on a cluster (build --engine ray)"),
    ("s3fs", "s3", "shards in S3 (s3://bucket/folder)"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the machine has or lacks."""

    name: str
    found: str
    means: str
    remedy: str = ""
    """What to do; empty where all is well."""


def software(version: str) -> Finding:
    """Return what runs here."""
    system = f"{platform.system()} {platform.machine()}"
    found = f"lorat {version}, Python {platform.python_version()}, {system}"
    return Finding("software", found, f"OpenCV {cv2.__version__}, NumPy {np.__version__}")


def cores(group: Path = _CGROUP) -> Finding:
    """Return the processor cores that this process may use.

    Args:
        group: where Linux says how much a container may use.
    """
    usable = usable_cores()
    quota = _quota(group)
    if quota is not None and quota < usable:
        whole = max(1, int(quota))
        return Finding(
            "cores",
            f"{usable}, of which a container limit leaves {quota:g}",
            "more processes than that only take turns",
            f"give builds --workers {whole} and trainings data.workers of {whole} at most",
        )
    total = os.cpu_count() or 1
    found = str(usable) if usable == total else f"{usable} of {total}"
    return Finding("cores", found, f"builds run {usable} processes unless --workers says otherwise")


def memory(meminfo: Path = _MEMINFO, group: Path = _CGROUP) -> Finding:
    """Return the memory of the machine, or what a container's limit leaves of it.

    Args:
        meminfo: where Linux tells it.
        group: where Linux says how much a container may use.
    """
    total = _memory_bytes(meminfo)
    limit_file = group / "memory.max"
    limit = limit_file.read_text().strip() if limit_file.is_file() else "max"
    found = f"{total / 1e9:.1f} GB"
    if limit.isdecimal() and int(limit) < total:
        total = int(limit)
        found = f"{total / 1e9:.1f} GB (a container limit)"
    workers = int(total / 1e9 / _WORKER_GB / 2)
    means = f"a loader process takes up to {_WORKER_GB} GB; {workers:,} fit into half of it"
    small = "use few loader processes (data.workers of 1 or 2)" if workers < 4 else ""
    return Finding("memory", found, means, small)


def codec() -> Finding:
    """Return the JPEG codec and what a build of full HD frames takes with it."""
    name = codec_name()
    frame = _drawn_frame()
    data = encode(frame, 90)
    window = np.ascontiguousarray(frame[:540, :720])
    reading = _best_time(lambda: decode(data))
    writing = _best_time(lambda: encode(window))
    # Two frames are decoded for a pair; the template image is small beside the search image.
    rate = _SHARE_OF_CODEC / (2 * reading + writing)
    hours = _PAIRS / rate / 3600
    found = (
        f"{name}; a full HD frame decodes in {reading * 1e3:.1f} ms, "
        f"a window of 720 x 540 encodes in {writing * 1e3:.1f} ms"
    )
    means = (
        f"about {rate:,.0f} pairs/s a core where frames are full HD; {_PAIRS:,} pairs in "
        f"{hours:,.1f} core hours"
    )
    if not name.startswith("opencv"):
        return Finding("JPEG", found, means)
    remedy = (
        "install libturbojpeg, which is faster (Debian, Ubuntu: apt-get install libturbojpeg0; "
        "macOS: brew install jpeg-turbo); shards name their codec, so begin new ones after that"
    )
    return Finding("JPEG", found, means, remedy)


def zstd() -> Finding:
    """Return the compressor, and whether its command is there."""
    version = ".".join(str(part) for part in zstandard.ZSTD_VERSION)
    found = f"library {version} (python-zstandard {zstandard.__version__})"
    if shutil.which("zstd"):
        return Finding("zstd", f"{found}, and the command", "shards can be read by hand, too")
    remedy = "for 'zstd -dc … | tar t', install zstd (apt-get install zstd, brew install zstd)"
    return Finding("zstd", f"{found}, no command", "builds and trainings do not need it", remedy)


def extras() -> list[Finding]:
    """Return which optional packages are installed."""
    found = []
    for package, extra, purpose in _EXTRAS:
        if importlib.util.find_spec(package):
            version = importlib.metadata.version(package)
            found.append(Finding(package, version, f"{purpose} work"))
        else:
            remedy = f"for {purpose}: pip install 'lorat[{extra}]'"
            found.append(Finding(package, "not installed", "optional", remedy))
    return found


def files_and_shared_memory(shared: Path = _SHARED) -> list[Finding]:
    """Return two limits that end trainings in the middle: open files, and shared memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    means = "a loader process keeps up to 64 shards open"
    few = not unlimited and soft < _LEAST_FILES
    more = _LEAST_FILES if hard == resource.RLIM_INFINITY else min(hard, _LEAST_FILES)
    files = "no limit" if unlimited else f"{soft:,}"
    found = [Finding("open files", files, means, f"ulimit -n {more}" if few else "")]
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        means = "loader processes hand batches over through it"
        remedy = "give it more (docker run --shm-size=8g), or train with data.workers=0"
        place = f"{size / 1e9:.1f} GB in {shared}"
        found.append(Finding("shared memory", place, means, remedy if size < 1e9 else ""))
    return found


@dataclass(frozen=True, slots=True)
class DiskSpeed:
    """Bytes a second, and reads of one stored pair a second."""

    write: float
    read: float
    random_reads: float
    cached: bool
    """Whether reads may have come from memory, because the system cannot be told to forget."""


def disk(folder: Path) -> Finding:
    """Measure the disk under a folder, or under the nearest one above that is there."""
    there = next(f for f in (folder, *folder.absolute().parents) if f.is_dir())
    free = shutil.disk_usage(there).free
    room = f"{free / 1e9:,.1f} GB free under {there}"
    means = f"room for {free // _PAIR_BYTES:,} pairs of 100 KB (full HD)"
    if free < 4 * _FILE_BYTES:
        return Finding("disk", room, means, f"make room, or name another folder than {there}")
    try:
        speed = measure_disk(there)
    except OSError as error:
        remedy = f"make {there} writable, or name another folder"
        return Finding("disk", room, f"not measured ({error.strerror})", remedy)
    rates = (
        f"{room}; writes {speed.write / 1e6:,.0f} MB/s, reads {speed.read / 1e6:,.0f} MB/s, "
        f"{speed.random_reads:,.0f} random reads of 100 KB/s"
    )
    cached = ", as far as the cache lets see" if speed.cached else ""
    means += f"; feeds trainings with about {speed.random_reads:,.0f} pairs/s{cached}"
    slow = "" if speed.random_reads >= 500 else "with slow seeks, train with data.window_shards=8"
    return Finding("disk", rates, means, slow)


def measure_disk(folder: Path) -> DiskSpeed:
    """Write a file of 64 MB, read it in order and then at random places; it goes afterwards.

    Raises:
        OSError: if the folder is not writable or full.
    """
    block = np.random.default_rng(0).integers(0, 256, 1 << 20, dtype=np.uint8).tobytes()
    number, name = tempfile.mkstemp(".tmp", ".lorat-doctor-", folder)
    try:
        begin = time.perf_counter()
        for turn in range(_FILE_BYTES // len(block)):
            os.write(number, turn.to_bytes(8, "little") + block[8:])
        os.fsync(number)
        written = time.perf_counter() - begin
        cached = not _forget(number)
        begin = time.perf_counter()
        for at in range(0, _FILE_BYTES, 1 << 20):
            os.pread(number, 1 << 20, at)
        read = time.perf_counter() - begin
        if _forget(number):
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead
        places = np.random.default_rng(1).integers(0, _FILE_BYTES - _PAIR_BYTES, _READS).tolist()
        begin = time.perf_counter()
        for at in places:
            os.pread(number, _PAIR_BYTES, at)
        seeking = time.perf_counter() - begin
    finally:
        os.close(number)
        Path(name).unlink(missing_ok=True)
    return DiskSpeed(_FILE_BYTES / written, _FILE_BYTES / read, _READS / seeking, cached)


def _forget(number: int) -> bool:
    """Ask the system to drop a file from its cache; returns whether it can."""
    if not hasattr(os, "posix_fadvise"):
        return False
    os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def _best_time(work: Callable[[], object]) -> float:
    """Return the shortest of several runs, in seconds: other programs only make it longer."""
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def _drawn_frame() -> NDArray[np.uint8]:
    """Return a full HD frame with detail at all scales, about as hard to code as a photograph."""
    rng = np.random.default_rng(0)
    frame = np.full((_FRAME[1], _FRAME[0], 3), 110.0, dtype=np.float32)
    for cells in (4, 16, 64, 256):
        shape = (_FRAME[1] * cells // 1024 + 2, _FRAME[0] * cells // 1024 + 2, 3)
        noise = rng.normal(scale=100.0 / cells**0.5, size=shape).astype(np.float32)
        frame += cv2.resize(noise, _FRAME, interpolation=cv2.INTER_CUBIC)
    return np.clip(frame, 0, 255).astype(np.uint8)


def _quota(group: Path) -> float | None:
    """Return the cores that a container's limit leaves, None where there is no limit."""
    file = group / "cpu.max"
    if not file.is_file():
        return None
    quota, _, period = file.read_text().strip().partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _memory_bytes(meminfo: Path) -> int:
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemTotal":
                return int(value.split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
