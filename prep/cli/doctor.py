"""``lorat-prep doctor``: what a machine has, and what that means for building and training.

Promise: nothing is changed but for a file that the disk is measured with, nothing is downloaded, and what is missing
comes with its remedy. What a pair costs here is for ``lorat-prep build`` to say, which first cuts some of the tree's.
"""

import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from timeit import timeit
from typing import NamedTuple

import click
import cv2
import numpy as np
import zstandard
from rich.table import Table
from rich.text import Text

from lorat.configs.load import load_variant
from lorat.prep.commandline import Command, LocationType
from lorat.shards.base.console import OUT
from lorat.shards.base.errors import UserError, counted
from lorat.shards.base.machine import allowed_cores, core_quota, free_cores, memory_limits, usable_cores
from lorat.shards.base.storage import Location
from lorat.shards.pixels.jpeg import codec_name

_BACKBONES = "LORAT_BACKBONES"
_CARD = Path("/dev/nvidia0")
_WORKER_GB = 0.6  # a process that has torch imported
_LEAST_FILES = 1024
_PAIR_BYTES = 100_000  # a stored pair of full HD frames, about
_FILE_BYTES = 64 << 20  # written to measure a disk


class Diagnosis(NamedTuple):
    """One thing that the machine has or lacks; where all is well there is no remedy."""

    part: str
    found: str
    means: str = ""
    remedy: str = ""


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


def machine() -> Iterator[Diagnosis]:
    """Yield the cores and the memory, or what limits of containers and schedulers leave of them."""
    usable, allowed, total, quota = usable_cores(), allowed_cores(), os.cpu_count() or 1, core_quota()
    found, remedy = str(allowed) if allowed == total else f"{allowed} of {total}", ""
    if quota < allowed:
        found += f", of which a container limit leaves {quota:g}"
    free = free_cores()
    if free < usable - 0.5:
        remedy = f"other work leaves {free:.1f} of them free now; what is measured or timed here is slower for it"
    yield Diagnosis("cores", found, f"builds run {usable} processes unless --workers says otherwise", remedy)
    memory, limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), ""
    if (least := min((each.limit for each in memory_limits()), default=memory)) < memory:
        memory, limit = least, " (a container limit)"
    workers = int(memory / 1e9 / _WORKER_GB / 2)
    means = f"a loader process takes up to {_WORKER_GB} GB; {workers:,} fit into half of it"
    remedy = "use few loader processes (data.workers of 1 or 2)" if workers < 4 else ""
    yield Diagnosis("memory", f"{memory / 1e9:.1f} GB{limit}", means, remedy)


def codec() -> Diagnosis:
    """Return the JPEG codec, which takes most of a build's time."""
    faster = "install libturbojpeg, which is faster (apt-get install libturbojpeg0, brew install jpeg-turbo)"
    remedy = f"{faster}; shards name their codec, so begin new ones after that"
    return Diagnosis("JPEG", codec_name(), remedy=remedy if codec_name().startswith("opencv") else "")


def disk(folder: Path) -> Diagnosis:
    """Measure the disk under a folder, or under the nearest one above that is there."""
    there = next(f for f in (folder, *folder.absolute().parents) if f.is_dir())
    free = shutil.disk_usage(there).free
    found = f"{free / 1e9:,.1f} GB free under {there}"
    means = f"room for {free // _PAIR_BYTES:,} pairs of 100 KB (full HD)"
    if free < 4 * _FILE_BYTES:
        return Diagnosis("disk", found, means, f"make room, or name another folder than {there}")
    try:
        write, read, pairs = _disk_speed(there)
    except OSError as error:
        means = f"not measured ({error.strerror})"
        return Diagnosis("disk", found, means, f"make {there} writable, or name another folder")
    found += f"; writes {write:,.0f} MB/s, reads {read:,.0f} MB/s, {pairs:,.0f} random reads of 100 KB/s"
    slow = "" if pairs >= 500 else "with slow seeks, train with data.window_shards=8"
    return Diagnosis("disk", found, f"{means}; feeds trainings with about {pairs:,.0f} pairs/s", slow)


