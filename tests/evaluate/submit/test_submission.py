"""Submission zips: the published numbers in the servers' layout, or a refusal."""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lorat.evaluate.results.files import SequenceResult
from lorat.evaluate.submit import pack as submission
from lorat.evaluate.submit.pack import GOT10K_TEST_NAMES, pack_got10k, pack_trackingnet
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import xyxy_to_xywh

GOLDEN = Path(__file__).parents[2] / "golden"


def golden_results(dataset):
    """Return what went into the golden zips, by sequence; a few of the boxes have no size."""
    results = {}
    with np.load(GOLDEN / "g9_writer_inputs.npz") as arrays:
        for key in arrays:
            group, name, field = key.split("/")
            if group == dataset and field == "pred":
                boxes, times = xyxy_to_xywh(arrays[key]), arrays[f"{group}/{name}/time"]
                results[name] = SequenceResult(name, boxes, np.zeros(len(boxes)), times)
    return results


def frames_of(results):
    return {name: len(result.boxes) for name, result in results.items()}


def contents(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


@pytest.fixture
def results():
    return golden_results("GOT-10k")


def changed(results, name, **fields):
    old = results[name]
    values = {"boxes": old.boxes, "scores": old.scores, "times": old.times} | fields
    return results | {name: SequenceResult(name, **values)}


def test_got10k_numbers_equal_the_published_zip(tmp_path, results):
    packed = pack_got10k([results], frames_of(results), tmp_path / "t.zip")
    expected = contents(GOLDEN / "g9_GOT10k-test.zip")
    flat = {name.split("/", 1)[1]: text for name, text in expected.items()}
    assert contents(packed.path) == flat
    assert sorted(flat)[0] == "GOT-10k_Test_000001/GOT-10k_Test_000001_001.txt"


def test_trackingnet_numbers_equal_the_published_zip(tmp_path):
    results = golden_results("TrackingNet")
    packed = pack_trackingnet(
        results, frames_of(results), tmp_path / "t.zip", official=list(results)
    )
    expected = contents(GOLDEN / "g9_TrackingNet-test.zip")
    assert contents(packed.path) == {n.rsplit("/", 1)[1]: text for n, text in expected.items()}
    assert packed.path.name == "t.zip"


def test_the_same_results_give_the_same_bytes(tmp_path, results):
    first = pack_got10k([results], frames_of(results), tmp_path / "a.zip").path
    backwards = dict(reversed(results.items()))
    second = pack_got10k([backwards], frames_of(backwards), tmp_path / "b.zip").path
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        infos = archive.infolist()
    assert [i.filename for i in infos] == sorted(i.filename for i in infos)
    assert {i.compress_type for i in infos} == {zipfile.ZIP_DEFLATED}
    assert {i.date_time for i in infos} == {(1980, 1, 1, 0, 0, 0)}


def test_a_set_that_is_not_official_says_so_in_name_and_note(tmp_path, results):
    packed = pack_got10k([results], frames_of(results), tmp_path / "t.zip")
    assert packed.path.name == "t-unofficial.zip" and packed.sequences == 3
    assert "3 sequences are not the official 180" in packed.notes[0]
    again = pack_got10k([results], frames_of(results), packed.path)
    assert again.path == packed.path


def test_the_official_set_keeps_its_name(tmp_path):
    boxes = np.array([[10.0, 20, 30, 40]] * 3)
    results = {
        name: SequenceResult(name, boxes, np.ones(3), np.full(3, 0.01))
        for name in GOT10K_TEST_NAMES
    }
    packed = pack_got10k([results], frames_of(results), tmp_path / "new" / "t.zip")
    assert packed.path == tmp_path / "new" / "t.zip" and packed.notes == ()
    assert len(contents(packed.path)) == 360
    assert (GOT10K_TEST_NAMES[0], GOT10K_TEST_NAMES[-1], len(GOT10K_TEST_NAMES)) == (
        "GOT-10k_Test_000001",
        "GOT-10k_Test_000180",
        180,
    )


def test_repeated_runs_stand_beside_each_other(tmp_path, results):
    name = "GOT-10k_Test_000002"
    other = changed(results, name, boxes=results[name].boxes + 1.0)
    packed = pack_got10k([results, other], frames_of(results), tmp_path / "t.zip")
    files = contents(packed.path)
    assert files[f"{name}/{name}_001.txt"] != files[f"{name}/{name}_002.txt"]
    assert files[f"{name}/{name}_time.txt"].splitlines()[0] == "0.01911500,0.01911500"
    assert not any("same" in note for note in packed.notes)
    same = pack_got10k([results] * 3, frames_of(results), tmp_path / "same.zip")
    assert same.notes[-1].startswith(
        "sequences whose runs are all the same (3): GOT-10k_Test_000001"
    )
    with pytest.raises(UserError, match="1 to 3 runs, not 4"):
        pack_got10k([results] * 4, frames_of(results), tmp_path / "four.zip")


def test_a_zip_that_exists_is_kept_unless_told_otherwise(tmp_path, results):
    out, frames = tmp_path / "t.zip", frames_of(results)
    path = pack_got10k([results], frames, out).path
    before = path.stat().st_mtime_ns
    assert pack_got10k([results], frames, out).path == path
    assert path.stat().st_mtime_ns == before
    name = "GOT-10k_Test_000001"
    other = changed(results, name, boxes=results[name].boxes + 3.0)
    data = path.read_bytes()
    with pytest.raises(UserError, match=r"t-unofficial\.zip: exists with other content.*--over"):
        pack_got10k([other], frames, out)
    assert path.read_bytes() == data
    pack_got10k([other], frames, out, overwrite=True)
    assert path.read_bytes() != data
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def with_box(row, box):
    def change(boxes):
        boxes[row] = box
        return boxes

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: b[:-1], "23 boxes for 24 frames"),
        (lambda b: np.concatenate([b, b[:1]]), "25 boxes for 24 frames"),
        (with_box(4, np.nan), "the box of frame 5 is not finite"),
        (with_box(4, np.inf), "the box of frame 5 is not finite"),
        (with_box(23, [1, 1, 5, -1]), "the box of frame 24 has a negative size"),
        (with_box(2, [1e5, 1, 5, 5]), "the box of frame 3 is 100000 pixels away"),
    ],
)
def test_boxes_a_server_cannot_score_are_refused_before_there_is_a_file(
    tmp_path, results, change, reason
):
    name, frames = "GOT-10k_Test_000001", frames_of(results)
    boxes = change(results[name].boxes.copy())
    n = len(boxes)
    bad = changed(results, name, boxes=boxes, scores=np.zeros(n), times=np.ones(n))
    with pytest.raises(UserError, match=f"{name}: {reason}"):
        pack_got10k([bad], frames, tmp_path / "new" / "t.zip")
    with pytest.raises(UserError, match=f"{name}: {reason}"):
        pack_trackingnet(bad, frames, tmp_path / "new" / "t.zip", official=[])
    assert list(tmp_path.iterdir()) == []


