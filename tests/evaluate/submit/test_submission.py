"""Submission zips: the published numbers in the servers' layout, or a refusal."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from lorat.evaluate.results.files import SequenceResult
from lorat.evaluate.submit import pack
from lorat.evaluate.submit.servers import SERVERS
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import xyxy_to_xywh
from tests.evaluate.zip_files import tree_of

GOLDEN = Path(__file__).parents[2] / "golden"
NAME = "GOT-10k_Test_000001"


def golden_results(dataset="GOT-10k"):
    """Return what went into the golden zips, by sequence; a few of the boxes have no size."""
    results = {}
    with np.load(GOLDEN / "g9_writer_inputs.npz") as arrays:
        for key in arrays:
            group, name, field = key.split("/")
            if group == dataset and field == "pred":
                boxes, times = xyxy_to_xywh(arrays[key]), arrays[f"{group}/{name}/time"]
                results[name] = SequenceResult(name, boxes, np.zeros(len(boxes)), times)
    return results


def plain_results(names):
    boxes = np.array([[10.0, 20, 30, 40]] * 3)
    return {n: SequenceResult(n, boxes, np.ones(3), np.full(3, 0.01)) for n in names}


@pytest.fixture
def results():
    return golden_results()


@pytest.fixture
def packed_as(tmp_path, results):
    """Pack runs for a server; by default the tree has the frames of the golden results."""

    def run(*runs, server="got10k", out="t.zip", frames=None, overwrite=False, **known):
        frames = {n: len(r.boxes) for n, r in results.items()} if frames is None else frames
        tree = tree_of(frames, **known)
        return pack.pack_zip(server, runs, tree, tmp_path / out, overwrite=overwrite)

    return run


def contents(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def changed(results, name=NAME, **fields):
    old = results[name]
    values = {"boxes": old.boxes, "scores": old.scores, "times": old.times} | fields
    return results | {name: SequenceResult(name, **values)}


def with_boxes(results, rows, boxes):
    new = results[NAME].boxes.copy()
    new[rows] = boxes
    return changed(results, boxes=new)


@pytest.mark.parametrize(
    ("server", "dataset", "file", "folders"),
    [("got10k", "GOT-10k", "g9_GOT10k-test.zip", 1), ("trackingnet", "TrackingNet", "g9_TrackingNet-test.zip", 2)],
)
def test_numbers_equal_the_published_zip(packed_as, server, dataset, file, folders):
    results = golden_results(dataset)
    frames = {name: len(result.boxes) for name, result in results.items()}
    packed = packed_as(results, server=server, frames=frames)
    published = contents(GOLDEN / file)
    assert contents(packed.path) == {name.split("/", folders)[-1]: text for name, text in published.items()}
    # Three sequences are not the official set, and the name and a note say so.
    official = len(SERVERS[server].official)
    assert packed.path.name == "t-unofficial.zip" and packed.sequences == 3
    assert f"3 sequences are not the official {official}" in packed.notes[0]
    again = packed_as(results, server=server, frames=frames, out=packed.path.name)
    assert again.path == packed.path
    for text in contents(packed.path).values():
        assert text.endswith("\n") and not set(text) - set("0123456789.,-\n")


def test_the_same_results_give_the_same_bytes(packed_as, results):
    first = packed_as(results, out="a.zip").path
    second = packed_as(dict(reversed(results.items())), out="b.zip").path
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        infos = archive.infolist()
    assert [i.filename for i in infos] == sorted(i.filename for i in infos)
    assert {i.compress_type for i in infos} == {zipfile.ZIP_DEFLATED}
    assert {i.date_time for i in infos} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize(
    ("server", "files", "first"), [("got10k", 360, f"{NAME}/{NAME}_001.txt"), ("trackingnet", 511, "-Dz7OIf54b0_0.txt")]
)
def test_the_official_set_keeps_its_name(packed_as, tmp_path, server, files, first):
    results = plain_results(SERVERS[server].official)
    packed = packed_as(results, server=server, out="new/t.zip", frames=dict.fromkeys(results, 3))
    assert packed.path == tmp_path / "new" / "t.zip" and packed.notes == ()
    entries = sorted(contents(packed.path))
    assert (len(entries), entries[0]) == (files, first)


def test_repeated_runs_stand_beside_each_other(packed_as, results):
    other = changed(results, boxes=results[NAME].boxes + 1.0)
    packed = packed_as(results, other)
    files = contents(packed.path)
    assert files[f"{NAME}/{NAME}_001.txt"] != files[f"{NAME}/{NAME}_002.txt"]
    seconds = f"{results[NAME].times[0]:.8f}"
    assert files[f"{NAME}/{NAME}_time.txt"].splitlines()[0] == f"{seconds},{seconds}"
    assert not any("same" in note for note in packed.notes)
    same = packed_as(*[results] * 3, out="same.zip")
    assert same.notes[-1].startswith(f"sequences whose runs are all the same (3): {NAME}")
    with pytest.raises(UserError, match="1 to 3 runs, not 4"):
        packed_as(*[results] * 4)
    # TrackingNet's has no place for them.
    packed = packed_as(results, other, server="trackingnet", out="first.zip")
    assert f"{NAME}.txt" in contents(packed.path) and packed.notes[3:] == ()
    assert packed.notes[0].endswith("no place for repeated runs: the first of 2 is zipped")


def test_a_zip_that_exists_is_kept_unless_told_otherwise(packed_as, tmp_path, results):
    path = packed_as(results).path
    before, data = path.stat().st_mtime_ns, path.read_bytes()
    assert packed_as(results).path == path
    assert path.stat().st_mtime_ns == before
    other = changed(results, boxes=results[NAME].boxes + 3.0)
    with pytest.raises(UserError, match=r"t-unofficial\.zip: exists with other content.*--over"):
        packed_as(other)
    assert path.read_bytes() == data
    packed_as(other, overwrite=True)
    assert path.read_bytes() != data
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_folder_of_the_zips_name_is_left_alone(packed_as, tmp_path, results):
    (tmp_path / "t-unofficial.zip").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        packed_as(results, overwrite=True)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    ("rows", "box", "reason"),
    [
        (slice(0, 23), None, "23 rows for 24 frames"),
        ([*range(24), 0], None, "25 rows for 24 frames"),
        (4, np.nan, "box of frame 5 is not finite"),
        (4, np.inf, "box of frame 5 is not finite"),
        (23, [1, 1, 5, -1], "box of frame 24 is not finite or has a negative size"),
        (2, [1e5, 1, 5, 5], "row 3"),
    ],
)
def test_boxes_a_server_cannot_score_are_refused_before_there_is_a_file(
    packed_as, tmp_path, results, server, rows, box, reason
):
    bad = results if box is None else with_boxes(results, rows, box)
    if box is None:
        old, fields = results[NAME], ("boxes", "scores", "times")
        bad = changed(results, **{field: getattr(old, field)[rows] for field in fields})
    with pytest.raises(UserError, match=rf"(of 100000 .*)?{NAME}\b.*{reason}"):
        packed_as(bad, server=server, out="new/t.zip")
    assert list(tmp_path.iterdir()) == []


def test_missing_and_unexpected_sequences_are_named(packed_as, tmp_path, results):
    fewer = {name: result for name, result in results.items() if name != NAME}
    with pytest.raises(UserError, match=rf"missing sequences \(1\): {NAME}"):
        packed_as(fewer)
    with pytest.raises(UserError, match=rf"runs of the others \(1\): {NAME} \(has 001, not"):
        packed_as(results, fewer)
    with pytest.raises(UserError, match=rf"do not belong there \(1\): {NAME}"):
        packed_as(results, frames={name: len(result.boxes) for name, result in fewer.items()})
    with pytest.raises(UserError, match="no sequence to submit"):
        packed_as({}, frames={})
    assert list(tmp_path.iterdir()) == []


def test_a_box_thinner_than_a_pixel_keeps_a_pixel(packed_as, results):
    packed = packed_as(with_boxes(results, 5, [7.0, 8.0, 0.0, 0.3]), server="trackingnet")
    assert contents(packed.path)[f"{NAME}.txt"].splitlines()[5] == "7.00,8.00,1.00,1.00"
    assert "no size are written a pixel wide or high" in packed.notes[1]
    assert f"{NAME} (3)" in packed.notes[1]


def test_a_first_box_that_is_one_based_is_refused_and_another_is_noted(packed_as, tmp_path, results):
    first = {name: result.boxes[0] for name, result in results.items()}
    assert not any("first box" in note for note in packed_as(results, firsts=first).notes)
    moved = first | {NAME: first[NAME] - [1, 1, 0, 0]}
    for server in SERVERS:
        with pytest.raises(UserError, match=f"one pixel off.*{NAME}.*shift all boxes by a pixel"):
            packed_as(results, server=server, out="none/t.zip", firsts=moved)
    assert not (tmp_path / "none").exists()
    moved = first | {NAME: first[NAME] - [1, 5, 0, 0]}
    notes = packed_as(results, firsts=moved).notes
    assert any(n.startswith(f"files that do not begin with the given box (1): {NAME}") for n in notes)


def test_without_times_there_is_no_time_file_and_a_note(packed_as, results):
    times = results[NAME].times.copy()
    times[3] = np.nan
    packed = packed_as(changed(results, times=times))
    assert f"{NAME}/{NAME}_time.txt" not in contents(packed.path)
    assert f"sequences whose times are missing or do not fit the boxes (1): {NAME} (no time file)" in packed.notes


def test_boxes_beside_the_image_are_noted(packed_as, results):
    for left, size, noted in ((-50, 3000, True), (2000, 3000, False), (2000, 2000, True)):
        packed = packed_as(with_boxes(results, slice(5, 7), [left, 8, 20, 20]), size=(size, 3000), overwrite=True)
        note = f"files with boxes outside the image (1): {NAME}/{NAME}_001.txt (row 6: {left},8,20,20 and 1 more)"
        assert packed.notes[2:] == ((note,) if noted else ())


def test_a_zip_that_does_not_read_back_never_gets_its_name(packed_as, tmp_path, results, monkeypatch):
    good, replacement = pack._zip_bytes, ""

    def damaged(texts):
        first = sorted(texts)[0]
        return good(texts | {first: texts[first].replace(",", replacement, 1)})

    monkeypatch.setattr(pack, "_zip_bytes", damaged)
    for bad in (";", ",,", "-,", "\r\n"):
        replacement = bad
        with pytest.raises(UserError, match=r"t-unofficial\.zip: files .*_000001_001\.txt"):
            packed_as(results)
    for bad in ("9,", "e1,", " ,"):  # another number or spelling, which only the results can tell
        replacement = bad
        with pytest.raises(UserError, match="does not read back as written"):
            packed_as(results)
    monkeypatch.setattr(pack, "_zip_bytes", lambda texts: good(texts)[:-30])
    with pytest.raises(UserError, match="not a zip that can be read"):
        packed_as(results)
    monkeypatch.setattr(pack, "_zip_bytes", good)
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"what a bad disk returns")
    with pytest.raises(UserError, match="does not read back as written; check the disk"):
        packed_as(results)
    assert list(tmp_path.iterdir()) == []


def test_names_a_server_would_take_for_one_another_are_refused(packed_as, tmp_path):
    results = plain_results(("cat_0", "wildcat_0"))
    with pytest.raises(UserError, match=r"more than one file matches \(1\): cat_0"):
        packed_as(results, server="trackingnet", frames=dict.fromkeys(results, 3))
    assert list(tmp_path.iterdir()) == []
