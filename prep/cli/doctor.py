"""``lorat-prep doctor``: what a machine has, and what that means for building and training.

Promise: nothing is changed and nothing is downloaded; one file is written beside the shards for as long as the disk is
measured. What is missing comes with its remedy. The measurements take a second or two each and see the machine as busy
as it is.
"""

import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from timeit import repeat, timeit
from typing import NamedTuple

import click
import cv2
import numpy as np
import zstandard
from rich.table import Table
from rich.text import Text

from lorat.prep.commandline import Command, LocationType
from lorat.shards.base.console import OUT
from lorat.shards.base.errors import UserError
from lorat.shards.base.process import usable_cores
from lorat.shards.base.storage import Location
from lorat.shards.pixels.jpeg import codec_name, decode, encode

_BACKBONES = "LORAT_BACKBONES"
_CARD = Path("/dev/nvidia0")
_CGROUP = Path("/sys/fs/cgroup")  # where Linux says how much a container may use
_SHARED = Path("/dev/shm")
_FRAME = (1920, 1080)
_SHARE_OF_CODEC = 0.7  # of its processing time that a build spends in the codec
_WORKER_GB = 0.6  # a process that has torch imported
_PAIR_BYTES = 100_000  # a stored pair of full HD frames, about
_PAIRS = 500_000  # the default of a large data set
_FILE_BYTES = 64 << 20
_READS = 200
_LEAST_FILES = 1024


class Diagnosis(NamedTuple):
    """One thing that the machine has or lacks."""

    part: str
    found: str
    means: str = ""
    remedy: str = ""
    """What to do; empty where all is well."""


@click.command("doctor", cls=Command)
@click.argument("folder", type=LocationType(), default=Path("data/shards"))
def doctor_command(folder: Location) -> None:
    """Tell what this machine has and what that means for builds and trainings.

    The disk of FOLDER (data/shards) is measured with a file of 64 MB. What is missing comes with its remedy, marked
    with '!'. Exit status 0 whatever is found.
    """
    if not isinstance(folder, Path):
        raise UserError(f"{folder}: is in a store; name a local folder, whose disk is measured")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    parts = [*machine(), codec(), disk(folder), *limits(), *compute(), backbones(), *software()]
    for part, found, means, remedy in parts:
        lines = [Text(found)]
        lines += [Text(f"→ {means}", style="dim")] if means else []
        lines += [Text(f"! {remedy}", style="yellow")] if remedy else []
        table.add_row(part, Text("\n").join(lines))
    OUT.print(table)


def machine(group: Path = _CGROUP) -> Iterator[Diagnosis]:
    """Yield the cores and the memory, or what a container's limits leave of them."""
    limits = {file.name: file.read_text().strip() for file in group.glob("*.max")}
    usable, total = usable_cores(), os.cpu_count() or 1
    quota, _, period = limits.get("cpu.max", "").partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(quota) < usable * int(period):
        left = int(quota) / int(period)
        whole = max(1, int(left))
        yield Diagnosis(
            "cores",
            f"{usable}, of which a container limit leaves {left:g}",
            "more processes than that only take turns",
            f"give builds --workers {whole} and trainings data.workers of {whole} at most",
        )
    else:
        found = str(usable) if usable == total else f"{usable} of {total}"
        means = f"builds run {usable} processes unless --workers says otherwise"
        yield Diagnosis("cores", found, means)
    memory, limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), ""
    if limits.get("memory.max", "").isdecimal() and int(limits["memory.max"]) < memory:
        memory, limit = int(limits["memory.max"]), " (a container limit)"
    workers = int(memory / 1e9 / _WORKER_GB / 2)
    means = f"a loader process takes up to {_WORKER_GB} GB; {workers:,} fit into half of it"
    small = "use few loader processes (data.workers of 1 or 2)" if workers < 4 else ""
    yield Diagnosis("memory", f"{memory / 1e9:.1f} GB{limit}", means, small)


