"""A run goes on after whatever ended it: kills, signals, a lost rank, a refused write.

Most runs here are forked from one process that has imported everything (`runner`, of the conftest).
"""

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorat.shards.base.errors import UserError
from lorat.shards.base.signals import Heard, hear_signals
from lorat.train.checkpoint.checkpoints import STATE, checkpoint_record, checkpoints_of, find_checkpoint
from lorat.train.data.places import Steps
from lorat.train.distributed.rendezvous import rank_timeout
from lorat.train.distributed.world import join_world
from tests.train.conftest import ONE_THREAD, TORCHRUN, command_line, free_port, log_of, recorded, wait_for, with_train
from tests.train.states import assert_same_state, contents

SLOW = 200.0  # seconds that a busy machine may take for anything here
STEPS = 24


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_variant, tiny_recipe, tiny_shards) -> list[str]:
    """A run of 24 steps in 8 epochs, a checkpoint every epoch and a rolling one every 2 steps."""
    recipe = with_train(tiny_recipe, epochs=8, checkpoint_steps=2, checkpoint_minutes=0, keep_checkpoints=2)
    given = tmp_path_factory.mktemp("files"), tiny_variant, recipe, tiny_shards
    return command_line(*given, "--no-eval", "--resume=auto")


def assert_same(run: Path, whole: Path) -> None:
    """Weights and optimiser are the same bit for bit, and the log tells of every step once."""
    assert_same_state(find_checkpoint(run), find_checkpoint(whole))
    told, expected_told = log_of(run), log_of(whole)
    assert [r["step"] for r in told] == list(range(1, STEPS + 1))
    assert [r["loss"] for r in told] == [r["loss"] for r in expected_told]


def assert_close(run: Path, whole: Path) -> None:
    """Weights of two processes are those of one within rounding, each step told once."""
    assert [r["step"] for r in log_of(run)] == list(range(1, STEPS + 1))
    weights, expected = (contents(find_checkpoint(each))[0] for each in (run, whole))
    assert all(torch.allclose(weights[n], expected[n], atol=2e-3) for n in expected)