def _disk_speed(folder: Path) -> tuple[float, float, float]:
    """Return megabytes a second written and read in order, and reads of a stored pair a second."""
    data, step = os.urandom(_FILE_BYTES), 1 << 20
    places = np.random.default_rng(0).integers(0, _FILE_BYTES - _PAIR_BYTES, 200).tolist()
    with tempfile.TemporaryFile(prefix=".lorat-doctor-", dir=folder, buffering=0) as file:

        def read(length: int, places: Iterable[int]) -> float:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # forget what is cached
            return timeit(lambda: [os.pread(file.fileno(), length, at) for at in places], number=1)

        def write() -> None:
            file.write(data)
            os.fsync(file.fileno())

        written = timeit(write, number=1)
        in_order, seeking = read(step, range(0, _FILE_BYTES, step)), read(_PAIR_BYTES, places)
    return _FILE_BYTES / 1e6 / written, _FILE_BYTES / 1e6 / in_order, len(places) / seeking


def limits(shared: Path = Path("/dev/shm")) -> Iterator[Diagnosis]:
    """Yield two limits that end trainings in the middle: open files, and shared memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    more = _LEAST_FILES if hard == resource.RLIM_INFINITY else min(hard, _LEAST_FILES)
    few = f"ulimit -n {more}" if not unlimited and soft < _LEAST_FILES else ""
    found = "no limit" if unlimited else f"{soft:,}"
    yield Diagnosis("open files", found, "a loader process keeps up to 64 shards open", few)
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        found, means = f"{size / 1e9:.1f} GB in {shared}", "loader processes hand batches over through it"
        remedy = "give it more (docker run --shm-size=8g), or train with data.workers=0" if size < 1e9 else ""
        yield Diagnosis("shared memory", found, means, remedy)


def compute() -> Iterator[Diagnosis]:
    """Yield what trainings compute with; torch is imported here, since it takes seconds."""
    try:
        import torch

        from lorat.train.network.deploy.devices import pick_device, pick_dtype
        from lorat.train.network.deploy.processor import Product, measured
        from lorat.train.network.variants import empty_network
    except (ImportError, OSError) as error:
        means = "no training here"
        yield Diagnosis("torch", f"does not import ({error})", means, "install it as pytorch.org says for this machine")
        return
    device = pick_device("auto")
    build = f"{torch.__version__}, {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'without CUDA'}"
    found = f"{build}, {counted(torch.get_num_threads(), 'thread')}"
    network = empty_network(load_variant("B-224"))
    if device.type == "cpu":
        times, when = measured(Product.of(network))
        number_type = f"{times.dtype}, since bfloat16 is {times.speedup:.2g} x as fast as float32 ({when}, for B-224)"
    else:
        number_type = str(pick_dtype("auto", device, network, training=True))
    yield Diagnosis("torch", found, f"trains on {device} in {number_type.removeprefix('torch.')}")
    if device.type == "cuda":
        for number in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(number)
            yield Diagnosis(f"GPU {number}", f"{card.name}, {card.total_memory / 1e9:.0f} GB")
        return
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
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    means = f"OpenCV {cv2.__version__}, NumPy {np.__version__}, zstandard {zstandard.__version__}"
    yield Diagnosis("software", f"lorat {version('lorat')}, {system}", means)
    for part, there, extra, purpose in (
        ("zstd", shutil.which("zstd"), "", "shards by hand (zstd -dc … | tar t)"),
        ("ray", find_spec("ray"), "ray", "builds on a cluster (build --engine ray)"),
        ("s3fs", find_spec("s3fs"), "s3", "shards in S3 (s3://bucket/folder)"),
        ("av", find_spec("av"), "video", "videos of what is tracked (lorat-eval video)"),
    ):
        how = f"pip install 'lorat[{extra}]'" if extra else "apt-get install zstd, brew install zstd"
        if there:
            yield Diagnosis(part, version(part) if extra else "the command", f"{purpose} work")
        else:
            yield Diagnosis(part, "not installed", "optional", f"for {purpose}: {how}")
