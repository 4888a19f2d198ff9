"""Result files: what is written is what is read, and what cannot be scored is refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lorat.evaluate.results.files import (
    SequenceResult,
    has_result,
    list_results,
    read_result,
    read_results,
    write_result,
)
from lorat.shards.base.errors import UserError

N = 7
GOOD = "1,2,3,4\n"
NO_BOX = ("", ",", GOOD + "\n" + GOOD, GOOD + ",,,", GOOD, "1_0,2,3,4", "1,,2,3,4")
BOXES = arrays(np.float64, (N, 4), elements=st.floats(0.0001, 5000))


def result_of(name="car-1", boxes=None):
    boxes = np.arange(4.0 * N).reshape(N, 4) + 0.125 if boxes is None else boxes
    return SequenceResult(name, boxes, np.linspace(0, 1, N), np.full(N, 0.0125))


@settings(max_examples=30, deadline=None)
@given(BOXES)
def test_a_result_reads_back_to_a_ten_thousandth(tmp_path_factory, boxes):
    folder = tmp_path_factory.mktemp("results")
    written = result_of(boxes=boxes)
    write_result(folder, written)
    read = read_result(folder, "car-1")
    np.testing.assert_allclose(read.boxes, written.boxes, atol=0.5001e-4)
    np.testing.assert_allclose(read.scores, written.scores, atol=1e-6)
    np.testing.assert_allclose(read.times, written.times, atol=1e-8)


def test_writing_what_was_read_gives_the_same_bytes(tmp_path):
    path = write_result(tmp_path / "a", result_of())
    again = write_result(tmp_path / "b", read_result(tmp_path / "a", "car-1"))
    assert path.read_bytes() == again.read_bytes()
    assert path.read_text().splitlines()[0] == "0.1250,1.1250,2.1250,3.1250"
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["car-1.scores.txt", "car-1.times.txt", "car-1.txt"]


def test_a_sequence_has_a_result_only_when_its_boxes_are_written(tmp_path):
    assert not has_result(tmp_path, "car-1")
    path = write_result(tmp_path, result_of())
    assert has_result(tmp_path, "car-1")
    path.unlink()
    assert not has_result(tmp_path, "car-1")
    assert list_results(tmp_path) == []


def test_results_are_listed_by_sequence(tmp_path):
    for name in ("b", "a.1", "c_time"):
        write_result(tmp_path, result_of(name))
    assert list_results(tmp_path) == ["a.1", "b", "c_time"]
    assert list(read_results(tmp_path, ["b", "a.1"])) == ["b", "a.1"]


def test_a_tracker_that_gives_no_scores_or_times_is_read(tmp_path):
    (tmp_path / "car-1.txt").write_text("1\t2\t3\t4\n5,6,7,8\n")
    read = read_result(tmp_path, "car-1")
    assert read.boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert np.isnan(read.scores).all() and np.isnan(read.times).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,2,3,4\n1,2,3\n", "line 2: .*found '1,2,3'"),
        ("x,y,w,h\n1,2,3,4\n", "line 1: .*found 'x,y,w,h'"),
        ("1,2,3,4\n1,2,nan,4\n", "line 2 is not finite"),
        ("1,2,3,4\n1,2,-3,4\n", "negative size"),
        ("", "holds no numbers"),
        ("1,2,3,4°\n", "line 1: "),
        *((text + "\n", r"(line \d: expected 4 n|holds no n)umbers") for text in NO_BOX),
    ],
)
def test_a_damaged_result_is_refused_by_name_and_line(tmp_path, text, says):
    (tmp_path / "car-1.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=says) as error:
        read_result(tmp_path, "car-1")
    assert "car-1.txt" in error.value.message and "\n" not in error.value.message


def test_any_number_that_a_line_can_hold_is_read(tmp_path):
    (tmp_path / "car-1.txt").write_text("10,2,3,4\n 1e1\t2.  3 4 \n+10., 2\t,3,4,\n")
    assert read_result(tmp_path, "car-1").boxes.tolist() == [[10.0, 2, 3, 4]] * 3


def test_a_missing_result_and_times_of_another_length_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no result of sequence car-1"):
        read_result(tmp_path, "car-1")
    write_result(tmp_path, result_of())
    (tmp_path / "car-1.times.txt").write_text("0.1\n")
    with pytest.raises(UserError, match=r"car-1.times.txt: 1 lines beside 7 boxes"):
        read_result(tmp_path, "car-1")


def test_states_are_read_back_as_words_and_no_others(tmp_path):
    states = np.array(["tracked", "tracked", "unsure", "unsure", "lost", "lost", "tracked"])
    write_result(tmp_path, dataclasses.replace(result_of(), states=states))
    assert read_result(tmp_path, "car-1").states.tolist() == states.tolist()
    assert list_results(tmp_path) == ["car-1"]
    (tmp_path / "car-1.states.txt").write_text("tracked\ngone\n")
    with pytest.raises(UserError, match=r"car-1.states.txt: 'gone' is none of tracked, unsure, lost"):
        read_result(tmp_path, "car-1")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_a_sequence_name_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(UserError, match="cannot be a result file's name"):
        write_result(tmp_path / "results", result_of(name))
    assert list(tmp_path.iterdir()) == []


def test_arrays_of_different_lengths_are_no_result():
    with pytest.raises(ValueError, match="do not belong together"):
        SequenceResult("x", np.zeros((3, 4)), np.zeros(3), np.zeros(2))