def codec() -> Diagnosis:
    """Return the JPEG codec and what a build of full HD frames takes with it."""
    name, rng = codec_name(), np.random.default_rng(0)
    frame = np.full((_FRAME[1], _FRAME[0], 3), 110.0, dtype=np.float32)
    for cells in (4, 16, 64, 256):  # detail at all scales, about as hard to code as a photograph
        noise = rng.normal(scale=100.0 / cells**0.5, size=(cells + 2, 2 * cells + 2, 3))
        frame += cv2.resize(noise.astype(np.float32), _FRAME, interpolation=cv2.INTER_CUBIC)
    drawn = np.clip(frame, 0, 255).astype(np.uint8)
    data, window = encode(drawn, 90), np.ascontiguousarray(drawn[:540, :720])
    # The shortest of several runs: other programs only make them longer.
    reading = min(repeat(lambda: decode(data), number=1, repeat=30))
    writing = min(repeat(lambda: encode(window), number=1, repeat=30))
    # Two frames are decoded for a pair; the template image is small beside the search image.
    rate = _SHARE_OF_CODEC / (2 * reading + writing)
    found = (
        f"{name}; a full HD frame decodes in {reading * 1e3:.1f} ms, "
        f"a window of 720 x 540 encodes in {writing * 1e3:.1f} ms"
    )
    means = (
        f"about {rate:,.0f} pairs/s a core where frames are full HD; {_PAIRS:,} pairs in "
        f"{_PAIRS / rate / 3600:,.1f} core hours"
    )
    remedy = (
        "install libturbojpeg, which is faster (Debian, Ubuntu: apt-get install libturbojpeg0; "
        "macOS: brew install jpeg-turbo); shards name their codec, so begin new ones after that"
    )
    return Diagnosis("JPEG", found, means, remedy if name.startswith("opencv") else "")


def disk(folder: Path) -> Diagnosis:
    """Measure the disk under a folder, or under the nearest one above that is there."""
    there = next(f for f in (folder, *folder.absolute().parents) if f.is_dir())
    free = shutil.disk_usage(there).free
    room = f"{free / 1e9:,.1f} GB free under {there}"
    means = f"room for {free // _PAIR_BYTES:,} pairs of 100 KB (full HD)"
    if free < 4 * _FILE_BYTES:
        return Diagnosis("disk", room, means, f"make room, or name another folder than {there}")
    try:
        write, read, reads = _disk_speed(there)
    except OSError as error:
        remedy = f"make {there} writable, or name another folder"
        return Diagnosis("disk", room, f"not measured ({error.strerror})", remedy)
    rates = (
        f"{room}; writes {write / 1e6:,.0f} MB/s, reads {read / 1e6:,.0f} MB/s, {reads:,.0f} random reads of 100 KB/s"
    )
    means += f"; feeds trainings with about {reads:,.0f} pairs/s"
    if not hasattr(os, "posix_fadvise"):
        means += ", as far as the cache lets see"
    slow = "" if reads >= 500 else "with slow seeks, train with data.window_shards=8"
    return Diagnosis("disk", rates, means, slow)


def _disk_speed(folder: Path) -> tuple[float, float, float]:
    """Return bytes a second written and read in order, and reads of a stored pair a second."""
    rng = np.random.default_rng(0)
    data = rng.bytes(_FILE_BYTES)
    places = rng.integers(0, _FILE_BYTES - _PAIR_BYTES, _READS).tolist()
    with tempfile.TemporaryFile(prefix=".lorat-doctor-", dir=folder, buffering=0) as file:
        number = file.fileno()

        def write() -> None:
            file.write(data)
            os.fsync(number)

        def read(length: int, places: range | list[int], advice: str) -> float:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)  # forget what is cached
                os.posix_fadvise(number, 0, 0, getattr(os, advice))
            return timeit(lambda: [os.pread(number, length, at) for at in places], number=1)

        written = timeit(write, number=1)
        in_order = read(1 << 20, range(0, _FILE_BYTES, 1 << 20), "POSIX_FADV_SEQUENTIAL")
        seeking = read(_PAIR_BYTES, places, "POSIX_FADV_RANDOM")  # nothing is read ahead
    return _FILE_BYTES / written, _FILE_BYTES / in_order, _READS / seeking


