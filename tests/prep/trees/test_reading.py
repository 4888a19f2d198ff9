"""Many sequences are read at once, and nobody can tell by what comes back."""

import logging
import threading
import time

import pytest

from lorat.prep.trees.base import reading
from lorat.prep.trees.base.folders import subfolders
from lorat.prep.trees.base.reading import CURRENT, Reading, in_threads, note, read_each, report_fault
from lorat.shards.base.errors import UserError

NAMES = [f"s-{k}" for k in range(100)]


def late_first(name: str) -> str:
    """Take the longer the earlier the sequence is; report some, refuse others."""
    number = int(name.removeprefix("s-"))
    time.sleep((len(NAMES) - number) * 1e-4)
    if number % 7 == 0:
        report_fault(name, f"{name} is short")
    if number % 10 == 3:
        raise UserError(f"{name} does not parse")
    return name


def test_clips_faults_and_progress_come_in_the_order_of_the_sequences():
    done = []
    with Reading(faults=(faults := []), skip=frozenset(["s-7"]), progress=lambda *state: done.append(state)):
        clips = read_each({name: name for name in NAMES}, late_first)
    assert clips == [name for k, name in enumerate(NAMES) if k % 10 != 3 and k != 7]
    expected = [(f"s-{k}", False) for k in range(0, 100, 7) if k != 7] + [(f"s-{k}", True) for k in range(3, 100, 10)]
    expected.sort(key=lambda fault: (int(fault[0].removeprefix("s-")), fault[1]))
    assert [(fault.sequence, fault.damage) for fault in faults] == expected
    assert done == [(k, 99) for k in range(1, 100)]


def test_the_first_error_and_the_warnings_before_it_are_those_of_reading_in_turn(caplog):
    with pytest.raises(UserError, match="s-3 does not parse"):
        read_each({name: name for name in NAMES}, late_first)
    assert caplog.messages == ["s-0 is short"]


def test_many_are_read_at_once_each_with_what_the_block_says(tmp_path):
    together = threading.Barrier(reading._THREADS, timeout=30)  # breaks unless that many wait at the same time

    def read(name: str) -> str:
        together.wait()
        note(tmp_path / name)
        assert CURRENT.get().skip == {"none"}
        return name

    with Reading(skip=frozenset(["none"])) as how:
        found = read_each({name: name for name in NAMES[: reading._THREADS]}, read)
    assert found == NAMES[: reading._THREADS]
    assert how.seen.keys() == {str(tmp_path / name) for name in found}


def test_what_is_given_up_stops_soon():
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.001)
        return number

    found = in_threads(work, range(100_000))
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    found.close()
    count = len(begun)
    time.sleep(0.05)
    assert count == len(begun) < 1000


def test_a_block_keeps_its_warnings_and_hides_none(caplog):
    log = logging.getLogger("lorat")
    with Reading() as outer:
        log.warning("one of %d", 2)
        log.info("no warning")
        with Reading() as inner:
            report_fault("a", "two of 2")
    log.warning("after")
    assert (outer.warned, inner.warned) == (["one of 2", "two of 2"], ["two of 2"])
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "one of 2",
        "two of 2",
        "after",
    ]


def test_a_folder_that_is_missing_is_said_with_what_is_beside_it(tmp_path):
    (tmp_path / "train_data").mkdir()
    with pytest.raises(UserError, match=r"train: cannot be listed \(No such .*\); folders there: train_data; restore"):
        subfolders(tmp_path / "train")
