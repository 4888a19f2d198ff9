"""Results in the layouts of other toolkits: read into our coordinates, written as upstream does."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lorat.evaluate.measure.scores import dataset_scores
from lorat.evaluate.results.files import SequenceResult, write_result
from lorat.evaluate.results.foreign import read_foreign
from lorat.evaluate.results.write import ResultSet, layout_files, write_files
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import xyxy_to_xywh
from tests.evaluate.result_files import FRAMES, GIVEN, clip_of, ours_of, shift_of, write_rows
from tests.evaluate.score_trees import unpack_got10k

GOLDEN = Path(__file__).parents[2] / "golden"
SHARED = Path(__file__).parents[4] / "shared" / "golden"


def result_of(clip: Clip, shift: float = 0.25, seconds: float = 0.02) -> SequenceResult:
    n = len(clip.frames)
    return SequenceResult(clip.name, ours_of(clip, shift), np.ones(n), np.full(n, seconds))


def test_one_based_layouts_are_read_minus_one_and_ours_as_it_is(tmp_path):
    clip = clip_of("car-1")
    ours, theirs = ours_of(clip), ours_of(clip) + shift_of(1)
    write_rows(tmp_path / "lorat/car-1.txt", ours)
    write_rows(tmp_path / "flat/car-1.txt", theirs)
    write_rows(tmp_path / "got10k/car-1/car-1_001.txt", theirs)
    for layout, folder in (("lorat", "lorat"), ("pytracking", "flat"), ("otb", "flat"), ("got10k", "got10k")):
        read = read_foreign(tmp_path / folder, [clip], layout)
        assert read.layout == layout and read.notes == () and read.missing == ()
        np.testing.assert_allclose(read.runs[0]["car-1"].boxes, ours, atol=1e-9)


@pytest.mark.parametrize(
    ("dataset", "separator"), [("lasot_ext", ","), ("tnl2k", "\t"), ("got10k", " "), ("uav123", "  "), ("tnl2k", ", ")]
)
def test_layouts_of_other_sets_are_read_as_they_are(tmp_path, dataset, separator):
    clip = clip_of("car-1", dataset)
    write_rows(tmp_path / "car-1.txt", ours_of(clip), separator)
    read = read_foreign(tmp_path, [clip])
    assert read.notes == ()
    np.testing.assert_allclose(read.runs[0]["car-1"].boxes, ours_of(clip), atol=1e-9)


@pytest.mark.parametrize(
    ("dataset", "first"),
    [
        ("uav123", "uav_bike_1"),
        ("uav20l", "uav_bike_1"),
        ("nfs30", "nfs_bike_1"),
        ("tc128", "tpl_bike_1"),
        ("otb", "otb_bike_1"),
        ("otb", "bike.1"),
    ],
)
def test_spellings_are_known_and_need_not_be_there(tmp_path, dataset, first):
    clips = [clip_of("bike_1", dataset), clip_of("car_2", dataset)]
    write_rows(tmp_path / "dimp" / f"{first}.txt", ours_of(clips[0], 0.5))
    write_rows(tmp_path / "dimp" / "car_2.txt", ours_of(clips[1]))
    read = read_foreign(tmp_path / "dimp", clips)
    assert read.layout == "pytracking" and read.missing == ()
    # A prefixed file goes before another set's of the same name.
    write_rows(tmp_path / "dimp" / "bike_1.txt", ours_of(clips[0], 9.0))
    boxes = read_foreign(tmp_path / "dimp", clips).runs[0]["bike_1"].boxes
    np.testing.assert_allclose(boxes, ours_of(clips[0], 0.5 if "_" in first else 9.0))


def _pytracking(folder: Path, clip: Clip, *names: str) -> None:
    for shift, name in enumerate(names, start=1):
        write_rows(folder / name / f"{clip.name}.txt", ours_of(clip, shift), "\t")


def test_numbered_folders_are_runs_of_one_tracker(tmp_path):
    clip = clip_of("car-1", "tnl2k")
    _pytracking(tmp_path / "dimp", clip, "dimp50_000", "dimp50_001", "dimp50_002")
    # The folder above, and the name without a number, mean all of them; a run means itself.
    for folder, runs in (("dimp", 3), ("dimp/dimp50", 3), ("dimp/dimp50_001", 1)):
        read = read_foreign(tmp_path / folder, [clip])
        assert read.layout == "pytracking" and len(read.runs) == runs
        assert read.label == "dimp50"
    # The same where the name without a number holds the results of other sets.
    write_rows(tmp_path / "dimp/dimp50/bus-1.txt", ours_of(clip))
    assert len(read_foreign(tmp_path / "dimp/dimp50", [clip]).runs) == 3
    shifts = [run["car-1"].boxes[1, 0] - 31 for run in read_foreign(tmp_path / "dimp", [clip]).runs]
    assert shifts == [1, 2, 3]


@pytest.mark.parametrize(
    ("folders", "named"),
    [
        (("dimp50_000", "dimp50_001", "dimp18"), ("dimp18", "dimp50_000 and 1 more run")),
        # Copies of one tracker's results in two layouts are no runs of it.
        (("T", "T_tracking_result"), ("pytracking in ", "otb in ")),
        (("T_001", "T_001_tracking_result"), ("pytracking in ", "otb in ")),
    ],
)
def test_several_trackers_in_a_folder_are_refused_by_name(tmp_path, folders, named):
    clip = clip_of("car-1", "tnl2k")
    _pytracking(tmp_path, clip, *folders)
    with pytest.raises(UserError, match=r"several results of tnl2k-test") as error:
        read_foreign(tmp_path, [clip])
    for part in (*named, "one of these folders", "--layout"):
        assert part in error.value.message


def test_otbs_result_folders_are_told_by_their_name(tmp_path):
    clip = clip_of("car-1", "tnl2k")
    _pytracking(tmp_path / "one", clip, "T_tracking_result")
    _pytracking(tmp_path / "runs", clip, "T_001_tracking_result", "T_002_tracking_result")
    for folder, runs in (("one", 1), ("one/T_tracking_result", 1), ("runs", 2)):
        read = read_foreign(tmp_path / folder, [clip])
        assert (read.layout, len(read.runs), read.label) == ("otb", runs, "T")


def test_two_layouts_in_one_folder_are_refused_until_one_is_named(tmp_path):
    clip = clip_of("car-1", "tnl2k")
    write_rows(tmp_path / "car-1.txt", ours_of(clip))
    write_rows(tmp_path / "car-1" / "car-1_001.txt", ours_of(clip))
    with pytest.raises(UserError, match=r"otb in .*got10k in .*--layout"):
        read_foreign(tmp_path, [clip])
    assert read_foreign(tmp_path, [clip], "otb").layout == "otb"
    assert read_foreign(tmp_path, [clip], "got10k").layout == "got10k"


@pytest.mark.parametrize("columns", [1, 2])
def test_got10ks_runs_and_times_are_read(tmp_path, columns):
    clip = clip_of("GOT-10k_Val_000001", "got10k", "val")
    folder = tmp_path / "T" / clip.name
    for run in (1, 2):
        write_rows(folder / f"{clip.name}_{run:03d}.txt", ours_of(clip, run))
    times = np.tile([0.5, 0.25][:columns], (FRAMES, 1))
    write_rows(folder / f"{clip.name}_time.txt", times)
    for inner in ("T", ""):
        read = read_foreign(tmp_path / inner, [clip])
        assert (read.layout, read.label, len(read.runs)) == ("got10k", "T", 2)
    seconds = [run[clip.name].times[0] for run in read.runs]
    assert seconds == [0.5, [0.5, 0.25][columns - 1]]


def test_our_results_are_found_from_any_folder_with_all_their_runs(tmp_path):
    clip, other = clip_of("car-1", "uav123", "all"), clip_of("car-1", "uav20l", "all")
    home = tmp_path / "results" / "uav123-all"
    for number, folder in enumerate((home, home / "run_002", home / "run_003")):
        write_result(folder, result_of(clip, number))
    # A set with sequences of the same names stands beside it.
    write_result(tmp_path / "results" / "uav20l-all", result_of(other, 9))
    for folder in (tmp_path, tmp_path / "results", home):
        read = read_foreign(folder, [clip])
        assert (read.layout, len(read.runs)) == ("lorat", 3)
        assert read.runs[2]["car-1"].boxes[1, 0] == 33 and read.runs[0]["car-1"].times[0] == 0.02
    write_result(tmp_path / "plain", result_of(clip))
    assert read_foreign(tmp_path / "plain", [clip]).layout == "lorat"


def test_a_base_that_is_a_pixel_off_is_said_and_nothing_is_shifted(tmp_path):
    clips = [clip_of(f"car-{k}") for k in (1, 2, 3)]
    for clip, shift in zip(clips, (0, 0, 1), strict=True):
        write_rows(tmp_path / f"{clip.name}.txt", ours_of(clip) + shift_of(shift))
    read = read_foreign(tmp_path, clips, "otb")
    (note,) = read.notes
    for part in ("2 sequences (car-1, car-2)", "one pixel left", "1 of 3", "--layout lorat"):
        assert part in note
    np.testing.assert_allclose(read.runs[0]["car-1"].boxes[1], ours_of(clips[0])[1] - shift_of(1))
    (note,) = read_foreign(tmp_path, clips, "lorat").notes
    for part in ("car-3: ", "one pixel right", "2 of 3", "--layout otb"):
        assert part in note


def test_another_first_box_is_said_and_becomes_the_given_one(tmp_path):
    clip = clip_of("car-1", "tnl2k")
    rows = ours_of(clip)
    rows[0] += 5
    write_rows(tmp_path / "car-1.txt", rows)
    read = read_foreign(tmp_path, [clip])
    assert "not the given one; 0 of 1 begin with it" in read.notes[0].replace("the given box", "it")
    np.testing.assert_array_equal(read.runs[0]["car-1"].boxes[0], GIVEN)


def test_truncated_boxes_are_no_other_first_box(tmp_path):
    clip = clip_of("car-1", "tnl2k")
    clip.tracks[0].boxes[:] += 0.7
    write_rows(tmp_path / "car-1.txt", np.floor(ours_of(clip)), "\t", "%d")
    assert read_foreign(tmp_path, [clip]).notes == ()


def test_rows_without_a_size_become_the_row_before(tmp_path):
    clip = clip_of("car-1", "tnl2k")
    clip.tracks[0].boxes[4] = np.nan
    rows = ours_of(clip_of("car-1", "tnl2k"))
    rows[2:5, 2] = 0.0
    write_rows(tmp_path / "car-1.txt", rows)
    read = read_foreign(tmp_path, [clip])
    boxes = read.runs[0]["car-1"].boxes
    np.testing.assert_array_equal(boxes[2:4], rows[[1, 1]])
    np.testing.assert_array_equal(boxes[4], rows[4])  # no annotation there, as toolkits have it
    assert "without a size" in read.notes[0]
    # Their own toolkits score such rows as they are.
    for dataset in ("got10k", "trackingnet"):
        read = read_foreign(tmp_path, [clip_of("car-1", dataset)])
        np.testing.assert_array_equal(read.runs[0]["car-1"].boxes, rows)
        assert read.notes == ()


def test_rows_of_frames_without_annotation_need_not_be_there(tmp_path):
    clip = clip_of("car-1", "tnl2k")
    partly = Clip("tnl2k", "test", "car-1", clip.frames, clip.tracks, 4)
    write_rows(tmp_path / "car-1.txt", ours_of(clip)[:4])
    assert len(read_foreign(tmp_path, [partly]).runs[0]["car-1"].boxes) == 4


def test_times_that_do_not_fit_are_left_out_with_a_note(tmp_path):
    clip = clip_of("car-1", "tnl2k")
    write_rows(tmp_path / "car-1.txt", ours_of(clip), "\t")
    write_rows(tmp_path / "car-1_time.txt", np.full((FRAMES, 1), 0.1))
    read = read_foreign(tmp_path, [clip])
    assert read.layout == "pytracking" and read.runs[0]["car-1"].times.tolist() == [0.1] * 6
    write_rows(tmp_path / "car-1_time.txt", np.full((FRAMES - 1, 1), 0.1))
    read = read_foreign(tmp_path, [clip])
    assert "5 times for 6 rows" in read.notes[0]
    assert np.isnan(read.runs[0]["car-1"].times).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,2,3,4\n1,2,3\n", "car-1: line 2: .*found '1,2,3'"),
        ("1,2,3,4\n1,2,nan,4\n", "car-1: line 2 is not finite"),
        ("\n", "car-1: holds no numbers"),
        ("1,2,3,4,5,6,7,8\n", "expected 4 numbers"),
    ],
)
def test_what_does_not_parse_is_refused_by_sequence_file_and_line(tmp_path, text, says):
    (tmp_path / "car-1.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=says) as error:
        read_foreign(tmp_path, [clip_of("car-1", frames=2)], "otb")
    assert "car-1.txt" in error.value.message


def test_missing_sequences_are_listed_also_where_only_a_run_lacks_them(tmp_path):
    clips = [clip_of(f"car-{k}", "tnl2k") for k in (1, 2, 3)]
    _pytracking(tmp_path, clips[0], "T_000", "T_001")
    _pytracking(tmp_path, clips[1], "T_000")
    read = read_foreign(tmp_path, clips)
    assert read.missing == ("car-2", "car-3")
    assert all(list(run) == ["car-1"] for run in read.runs)
    assert read.notes == ("car-2: not in every run, so left out",)


def test_a_folder_of_other_results_shows_names_found_and_expected(tmp_path):
    clips = [clip_of("car-1"), clip_of("car-2"), clip_of("car-3")]
    for name in ("bus-1", "bus-2", "bus-3"):
        write_rows(tmp_path / f"{name}.txt", ours_of(clips[0]))
    with pytest.raises(UserError, match="lasot-test") as error:
        read_foreign(tmp_path, clips)
    for part in ("bus-1.txt, bus-2.txt and 1 more", "car-1 and car-2"):
        assert part in error.value.message
    with pytest.raises(UserError, match="no such folder"):
        read_foreign(tmp_path / "nowhere", clips)
    with pytest.raises(UserError, match=r"unknown layout 'otv'.*did you mean 'otb'"):
        read_foreign(tmp_path, clips, "otv")


def test_ostracks_folder_of_one_set_is_looked_into(tmp_path):
    clip = clip_of("GOT-10k_Val_000001", "got10k", "val")
    write_rows(tmp_path / "ostrack" / "vitb" / "got10k" / f"{clip.name}.txt", ours_of(clip), "\t")
    for folder in ("ostrack", "ostrack/vitb"):
        read = read_foreign(tmp_path / folder, [clip])
        assert (read.layout, read.label) == ("pytracking", "vitb")


@pytest.fixture(scope="module")
def tnl2k():
    """The inputs of the published writers: clips, and the results that were written."""
    clips, run = [], {}
    with np.load(GOLDEN / "g9_writer_inputs.npz") as arrays:
        for name in ("x1", "x2", "x3"):
            values = {key: arrays[f"TNL2K/{name}/{key}"] for key in ("gt", "exist", "pred", "time")}
            n = len(values["gt"])
            files = FrameFiles(Path("frames"), range(1, n + 1), "%08d.jpg")
            track = Track(values["gt"], values["exist"])
            clips.append(Clip("tnl2k", "test", name, files, (track,), n))
            boxes = xyxy_to_xywh(values["pred"])
            run[name] = SequenceResult(name, boxes, np.ones(n), values["time"])
    return clips, run


def _export(run, layout, dataset="tnl2k", split="test", label="MyTracker"):
    runs = run if isinstance(run, tuple) else (run,)
    return layout_files([ResultSet(f"{dataset}-{split}", DATASETS[dataset], runs)], layout, label)


@pytest.mark.parametrize("layout", ["pytracking", "otb"])
def test_exports_are_byte_for_byte_the_published_writers(tnl2k, layout):
    archive = SHARED / f"g9_{layout}_TNL2K.zip"
    if not archive.is_file():
        pytest.skip("the published zips are not here")
    files = _export(tnl2k[1], layout)
    with zipfile.ZipFile(archive) as published:
        assert files == {name: published.read(name).decode() for name in published.namelist()}


@pytest.mark.parametrize("layout", ["pytracking", "otb", "got10k"])
def test_what_is_exported_scores_as_what_was_exported(tnl2k, layout, tmp_path):
    clips, run = tnl2k
    sized = {name: np.maximum(result.boxes, [-np.inf, -np.inf, 1, 1]) for name, result in run.items()}
    run = {name: replace(run[name], boxes=boxes) for name, boxes in sized.items()}
    write_files(tmp_path, _export(run, layout), overwrite=False)
    read = read_foreign(tmp_path, clips)
    assert (read.layout, read.notes, read.label) == (layout, (), "MyTracker")
    scores = dataset_scores(clips, read.runs)
    direct = dataset_scores(clips, [run])
    for read_back, written in zip(scores.curves, direct.curves, strict=True):
        np.testing.assert_array_equal(read_back, written)


def test_our_results_score_as_the_published_report_of_them(tnl2k, tmp_path):
    clips, run = tnl2k
    for result in run.values():
        write_result(tmp_path, result)
    read = read_foreign(tmp_path, clips)
    assert (read.layout, read.notes) == ("lorat", ())
    scores = dataset_scores(clips, read.runs)
    assert scores.curves.auc == pytest.approx(0.5067019429471757, abs=1e-6)
    assert scores.curves.norm_precision_20 == pytest.approx(0.8922839562098185, abs=1e-6)


@pytest.mark.parametrize("layout", ["pytracking", "otb", "got10k"])
@pytest.mark.parametrize("dataset", ["lasot", "vasttrack", "uav123", "nfs30", "tc128", "otb"])
def test_every_set_and_all_its_runs_go_there_and_back(tmp_path, layout, dataset):
    clips = [clip_of(name, dataset) for name in ("car_1", "bus_2")]
    runs = tuple({clip.name: result_of(clip, shift) for clip in clips} for shift in (0.5, 1.5))
    write_files(tmp_path, _export(runs, layout, dataset), overwrite=False)
    read = read_foreign(tmp_path, clips)
    assert (read.layout, read.notes, read.missing, len(read.runs)) == (layout, (), (), 2)
    for run, back in zip(runs, read.runs, strict=True):
        for clip in clips:
            np.testing.assert_allclose(back[clip.name].boxes, run[clip.name].boxes, atol=6e-4)
    if layout == "got10k":
        assert read.runs[1]["car_1"].times.tolist() == [0.02] * FRAMES


def test_files_are_named_and_based_as_their_readers_expect():
    clip = clip_of("car-1")
    run = {"car-1": result_of(clip)}
    files = _export((run, run), "pytracking", "lasot")
    assert list(files) == ["MyTracker_001/car-1.txt", "MyTracker_002/car-1.txt"]
    assert files["MyTracker_001/car-1.txt"].startswith("31.000\t41.000\t20.000\t10.000\n32.250\t")
    assert list(_export(run, "pytracking", "uav123")) == ["MyTracker/uav_car-1.txt"]
    assert list(_export(run, "pytracking", "otb")) == ["MyTracker/car-1.txt"]
    assert list(_export((run, run), "otb"))[1] == "MyTracker_002_tracking_result/car-1.txt"
    files = _export(run, "got10k", "lasot_ext")
    assert list(files) == ["MyTracker/car-1/car-1_001.txt", "MyTracker/car-1/car-1_time.txt"]
    assert files["MyTracker/car-1/car-1_001.txt"].startswith("30.0000,40.0000,20.0000,10.0000\n")
    assert files["MyTracker/car-1/car-1_time.txt"].startswith("0.02000000\n")


def test_equal_names_of_two_sets_in_a_flat_layout_are_refused():
    run = {"bike1": result_of(clip_of("bike1"))}
    sets = [ResultSet(f"{name}-all", DATASETS[name], (run,)) for name in ("uav123", "uav20l")]
    for layout in ("pytracking", "otb", "got10k"):
        with pytest.raises(UserError, match=r"bike1.*uav123-all and uav20l-all"):
            layout_files(sets, layout, "T")
    sets[1] = ResultSet("otb-all", DATASETS["otb"], (run,))
    assert len(layout_files(sets, "pytracking", "T")) == 2  # the prefix keeps them apart


def test_files_with_other_content_are_refused_before_anything_is_written(tmp_path):
    files = {"T/a.txt": "1\n", "T/b.txt": "2\n", "T/c.txt": "3\n"}
    assert write_files(tmp_path, files, overwrite=False) == 3
    assert write_files(tmp_path, files, overwrite=False) == 0
    (tmp_path / "T/a.txt").unlink()
    changed = files | {"T/b.txt": "4\n", "T/c.txt": "5\n"}
    with pytest.raises(UserError, match=r"b.txt: exists with other content, as do 1 more.*--overw"):
        write_files(tmp_path, changed, overwrite=False)
    assert sorted(p.name for p in (tmp_path / "T").iterdir()) == ["b.txt", "c.txt"]
    assert write_files(tmp_path, changed, overwrite=True) == 3
    assert (tmp_path / "T/b.txt").read_text() == "4\n"


def test_the_toolkits_own_results_score_as_the_toolkit_says(tmp_path):
    unpack_got10k(tmp_path)
    clips = read_clips(DATASETS["got10k"], "val", tmp_path / "gotval")
    read = read_foreign(tmp_path / "gotres" / "GOT-10k", clips)
    assert (read.layout, read.missing, read.label) == ("got10k", (), "T")
    report = json.loads((GOLDEN / "g8_got10k_toolkit.json").read_text())["_derived"]
    scores = dataset_scores(clips, read.runs)
    assert scores.got10k.ao == pytest.approx(report["AO"], abs=1e-9)
    assert scores.got10k.sr50 == pytest.approx(report["SR0.5"], abs=1e-9)
    assert scores.fps == pytest.approx(50.0)