def test_missing_and_unexpected_sequences_are_named(tmp_path, results):
    frames = frames_of(results)
    first = "GOT-10k_Test_000001"
    with pytest.raises(UserError, match=f"no result of {first}"):
        pack_got10k([{k: v for k, v in results.items() if k != first}], frames, tmp_path / "t.zip")
    del frames[first]
    with pytest.raises(UserError, match=f"unexpected sequences {first}"):
        pack_got10k([results], frames, tmp_path / "t.zip")
    with pytest.raises(UserError, match="no sequence to submit"):
        pack_got10k([{}], {}, tmp_path / "t.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_box_thinner_than_a_pixel_keeps_a_pixel(tmp_path, results):
    name = "GOT-10k_Test_000001"
    boxes = results[name].boxes.copy()
    boxes[5] = [7.0, 8.0, 0.0, 0.3]
    packed = pack_trackingnet(
        changed(results, name, boxes=boxes), frames_of(results), tmp_path / "t.zip", official=[]
    )
    assert contents(packed.path)[f"{name}.txt"].splitlines()[5] == "7.00,8.00,1.00,1.00"
    assert "no size are written a pixel wide or high" in packed.notes[1]
    assert f"{name} (3)" in packed.notes[1]


def test_a_first_box_that_is_one_based_is_refused_and_another_is_noted(tmp_path, results):
    frames = frames_of(results)
    first = {name: result.boxes[0] for name, result in results.items()}
    name = "GOT-10k_Test_000003"
    out = tmp_path / "t.zip"
    notes = pack_got10k([results], frames, out, first_boxes=first).notes
    assert not any("first box" in note for note in notes)
    moved = first | {name: first[name] - [1, 1, 0, 0]}
    for pack in (pack_got10k, partial(pack_trackingnet, official=())):
        given = [results] if pack is pack_got10k else results
        with pytest.raises(UserError, match=f"one pixel off.*{name}.*shift the results by one"):
            pack(given, frames, tmp_path / "none" / "t.zip", first_boxes=moved)
    assert not (tmp_path / "none").exists()
    moved = first | {name: first[name] - [1, 5, 0, 0]}
    notes = pack_got10k([results], frames, out, first_boxes=moved).notes
    assert any(
        n.startswith(f"files that do not begin with the given box (1): {name}") for n in notes
    )


def test_without_times_there_is_no_time_file_and_a_note(tmp_path, results):
    name = "GOT-10k_Test_000001"
    times = results[name].times.copy()
    times[3] = np.nan
    packed = pack_got10k(
        [changed(results, name, times=times)], frames_of(results), tmp_path / "t.zip"
    )
    assert f"{name}/{name}_time.txt" not in contents(packed.path)
    assert f"sequences without a time file (1): {name}" in packed.notes


def test_boxes_beside_the_image_are_noted(tmp_path, results):
    name = "GOT-10k_Test_000001"
    boxes = results[name].boxes.copy()
    boxes[5:7] = [-50, 8, 20, 20]
    packed = pack_got10k(
        [changed(results, name, boxes=boxes)], frames_of(results), tmp_path / "t.zip"
    )
    entry = f"{name}/{name}_001.txt"
    note = f"files with boxes outside the image (1): {entry} (2 rows, row 6 the first)"
    assert packed.notes[2:] == (note,)
    sizes = dict.fromkeys(results, (2000, 2000))
    boxes[5:7] = [2000, 8, 20, 20]
    right = [changed(results, name, boxes=boxes)]
    for known, expected in ((None, ()), (sizes, (note,))):
        out = tmp_path / f"{len(expected)}.zip"
        packed = pack_got10k(right, frames_of(results), out, frame_sizes=known)
        assert packed.notes[2:] == expected


def test_a_zip_that_does_not_read_back_never_gets_its_name(tmp_path, results, monkeypatch):
    good, replacement = submission._zip_bytes, ""

    def damaged(texts):
        first = sorted(texts)[0]
        return good(texts | {first: texts[first].replace(",", replacement, 1)})

    monkeypatch.setattr(submission, "_zip_bytes", damaged)
    for bad in (";", ",,", "-,", "e1,", "\r\n"):
        replacement = bad
        with pytest.raises(UserError, match=r"t-unofficial\.zip: files .*_000001_001\.txt"):
            pack_got10k([results], frames_of(results), tmp_path / "t.zip")
    replacement = "9,"  # another number, which only the results can tell
    with pytest.raises(UserError, match="do not read back as written"):
        pack_got10k([results], frames_of(results), tmp_path / "t.zip")
    monkeypatch.setattr(submission, "_zip_bytes", lambda texts: good(texts)[:-30])
    with pytest.raises(UserError, match="not a zip that can be read"):
        pack_got10k([results], frames_of(results), tmp_path / "t.zip")
    assert list(tmp_path.iterdir()) == []


def test_lines_are_plain_numbers(tmp_path, results):
    for text in contents(
        pack_got10k([results], frames_of(results), tmp_path / "t.zip").path
    ).values():
        assert text.endswith("\n") and "\r" not in text and "e" not in text and " " not in text


def test_a_run_that_lacks_a_sequence_is_named(tmp_path, results):
    fewer = {name: result for name, result in results.items() if not name.endswith("2")}
    with pytest.raises(UserError, match=r"run 2: no result of GOT-10k_Test_000002"):
        pack_got10k([results, fewer], frames_of(results), tmp_path / "t.zip")


def test_names_a_server_would_take_for_one_another_are_refused(tmp_path):
    boxes = np.array([[10.0, 20, 30, 40]] * 2)
    names = ("cat_0", "wildcat_0")
    results = {n: SequenceResult(n, boxes, np.ones(2), np.ones(2)) for n in names}
    with pytest.raises(UserError, match=r"more than one file matches \(1\): cat_0.*all-zero boxes"):
        pack_trackingnet(results, frames_of(results), tmp_path / "t.zip", official=names)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_zips_name_is_left_alone(tmp_path, results):
    (tmp_path / "t-unofficial.zip").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        pack_got10k([results], frames_of(results), tmp_path / "t.zip", overwrite=True)
