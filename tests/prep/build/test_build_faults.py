"""Builds that are killed, or whose disk or store gives up: nothing half is ever taken for whole."""

import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lorat.prep.build.folder import finished
from lorat.prep.build.plan import BuildOptions, make_plan
from lorat.prep.build.run import build
from lorat.shards.base import storage
from lorat.shards.base.errors import UserError
from lorat.shards.manifest import MANIFEST, load_manifest

OPTIONS = BuildOptions(pairs=48, shard_pairs=4, workers=1)
FORK = multiprocessing.get_context("fork")
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_clips) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    build(tiny_clips, folder, OPTIONS)
    return folder / "toy-train"


def contents(folder: Path) -> dict[str, bytes]:
    """Everything of a finished build that has to be the same however it came about."""
    kinds = (".tar.zst", ".idx", ".receipt.json", "manifest.json")
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name.endswith(kinds)}


def run_forked(work: Callable[[], object], kill_after: float | None = None) -> int | None:
    process = FORK.Process(target=work)
    process.start()
    if kill_after is not None:
        process.join(kill_after)
        process.kill()
    process.join()
    return process.exitcode


def check_what_is_there(clips, shards: Path, whole: Path) -> int:
    """Everything that counts as finished is what an undisturbed build wrote."""
    plan = make_plan(clips, shards, OPTIONS)
    done = finished(plan, plan.mine())
    for receipt in done.values():
        for name in (receipt.shard, receipt.shard.replace(".tar.zst", ".idx")):
            assert (plan.folder / name).read_bytes() == (whole / name).read_bytes()
    if (plan.folder / MANIFEST).is_file():
        assert load_manifest(plan.folder).fingerprint() == load_manifest(whole).fingerprint()
        assert len(done) == plan.shards()
    return len(done)


def test_killed_before_and_after_every_single_write(tiny_clips, tmp_path, whole, monkeypatch):
    """Each run goes one write further than the one before, then kills itself."""
    rename = Path.replace
    steps = multiprocessing.Value("i", 0)

    def step() -> None:
        steps.value -= 1
        if steps.value == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(number: int) -> None:  # what was written outlives a process without it
        step()

    def replace_file(self: Path, target: Path) -> Path:
        step()
        moved = rename(self, target)
        step()
        return moved

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace_file)
    options = replace(OPTIONS, pairs=8)
    build(tiny_clips, tmp_path / "0", options)
    kills, before = 0, -1
    for allowed in range(1, 200):
        shards = tmp_path / str(allowed)
        steps.value = allowed
        code = run_forked(lambda shards=shards: build(tiny_clips, shards, options))
        steps.value = 0
        plan = make_plan(tiny_clips, shards, options)
        done = finished(plan, plan.mine())
        assert all((plan.folder / r.shard).read_bytes() == (whole / r.shard).read_bytes() for r in done.values())
        assert len(done) >= before
        before = len(done)
        if code == 0:
            break
        assert code == KILLED
        kills += 1
        monkeypatch.setattr(storage, "_LEFT_AFTER", -1.0)
        build(tiny_clips, shards, options)
        assert not [p for p in plan.folder.iterdir() if p.name.endswith(".tmp")]
        assert contents(plan.folder) == contents(tmp_path / "0" / "toy-train")
    assert kills >= 8 * 4  # plan, 3 files of each of 2 shards, manifest; 4 moments each


def test_killed_at_fifty_random_moments(tiny_clips, tmp_path, whole, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    rng = random.Random(0)
    begin = time.monotonic()
    assert run_forked(lambda: build(tiny_clips, tmp_path / "timed", OPTIONS)) == 0
    takes = time.monotonic() - begin
    kills, tries, seen = 0, 0, set()
    while kills < 50:
        shards = tmp_path / f"try-{tries}"
        while True:
            work = lambda shards=shards: build(tiny_clips, shards, OPTIONS)  # noqa: E731
            code = run_forked(work, rng.uniform(0.0, takes))
            seen.add(check_what_is_there(tiny_clips, shards, whole))
            if code == 0:
                break
            assert code == KILLED
            kills += 1
        assert contents(shards / "toy-train") == contents(whole)
        tries += 1
    assert len(seen) > 4  # the kills fell all over the build


def test_an_extension_that_is_killed_leaves_the_old_shards_or_the_new_ones(tiny_clips, tmp_path):
    """The last shard of 46 pairs is short and is written anew for 60."""
    small, large = replace(OPTIONS, pairs=46), replace(OPTIONS, pairs=60)
    build(tiny_clips, tmp_path / "large", large)
    for number, fraction in enumerate((0.1, 0.3, 0.6)):
        shards = tmp_path / str(number)
        build(tiny_clips, shards, small)
        run_forked(lambda shards=shards: build(tiny_clips, shards, large), 0.2 * fraction)
        build(tiny_clips, shards, large)
        assert contents(shards / "toy-train") == contents(tmp_path / "large/toy-train")


def test_a_worker_process_that_is_killed_is_one_line_and_the_next_run_goes_on(tiny_clips, tmp_path, whole):
    def kill_one(done: int, total: int) -> None:
        if 12 <= done < total:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    with pytest.raises(UserError, match="worker process was killed"):
        build(tiny_clips, tmp_path, replace(OPTIONS, workers=2), kill_one)
    assert not multiprocessing.active_children()
    assert 0 < check_what_is_there(tiny_clips, tmp_path, whole) < 12
    build(tiny_clips, tmp_path, replace(OPTIONS, workers=2))
    assert contents(tmp_path / "toy-train") == contents(whole)


LIMITED = """
import pickle, resource, sys
from lorat.prep.build.run import build
with open(sys.argv[1], "rb") as file:
    limit, arguments = pickle.load(file)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
build(*arguments)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_may_not_grow_stops_the_build_in_one_line(tiny_clips, tmp_path, whole, workers):
    """The limit lets the small shards through and stops at the first that is larger."""
    sizes = sorted(p.stat().st_size for p in whole.glob("*.tar.zst"))
    asked = tmp_path / "asked"
    arguments = (tiny_clips, tmp_path, replace(OPTIONS, workers=workers))
    asked.write_bytes(pickle.dumps((sizes[len(sizes) // 2], arguments)))
    command = [sys.executable, "-c", LIMITED, str(asked)]
    run = subprocess.run(command, capture_output=True, text=True)
    message = run.stderr.splitlines()[-1]
    assert "UserError" in message and "cannot be written" in message and ".tar.zst" in message
    assert check_what_is_there(tiny_clips, tmp_path, whole) < 12
    folder = tmp_path / "toy-train"
    assert not (folder / MANIFEST).is_file()
    assert not [p for p in folder.iterdir() if p.name.endswith(".tmp")]
    build(tiny_clips, tmp_path, OPTIONS)
    assert contents(folder) == contents(whole)


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for some of the shards; its size can be changed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except FileNotFoundError:
            return False

    if not mount("size=160k"):
        pytest.skip("no file system can be mounted here")
    yield folder, mount
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_stops_the_build_in_one_line(tiny_clips, small_disk, whole, workers):
    disk, mount = small_disk
    options = replace(OPTIONS, workers=workers)
    for _ in range(2):  # trying again on the full disk does no harm
        with pytest.raises(UserError, match=r"cannot be written \(No space left"):
            build(tiny_clips, disk, options)
        assert 0 < check_what_is_there(tiny_clips, disk, whole) < 12
    assert mount("remount,size=10m")
    build(tiny_clips, disk, options)
    assert contents(disk / "toy-train") == contents(whole)