def limits(shared: Path = _SHARED) -> Iterator[Diagnosis]:
    """Yield two limits that end trainings in the middle: open files, and shared memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    more = _LEAST_FILES if hard == resource.RLIM_INFINITY else min(hard, _LEAST_FILES)
    few = f"ulimit -n {more}" if not unlimited and soft < _LEAST_FILES else ""
    means = "a loader process keeps up to 64 shards open"
    yield Diagnosis("open files", "no limit" if unlimited else f"{soft:,}", means, few)
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        means = "loader processes hand batches over through it"
        remedy = "give it more (docker run --shm-size=8g), or train with data.workers=0"
        place = f"{size / 1e9:.1f} GB in {shared}"
        yield Diagnosis("shared memory", place, means, remedy if size < 1e9 else "")


def compute() -> Iterator[Diagnosis]:
    """Yield what trainings compute with; torch is imported here, since it takes seconds."""
    try:
        import torch

        from lorat.train.network.deploy.devices import pick_device, pick_dtype
    except (ImportError, OSError) as error:
        remedy = "install it as pytorch.org says for this machine"
        yield Diagnosis("torch", f"does not import ({error})", "no training here", remedy)
        return
    device = pick_device("auto")
    number_type = str(pick_dtype("auto", device, training=True)).removeprefix("torch.")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    found = f"{torch.__version__}, {build}, {torch.get_num_threads()} threads"
    yield Diagnosis("torch", found, f"trains on {device}")
    if device.type == "cuda":
        for number in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(number)
            found = f"{card.name}, {card.total_memory / 1e9:.0f} GB"
            yield Diagnosis(f"GPU {number}", found, f"trains in {number_type}")
        return
    slow = "float32; only processors with AMX or AVX512-BF16 are faster in bfloat16"
    fast = "bfloat16, which this processor is fast at"
    yield Diagnosis("numbers", fast if number_type == "bfloat16" else slow)
    remedy = "an NVIDIA card is here; install a torch that sees it (pytorch.org), or its driver"
    seen = _CARD.exists() or shutil.which("nvidia-smi") is not None
    means = "enough for the toy and still recipes; the standard recipe wants a GPU"
    yield Diagnosis("GPU", "none", means, remedy if seen else "")


def backbones() -> Diagnosis:
    """Return which pretrained weights lie where training looks for them."""
    folder = os.environ.get(_BACKBONES)
    if not folder:
        means = "pretrained weights come from timm's hub, over the network, or from --backbone FILE"
        return Diagnosis("backbones", f"{_BACKBONES} is not set", means)
    if not Path(folder).is_dir():
        remedy = f"set {_BACKBONES} to the folder that holds <timm name>.safetensors"
        return Diagnosis("backbones", f"{folder}: no such folder", remedy=remedy)
    files = sorted(p.name for p in Path(folder).iterdir() if p.suffix in (".safetensors", ".pth"))
    return Diagnosis("backbones", f"{len(files)} files in {folder}", ", ".join(files))


def software() -> Iterator[Diagnosis]:
    """Yield the versions of what runs here, and what optional parts are lacking."""
    version = importlib.metadata.version
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    means = f"OpenCV {cv2.__version__}, NumPy {np.__version__}"
    yield Diagnosis("software", f"lorat {version('lorat')}, {system}", means)
    library = ".".join(map(str, zstandard.ZSTD_VERSION))
    found = f"library {library} (python-zstandard {zstandard.__version__})"
    if shutil.which("zstd"):
        yield Diagnosis("zstd", f"{found}, and the command", "shards can be read by hand, too")
    else:
        remedy = "for 'zstd -dc … | tar t', install zstd (apt-get install zstd, brew install zstd)"
        means = "builds and trainings do not need it"
        yield Diagnosis("zstd", f"{found}, no command", means, remedy)
    for package, extra, purpose in (
        ("ray", "ray", "builds on a cluster (build --engine ray)"),
        ("s3fs", "s3", "shards in S3 (s3://bucket/folder)"),
        ("av", "video", "videos of what is tracked (lorat-eval video)"),
    ):
        if importlib.util.find_spec(package):
            yield Diagnosis(package, version(package), f"{purpose} work")
        else:
            remedy = f"for {purpose}: pip install 'lorat[{extra}]'"
            yield Diagnosis(package, "not installed", "optional", remedy)
