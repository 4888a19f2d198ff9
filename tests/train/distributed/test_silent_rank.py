"""A rank that falls silent keeps no other from ending: it is named, and what is done is saved."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lorat.train.checkpoint.checkpoints import checkpoint_record, find_checkpoint
from tests.train.conftest import command_line, log_of, recorded, wait_for, with_train

STEPS = 24


@pytest.fixture
def arguments(tmp_path, tiny_variant, tiny_recipe, tiny_shards) -> list[str]:
    recipe = with_train(tiny_recipe, epochs=8, checkpoint_epochs=8, checkpoint_minutes=0.0)
    return command_line(tmp_path, tiny_variant, recipe, tiny_shards, "--no-eval", f"--run={tmp_path / 'run'}")


@pytest.fixture
def stop(tmp_path) -> Iterator:
    """Stops one rank of the run in `tmp_path`, and returns the processes of both; none is left behind."""
    ranks: list[int] = []

    def stop(rank: int) -> list[int]:
        logs = [(tmp_path / f"run/log-rank-{n}.txt").read_text() for n in (0, 1)]
        ranks[:] = [int(re.search(r"process (\d+) on", text)[1]) for text in logs]
        os.kill(ranks[rank], signal.SIGSTOP)
        return ranks

    yield stop
    for process in ranks:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def gone(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().split()[2] == "Z"


def start(runner, arguments: list[str], run: Path) -> None:
    runner.start_two(arguments, *[{"LORAT_PATIENCE": "1", "LORAT_GRACE": "1"}] * 2)
    wait_for(lambda: recorded(run) >= 3)


def test_rank_0_names_it_and_saves_the_last_complete_step_when_it_is_asked_to_end(runner, arguments, stop, tmp_path):
    run = tmp_path / "run"
    start(runner, arguments, run)
    first, silent = stop(1)
    wait_for(lambda: "waiting for rank 1 in " in runner.errors.read_text().replace("\n", " "))
    os.kill(first, signal.SIGTERM)
    wait_for(lambda: gone(first))
    os.kill(silent, signal.SIGKILL)
    code, errors = runner.wait()
    assert code == 143 and "Traceback" not in errors, errors
    newest, done = find_checkpoint(run), log_of(run)[-1]["step"]
    assert checkpoint_record(newest).step in (done, done + 1)  # perhaps it waited for what is logged of a step
    assert f"SIGTERM: saved {newest}; go on with --resume auto" in errors.replace("\n", "")
    runner.run([*arguments, "--resume=auto"])
    assert log_of(run)[-1]["step"] == STEPS


def test_where_rank_0_is_silent_others_end_and_it_saves_when_it_comes_back(runner, arguments, stop, tmp_path):
    run = tmp_path / "run"
    start(runner, arguments, run)
    silent, other = stop(0)
    os.kill(other, signal.SIGTERM)
    wait_for(lambda: gone(other))
    assert find_checkpoint(run) is None
    os.kill(silent, signal.SIGCONT)
    code, errors = runner.wait()
    assert code == 2 and "Traceback" not in errors, errors
    newest = find_checkpoint(run)
    assert f"without the other ranks: saved {newest}" in errors.replace("\n", "")
    assert "rank 0 of 2 lost the others" in errors
