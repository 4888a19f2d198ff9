"""The log holds every record once, and its line fits the terminal it is shown on."""

from pathlib import Path

import pytest

from lorat.train.logs import log as log_module
from lorat.train.logs.curves import draw_curves
from lorat.train.logs.log import open_log, read_log, status_line
from tests.train.conftest import log_of

VALUES = {"loss": 0.81234, "score": 0.41234, "box": 0.4, "rate": 1e-4, "norm": 0.5234}
VALUES |= {"pairs_per_second": 1234.5, "data_wait": 0.021, "damaged": 0}


def shown(width: int, seconds: float = 18_200.0, extras: tuple[str, ...] = ()) -> str:
    return status_line("112,340/174,080", VALUES, seconds, list(extras), width)


@pytest.mark.parametrize("width", [80, 90, 100, 120, 160])
def test_the_line_of_the_longest_run_fits_and_says_everything(width):
    line = shown(width)
    assert len(line) <= width
    parts = ("112,340/174,080", "0.812", "0.412", "0.400", "0.52", "1,234", "2%", "5h03")
    assert all(part in line for part in parts), line
    assert len(shown(width, extras=("3 damaged samples replaced",))) <= width


def test_a_wide_terminal_shows_labels_validation_damage_and_overflows(tmp_path, capsys):
    with open_log(tmp_path, 400, 0) as log:
        log.record(20, {**VALUES, "damaged": 3, "val_loss": 1.5, "skipped": 2})
    line = capsys.readouterr().err
    parts = ("step 20/400", "score 0.412", "rate 1.00e-04", "left", "val 1.500", "3 damaged", "2 steps")
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(("seconds", "text"), [(42, "0:42"), (725, "12:05"), (18_200, "5h03"), (187_200, "2d04h")])
def test_times_are_short(seconds, text):
    assert shown(80, seconds).endswith(text)


def write(run: Path, first: int, last: int, steps: int = 10) -> None:
    with open_log(run, steps, first) as log:
        for step in range(first + 1, last + 1):
            log.record(step, {**VALUES, "damaged": 1})


def test_records_past_the_step_that_a_run_goes_on_from_are_cut_off(tmp_path):
    write(tmp_path, 0, 6)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    before = read_log(tmp_path / "log.jsonl")
    with open_log(tmp_path, 10, 4) as log:
        assert log.damaged == 4
        log.record(5, VALUES)
    after = read_log(tmp_path / "log.jsonl")
    assert [entry["step"] for entry in after] == [1, 2, 3, 4, 5]
    assert after[:4] == before[:4] and after[4]["seconds"] >= after[3]["seconds"]


def test_other_results_stand_in_lines_of_their_own_and_reach_listeners(tmp_path, capsys):
    heard = []
    with open_log(tmp_path, 10, 0) as log:
        log.listeners.append(lambda step, values: heard.append((step, dict(values))))
        log.record(1, VALUES)
        log.add(1, {"val_loss": 1.25})
        log.record(2, VALUES)
        log.say("a note")
    assert [set(line) > {"loss"} for line in log_of(tmp_path)] == [True, False, True]
    assert heard == [(1, VALUES), (1, {"val_loss": 1.25}), (2, VALUES)]
    printed = capsys.readouterr().err
    assert "a note\n" in printed and "val 1.250" in printed


def test_off_a_terminal_the_first_and_the_last_state_are_plain_lines(tmp_path, capsys):
    write(tmp_path, 0, 10)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["1/10", "10/10"]
    assert not any("\x1b" in line for line in lines)


def test_time_to_the_end_is_that_of_the_speed_since_the_first_record(tmp_path, monkeypatch, capsys):
    clock = iter([0.0, *[30.0] * 2, *[31.0] * 2, *[33.0] * 2, *[35.0] * 2])
    monkeypatch.setattr(log_module.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(log_module, "_PLAIN_SECONDS", 0.0)
    with open_log(tmp_path, 110, 100) as log:  # compiling took half a minute of the first step
        for step in range(101, 105):
            log.record(step, VALUES)
    left = [line.split()[-2] for line in capsys.readouterr().err.splitlines()]
    assert left == ["4:30", "0:08", "0:10", "0:10"]


def test_curves_are_drawn_from_records_and_results_of_any_number(tmp_path):
    assert draw_curves(tmp_path) is None
    write(tmp_path, 0, 1)
    assert draw_curves(tmp_path).stat().st_size > 5000
    with open_log(tmp_path, 400, 1) as log:
        for step in range(2, 300):
            log.record(step, {**VALUES, "loss": 1 / step, "verdict": "speed", "val_loss": 0.2})
        log.add(300, {"got10k-val AO": 0.7})
    assert draw_curves(tmp_path).stat().st_size > 20_000
