"""Each rank keeps what it prints, and what ends it, in a file of its own."""

import re
import sys
from pathlib import Path

import pytest
import torch

from lorat.shards.base.errors import UserError
from lorat.train.distributed.world import World
from lorat.train.logs import rank_log as kept
from lorat.train.logs.rank_log import rank_log
from tests.train.conftest import ALONE, train

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


def lines(path: Path) -> list[str]:
    return [re.sub(rf"^{TIME}", "", line) for line in path.read_text().splitlines()]


def test_whole_lines_are_kept_and_a_line_that_is_drawn_anew_once(tmp_path, capsys):
    with rank_log(tmp_path, ALONE):
        print("first")
        print("half of ", end="", file=sys.stderr)
        for step in (1, 2, 3):
            sys.stderr.write(f"\r\x1b[2K\x1b[36mstep {step}\x1b[0m")
        print(file=sys.stderr)
        assert sys.stdout.encoding  # all else is the stream's
    begin, *rest = lines(tmp_path / "log-rank-0.txt")
    assert begin.startswith("rank 0 of 1, process ") and begin.endswith(", cpu")
    assert rest == ["first", "step 3", "done"]
    printed = capsys.readouterr()
    assert printed.out == "first\n" and printed.err.count("step") == 3


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (UserError("x.yaml: wrong"), r"UserError: x\.yaml: wrong$"),
        (ValueError("y"), "Traceback .*\n(.*\n)*ValueError: y$"),
    ],
)
def test_what_ends_a_rank_is_its_last_line(tmp_path, error, wanted):
    with pytest.raises(type(error)), rank_log(tmp_path, World(1, 2, torch.device("cpu"))):
        raise error
    assert re.search(wanted, (tmp_path / "log-rank-1.txt").read_text())
    assert not isinstance(sys.stdout, kept._Copy)


def test_a_disk_that_is_full_ends_the_copy_and_nothing_else(tmp_path, caplog):
    (tmp_path / "log-rank-0.txt").symlink_to("/dev/full")
    with rank_log(tmp_path, ALONE):
        print("first")
    assert [m for m in caplog.messages if "not written any more" in m and "goes on" in m] == caplog.messages
    assert len(caplog.messages) == 1


def test_two_ranks_have_two_files_and_a_resumed_run_appends(runner, files, tmp_path):
    run = tmp_path / "run"
    short = [*files, "--no-eval", "--set=train.epochs=1", f"--run={run}"]
    runner.run_two(short)
    first, second = (lines(run / f"log-rank-{rank}.txt") for rank in (0, 1))
    assert any(line.startswith("weights: ") for line in first) and any(" parameters trained" in line for line in first)
    assert second[0].startswith("rank 1 of 2, process ") and second[-1] == "done"
    assert not any(line.startswith("weights: ") for line in second)
    train(*short, "--resume=auto")
    again = lines(run / "log-rank-0.txt")
    assert again[: len(first)] == first and again[len(first)].startswith("rank 0 of 1, process ")
    train(*files, "--no-eval", "--set=train.epochs=1", f"--run={tmp_path / 'none'}", "--no-log-files")
    assert not list((tmp_path / "none").glob("log-rank-*"))