def saves(run: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any((run / "checkpoints").glob(".*.tmp"))


def test_killed_at_random_moments_a_run_ends_as_if_never_stopped(runner, files, whole, tmp_path):
    rng, kills, in_saving = random.Random(7), 0, 0
    for number in range(10):  # a quick machine ends a run before it was killed often enough
        run = tmp_path / f"run{number}"
        arguments = [*files, f"--run={run}"]
        times, saving = kill_on_the_way(runner, arguments, run, rng)
        kills, in_saving = kills + times, in_saving + saving
        runner.run(arguments)
        assert_same(run, whole)
        assert not saves(run)
        if kills >= 3 and in_saving >= 1:
            break
    assert kills >= 3 and in_saving >= 1


def kill_on_the_way(runner, arguments: list[str], run: Path, rng: random.Random) -> tuple[int, int]:
    """Kill a run again and again until it ends; return how often, and how often while it saved."""
    goal, kills, in_saving = 0, 0, 0
    while goal < STEPS:
        process, goal = runner.start(arguments), goal + rng.randint(1, 5)
        wait_until(process, lambda goal=goal: recorded(run) >= goal)
        if kills % 2 == 0:  # every other one while a checkpoint is half written
            wait_until(process, lambda: saves(run))
        else:
            time.sleep(rng.uniform(0.0, 0.05))
        half = saves(run)
        kill(process)
        code, errors = runner.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL, errors
        kills, in_saving = kills + 1, in_saving + bool(half)
    return kills, in_saving


def wait_until(process: int, happened: Callable[[], bool]) -> None:
    """Wait for something, or for the end of a run."""
    wait_for(lambda: happened() or ended(process))


def ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def kill(process: int, number: int = signal.SIGKILL) -> bool:
    """Signal a run with its loader workers, and say whether it was there."""
    try:
        os.killpg(process, number)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_end_a_run_saves_its_last_step_and_goes_on_from_it(runner, files, whole, tmp_path, number, status):
    """The whole group is asked, loader workers too."""
    run = tmp_path / "run"
    arguments = [*files, f"--run={run}", "--set=train.checkpoint_steps=0", "--set=data.workers=1"]
    process = runner.start(arguments)
    wait_for(lambda: recorded(run) >= 4)
    assert kill(process, number)
    code, errors = runner.wait()
    assert code == status and "Traceback" not in errors, errors
    newest = find_checkpoint(run)
    assert log_of(run)[-1]["step"] == checkpoint_record(newest).step
    assert str(newest) in errors.replace("\n", "") and "--resume auto" in errors
    runner.run(arguments)
    assert_same(run, whole)


def test_a_second_ctrl_c_ends_at_once(capfd):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended, hear_signals(Heard("asked")) as heard:
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: heard.number == signal.SIGINT)
        assert "Ctrl-C once more ends at once" in capfd.readouterr().err
        os.kill(os.getpid(), signal.SIGTERM)  # no second Ctrl-C
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(SLOW)
    assert ended.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_a_limit_on_file_sizes_leaves_rolling_checkpoints_out_and_stops_at_an_epochs(runner, files, whole, tmp_path):
    run = tmp_path / "run"
    arguments = [*files, f"--run={run}"]
    runner.run([*arguments, "--set=train.checkpoint_epochs=8"])
    size = (find_checkpoint(run) / STATE).stat().st_size
    for folder in checkpoints_of(run):
        if folder.name != "step_00000022":
            (folder / "checkpoint.json").unlink()
    last = runner.run(arguments, limit=size // 2, status=2).strip().splitlines()[-1]
    assert "state.pt: cannot be written" in last and "epoch_0008" in last
    assert find_checkpoint(run).name == "step_00000022"
    runner.run(arguments)
    assert_same(run, whole)


def test_torchrun_brings_a_run_back_when_a_rank_dies(files, whole, tmp_path):
    run = tmp_path / "run"
    command = [*TORCHRUN, "--max-restarts=1", "--monitor-interval=0.1"]
    command += ["-m", "lorat.train.cli", *files, f"--run-dir={run}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=ONE_THREAD, **pipes) as launcher:
        wait_for(lambda: recorded(run) >= 5 or launcher.poll() is not None)
        ranks = list(map(int, Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()))
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        output, _ = launcher.communicate(timeout=SLOW)
    assert launcher.returncode == 0, output
    assert_close(run, whole)


def test_torchrun_that_is_asked_to_end_saves_and_other_ranks_and_workers_go_on(runner, files, whole, tmp_path):
    run = tmp_path / "run"
    command = [*TORCHRUN, "-m", "lorat.train.cli", *files, f"--run-dir={run}"]
    quiet = ["--set=train.checkpoint_steps=0", "--set=data.workers=1"]
    with subprocess.Popen([*command, *quiet], env=ONE_THREAD, stderr=subprocess.PIPE) as launcher:
        wait_for(lambda: recorded(run) >= 4 or launcher.poll() is not None)
        launcher.send_signal(signal.SIGTERM)
        _, errors = launcher.communicate(timeout=SLOW)
    assert launcher.returncode != 0
    newest = find_checkpoint(run)
    assert newest is not None, errors
    assert log_of(run)[-1]["step"] == checkpoint_record(newest).step < STEPS
    assert f"saved {newest}" in errors.decode().replace("\n", "")
    runner.run([*files, f"--run={run}"])
    assert_close(run, whole)


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_other_ranks_go_on_with_the_same_global_batches(source, stop):
    """What is drawn at a step does not depend on how many ranks there were, or are."""

    def batches(first: int, world: int) -> list[list[Any]]:
        ranks = [list(Steps(source, first, rank, world)) for rank in range(world)]
        return [sorted(place for part in parts for place in part) for parts in zip(*ranks, strict=True)]

    unbroken = batches(0, 1)
    for world in (2, 4, 8):
        assert batches(stop, world) == unbroken[stop:]


def test_a_rank_that_meets_nobody_says_what_to_check(runner, files, tmp_path):
    for rank in ("0", "1"):
        port = free_port()
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LORAT_TIMEOUT": "1"}
        alone = {**place, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
        last = runner.run([*files, f"--run={tmp_path / 'run'}"], alone, status=2).strip().splitlines()[-1]
        assert re.search(rf"rank {rank} of 2 did not meet .*127\.0\.0\.1:{port} within 1 s", last)
        assert "--rdzv-endpoint" in last
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["soon", "0", "inf"])
def test_a_mistyped_timeout_is_refused(monkeypatch, text):
    monkeypatch.setenv("LORAT_TIMEOUT", text)
    with pytest.raises(UserError, match=f"LORAT_TIMEOUT is '{text}'"):
        rank_timeout()


def test_ranks_that_are_not_told_where_to_meet_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match=r"MASTER_ADDR.* torchrun"), join_world("cpu"):
        pass
