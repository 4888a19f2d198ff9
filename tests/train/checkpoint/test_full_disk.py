"""A disk that is full while a training writes: nothing older is lost, and the run goes on from it.

The run folder lies on a small file system of its own, which really fills up.
"""

import errno
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lorat.train.checkpoint.checkpoints import checkpoints_of, find_checkpoint
from tests.train.conftest import command_line, log_of, recorded, wait_for, with_train
from tests.train.states import assert_same_state

ROOMY = 64 << 20


@dataclass(frozen=True)
class Disk:
    """A file system in memory."""

    folder: Path

    def mount(self, size: int, *, again: bool = False) -> bool:
        options = f"{'remount,' if again else ''}size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        try:
            return subprocess.run(command, check=False, capture_output=True).returncode == 0
        except FileNotFoundError:
            return False

    def fill(self) -> None:
        """Write until not one byte more goes."""
        with (self.folder / "other").open("ab", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while file.write(b"\0" * size):
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    found = Disk(tmp_path / "disk")
    found.folder.mkdir()
    if not found.mount(ROOMY):
        pytest.skip("no file system may be mounted here")
    try:
        yield found
    finally:
        subprocess.run(["umount", str(found.folder)], check=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_variant, tiny_recipe, tiny_shards) -> list[str]:
    """Three steps an epoch; every epoch's checkpoint is kept, other steps have a rolling one."""
    recipe = with_train(tiny_recipe, epochs=8, keep_checkpoints=8, checkpoint_steps=1, checkpoint_minutes=0)
    given = tmp_path_factory.mktemp("files"), tiny_variant, recipe, tiny_shards
    return command_line(*given, "--no-eval", "--resume=auto")


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def told(run: Path) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in log_of(run)]


def test_the_checkpoints_of_a_run_fill_its_disk(runner, files, whole, disk):
    """Room for three epochs', two rolling ones and half of one more."""
    run = disk.folder / "run"
    one = sum(path.stat().st_size for path in (whole / "checkpoints/epoch_0001").iterdir())
    beside = sum(path.stat().st_size for path in whole.iterdir() if path.is_file())
    assert disk.mount(int(5.5 * one) + beside, again=True)
    arguments = [*files, f"--run={run}"]
    kept = [*(f"epoch_{n:04d}" for n in (1, 2, 3)), "step_00000007", "step_00000008"]
    for _ in range(2):  # trying again on the full disk does no harm
        errors = runner.run(arguments, status=2)
        *warnings, last = [s for s in errors.splitlines() if "cannot be written" in s]
        assert [re.search(r"step_\d+", s)[0] for s in warnings] == ["step_00000010", "step_00000011"]
        assert all("warning: the training goes on without a checkpoint" in s for s in warnings)
        assert last.startswith(f"Error: {run / 'checkpoints/epoch_0004'}/") and "No space left" in last
        assert f"make room on the disk of {run / 'checkpoints'}" in last
        assert names(run) == kept and find_checkpoint(run).name == "epoch_0003"
        for name in kept[:3]:
            assert_same_state(run / "checkpoints" / name, whole / "checkpoints" / name)
    assert disk.mount(ROOMY, again=True)
    runner.run(arguments)
    assert_same_state(find_checkpoint(run), find_checkpoint(whole))
    assert told(run) == told(whole)


FEW = ["--set=train.checkpoint_epochs=9", "--set=train.checkpoint_steps=3"]


@pytest.mark.parametrize(("saving", "asked"), [([], 0), (FEW, 0), (FEW, signal.SIGTERM)], ids=["saves", "logs", "ends"])
def test_another_program_fills_the_disk_to_the_last_byte(runner, files, whole, disk, saving, asked):
    """A run saves next, or adds to its log until that does not go, or is asked to end."""
    run = disk.folder / "run"
    arguments = [*files, f"--run={run}"]
    process = runner.start([*arguments, *saving])
    wait_for(lambda: recorded(run) >= 4)
    os.killpg(process, signal.SIGSTOP)
    before = {path.name for path in checkpoints_of(run)}
    disk.fill()
    if asked:
        os.killpg(process, asked)
    os.killpg(process, signal.SIGCONT)
    code, errors = runner.wait()
    assert code == 2 and "Traceback" not in errors, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("Error: ") and "cannot be written (No space left" in last
    assert {path.name for path in checkpoints_of(run)} == before >= {find_checkpoint(run).name}
    (disk.folder / "other").unlink()
    runner.run(arguments)
    assert_same_state(find_checkpoint(run), find_checkpoint(whole))
    assert told(run) == told(whole)
