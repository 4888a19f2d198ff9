"""Files as other programs really write them: spellings, lengths, first rows, rows that are no box, kinds of file."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lorat.evaluate.measure.scores import dataset_scores
from lorat.evaluate.results.foreign import read_foreign
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import xyxy_to_xywh
from tests.evaluate.result_files import FRAMES, clip_of, ours_of, shift_of, write_rows

OTB = ("Basketball", "CarDark", "Jogging_1", "Jogging_2", "Human4_2")


def truth_of(clip) -> np.ndarray:
    return xyxy_to_xywh(clip.tracks[0].boxes)


def spanned(before: int, images: int, dataset: str = "otb", frames: int = FRAMES):
    return replace(clip_of("David", dataset, frames=frames), before=before, images=images)


@pytest.mark.parametrize(
    "called",
    [
        ("basketball", "carDark", "jogging_1", "jogging_2", "human4-2"),
        ("Basketball", "Cardark", "Jogging-1", "Jogging-2", "Human4"),
        ("otb_Basketball", "otb_CarDark", "otb_Jogging.1", "otb_jogging.2", "otb_Human4"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_every_spelling_of_a_sequence_is_found_and_said(tmp_path, called, nested):
    clips = [clip_of(name, "otb") for name in OTB]
    for shift, (clip, stem) in enumerate(zip(clips, called, strict=True)):
        write_rows(tmp_path / (f"{stem}/{stem}_001.txt" if nested else f"{stem}.txt"), ours_of(clip, shift + 1))
    read = read_foreign(tmp_path, clips)
    assert read.missing == ()
    loose = [
        f"{clip.name} as {stem}"
        for clip, stem in zip(clips, called, strict=True)
        if clip.name != stem.removeprefix("otb_")
    ]
    said = f"{len(loose)} sequences found under another spelling: {', '.join(loose)}"
    assert read.notes == (said,)
    assert [read.runs[0][clip.name].boxes[1, 0] - truth_of(clip)[1, 0] for clip in clips] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("dataset", ["uav123", "uav123_10fps", "uav20l"])
def test_uav123s_prefix_is_known_in_got10ks_layout_too(tmp_path, dataset):
    clips = [clip_of("bike1", dataset), clip_of("car1_s", dataset)]
    for clip in clips:
        write_rows(tmp_path / f"uav_{clip.name}" / f"uav_{clip.name}_001.txt", ours_of(clip))
    assert read_foreign(tmp_path, clips)[3:5] == ((), ())


def test_what_two_files_may_mean_is_not_taken_and_what_is_like_it_is_named(tmp_path):
    clips = [clip_of(name, "otb") for name in ("Basketball", "Jogging_1", "Suv", "Human4_2")]
    for stem in ("Basketball", "Jogging-1", "jogging.1", "Suv2", "Human4_2"):
        write_rows(tmp_path / f"{stem}.txt", ours_of(clips[0]))
    read = read_foreign(tmp_path, clips)
    assert read.missing == ("Jogging_1", "Suv")
    assert read.notes[0].startswith("Jogging_1: no result of it; Jogging-1, jogging.1 is there")
    assert "Suv: no result of it; Suv2" in read.notes[1]


def test_a_few_names_alike_but_for_capitals_are_another_data_sets(tmp_path):
    uav = [clip_of(f"{kind}{k}", "uav123") for kind in ("car", "bike", "boat") for k in (1, 2, 4)]
    for name in ("Car1", "Car2", "Basketball", "Biker", "Bird1", "Board", "Bolt", "Box", "Boy"):
        write_rows(tmp_path / f"{name}.txt", ours_of(uav[0]))
    with pytest.raises(UserError, match="no result of uav123-test"):
        read_foreign(tmp_path, uav)


@pytest.mark.parametrize(("before", "images"), [(3, 12), (6, 12), (0, 12)])
def test_a_row_an_image_gives_the_rows_of_the_scored_frames(tmp_path, before, images):
    clip = spanned(before, images)
    every = np.full((images, 4), 5.0)
    every[before : before + FRAMES] = truth_of(clip)
    write_rows(tmp_path / "David.txt", every)
    write_rows(tmp_path / "times" / "David_time.txt", np.arange(images)[:, None] + 1.0)
    read = read_foreign(tmp_path, [clip])
    np.testing.assert_array_equal(read.runs[0]["David"].boxes, truth_of(clip))
    assert read.runs[0]["David"].times[0] == before + 1
    (note,) = read.notes
    assert f"rows {before + 1} to {before + FRAMES} of {images}" in note


def test_rows_that_fit_neither_frames_nor_images_are_refused_unless_the_span_begins_the_folder(tmp_path):
    write_rows(tmp_path / "David.txt", ours_of(clip_of("x", frames=8)))
    with pytest.raises(UserError, match="David: 8 rows for 6 of 12 images: which are theirs"):
        read_foreign(tmp_path, [spanned(3, 12)])
    read = read_foreign(tmp_path, [spanned(0, 12)])
    assert len(read.runs[0]["David"].boxes) == FRAMES and "cut (8 rows for 6 frames)" in read.notes[0]
    read = read_foreign(tmp_path, [spanned(0, 0, "tnl2k")])
    assert len(read.runs[0]["David"].boxes) == FRAMES and "cut (8 rows for 6 frames)" in read.notes[0]


def test_a_detail_of_several_sequences_says_whose_it_is(tmp_path):
    clips = [clip_of(name, "tnl2k") for name in ("car-1", "car-2")]
    for clip, rows in zip(clips, (8, 9), strict=True):
        write_rows(tmp_path / f"{clip.name}.txt", ours_of(clip_of(clip.name, frames=rows)))
    (note,) = read_foreign(tmp_path, clips).notes
    assert note == "2 sequences (car-1, car-2): rows beyond the last frame are cut (car-1: 8 rows for 6 frames)"


def test_an_otb_tree_scores_results_over_all_images_of_its_sequences(tmp_path):
    boxes = np.array([30.0, 40, 20, 10]) + np.arange(15)[:, None] * [1, 0, 0, 0]
    write_rows(tmp_path / "OTB/Tiger1/groundtruth_rect.txt", boxes, form="%d")
    (tmp_path / "OTB/Tiger1/img").mkdir()
    for number in range(1, 16):
        (tmp_path / f"OTB/Tiger1/img/{number:04d}.jpg").write_bytes(b"")
    clips = read_clips(DATASETS["otb"], "all", tmp_path / "OTB")
    for rows in (boxes, boxes[5:]):
        write_rows(tmp_path / "T/Tiger1.txt", rows)
        scores = dataset_scores(clips, read_foreign(tmp_path / "T", clips).runs)
        assert scores.curves.auc == pytest.approx(20 / 21)


def test_a_frame_without_annotation_needs_no_row_and_one_with_does(tmp_path):
    clip = clip_of("Board", "otb")
    clip.tracks[0].boxes[-1] = 0.0
    clip.tracks[0].visible[-1] = False
    write_rows(tmp_path / "Board.txt", ours_of(clip)[:-1])
    read = read_foreign(tmp_path, [clip])
    assert read.notes == ("Board: no rows for the last frames, which are not annotated; the last row stands for them "
                          "(5 rows for 6 frames)",)  # fmt: skip
    np.testing.assert_array_equal(read.runs[0]["Board"].boxes[-1], ours_of(clip)[-2])
    write_rows(tmp_path / "Board.txt", ours_of(clip)[:-2])
    with pytest.raises(UserError, match=r"Board.txt: Board: 4 rows for 6 frames"):
        read_foreign(tmp_path, [clip])


def test_of_many_files_that_cannot_be_used_for_one_reason_three_are_told_and_the_rest_named(tmp_path):
    clips = [clip_of(f"car-{k}", "tnl2k") for k in range(1, 41)]
    for clip in clips:
        write_rows(tmp_path / f"{clip.name}.txt", ours_of(clip)[: None if clip.name == "car-1" else 4])
    (tmp_path / "car-9.txt").write_text("")
    read = read_foreign(tmp_path, clips)
    assert len(read.refused) == 39 and len(read.notes) == 5
    assert [note.split(": ")[2] for note in read.notes[:3]] == ["car-2", "car-3", "car-4"]
    assert "and 35 more sequences: car-5, car-6, " in read.notes[3] and "and 15 more; metrics.json" in read.notes[3]
    assert "car-9: holds no numbers" in read.notes[4]


def test_every_file_that_cannot_be_used_is_named_and_the_others_are_read(tmp_path):
    clips = [clip_of(f"car-{k}", "tnl2k") for k in (1, 2, 3, 4, 5)]
    for clip in clips:
        write_rows(tmp_path / f"{clip.name}.txt", ours_of(clip)[: 5 if clip.name == "car-2" else None])
    (tmp_path / "car-3.txt").write_text("1,2,3\n")
    (tmp_path / "car-4.txt").write_text("")
    read = read_foreign(tmp_path, clips)
    assert list(read.runs[0]) == ["car-1", "car-5"] and list(read.refused) == ["car-2", "car-3", "car-4"]
    for name, why in read.refused.items():
        assert f"left out: {why}" in read.notes and why.startswith(f"{tmp_path}/{name}.txt: {name}: ")


def test_paddle_1_is_told_from_a_short_file(tmp_path):
    clip = clip_of("paddle-1", "lasot_ext", frames=2703)
    write_rows(tmp_path / "paddle-1.txt", ours_of(clip)[:2500])
    with pytest.raises(UserError, match=r"2,500 rows for 2,703 frames; its toolkit's own annotation is as short"):
        read_foreign(tmp_path, [clip])


@pytest.mark.parametrize("bad", [[np.nan] * 4, [-1, -1, -1, -1], [np.inf, 1, 2, 3]])
def test_rows_that_are_no_box_are_kept_for_a_convention_that_repairs_them_else_refused(tmp_path, bad):
    clip = clip_of("airplane-1")
    rows = truth_of(clip) + shift_of(1)
    rows[2:4] = bad
    write_rows(tmp_path / "airplane-1.txt", rows)
    for repairs, says in ((None, r"line 3 .*again$"), (False, r"line 3 .*--convention matlab")):
        with pytest.raises(UserError, match=says):
            read_foreign(tmp_path, [clip], repairs=repairs)
    read = read_foreign(tmp_path, [clip], repairs=True)
    assert "airplane-1: rows that are no box are the row before" in read.notes[0]
    held = truth_of(clip)
    held[2:4] = held[1]
    (curves, wanted) = (
        dataset_scores([clip], [{"airplane-1": replace(read.runs[0]["airplane-1"], boxes=boxes)}], "matlab").curves
        for boxes in (read.runs[0]["airplane-1"].boxes, held)
    )
    for mine, right in zip(curves, wanted, strict=True):
        np.testing.assert_array_equal(mine, right)


@pytest.mark.parametrize("half", [0.5, -0.5])
def test_half_a_pixel_in_the_first_row_is_pysots_way(tmp_path, half):
    clip = clip_of("car-1", "otb")
    write_rows(tmp_path / "car-1.txt", ours_of(clip) + shift_of(half))
    assert read_foreign(tmp_path, [clip]).notes == (
        "car-1: the first box is half a pixel off the given one, as pysot's family writes it; nothing to do",
    )


@pytest.mark.parametrize("less", [0, 1])
def test_a_first_row_of_corners_is_known_and_a_file_of_corners_is_another_thing(tmp_path, less):
    clip = clip_of("Basketball", "otb")
    rows = ours_of(clip)
    corners = np.hstack([rows[:, :2], rows[:, :2] + rows[:, 2:]]) - less
    write_rows(tmp_path / "Basketball.txt", np.vstack([corners[:1], rows[1:]]))
    read = read_foreign(tmp_path, [clip])
    first = "Basketball: the first box is given by its corners, the others by their size, as some of pysot's are"
    assert read.notes == (f"{first}; nothing to do",)
    np.testing.assert_array_equal(read.runs[0]["Basketball"].boxes, ours_of(clip))
    write_rows(tmp_path / "Basketball.txt", corners)
    (note,) = read_foreign(tmp_path, [clip]).notes
    assert "the boxes look like corners but are scored as x, y, width, height" in note


def test_advice_on_first_rows_keeps_to_the_published_numbers(tmp_path):
    for dataset, shift, words in (
        ("lasot", shift_of(-1), ("published numbers of such files", "--layout lorat")),
        ("lasot", shift_of(1), ("published numbers of such files", "by a mistake")),
        ("nfs30", np.array([0, 0, 1.0, 1.0]), ("wider and higher", "pytracking's tree")),
        ("nfs30", np.array([0, 0, -1.0, -1.0]), ("narrower and lower", "made on the official tree")),
    ):
        clip = clip_of("car-1", dataset)
        base = shift_of(1) if dataset == "lasot" else 0
        write_rows(tmp_path / "car-1.txt", ours_of(clip) + base + shift)
        (note,) = read_foreign(tmp_path, [clip], "otb").notes
        assert all(word in note for word in words), note


def test_times_are_found_in_their_own_folder_as_got10ks_toolkit_writes_them(tmp_path):
    clip = clip_of("Jogging_1", "otb")
    write_rows(tmp_path / "T/Jogging.1.txt", ours_of(clip))
    write_rows(tmp_path / "T/times/Jogging.1_time.txt", np.full((FRAMES, 1), 0.1))
    for folder in ("T", ""):
        read = read_foreign(tmp_path / folder, [clip])
        assert read.label == "T" and read.runs[0]["Jogging_1"].times.tolist() == [0.1] * FRAMES


def test_folders_whose_name_says_nothing_are_called_by_the_one_above(tmp_path):
    clip = clip_of("car-1", "tnl2k")
    for name in ("default", "nfs_results"):
        write_rows(tmp_path / "ATOM" / name / "car-1.txt", ours_of(clip), "\t")
        assert read_foreign(tmp_path / "ATOM" / name, [clip]).label == "ATOM"


def vot_rows(clip, first: str = "1") -> list[str]:
    return [first, *(",".join(f"{value:.4f}" for value in row) for row in ours_of(clip)[1:])]


@pytest.mark.parametrize("dataset", ["vot", "otb"])
def test_vots_codes_polygons_and_masks_are_read(tmp_path, dataset):
    clip = clip_of("ants1", dataset, "all")
    lines = vot_rows(clip)
    lines[2:6] = ["0", "31,42,51,42,51,52,31,52", "m33,43,4,2,1,3,2,2", "0"]
    path = tmp_path / "ants1/ants1_001.txt"
    path.parent.mkdir()
    path.write_text("\n".join(lines))
    read = read_foreign(tmp_path, [clip])
    boxes = read.runs[0]["ants1"].boxes
    np.testing.assert_array_equal(boxes[[0, 3, 4]], [[30, 40, 20, 10], [31, 42, 20, 10], [34, 43, 3, 2]])
    assert np.isnan(boxes[[2, 5]]).all() and read.notes == (
        "ants1: frames with a code instead of a box are misses (2 frames)",
    )
    scores = dataset_scores([clip], read.runs)
    assert scores.sequences[0].curves.success[0] == pytest.approx(4 / 6)


def test_a_reset_baseline_is_recognised_and_never_scored_as_one_pass(tmp_path):
    clips = [clip_of(name, "vot", "all") for name in ("ants1", "agility")]
    for clip in clips:
        lines = vot_rows(clip)
        if clip.name == "agility":
            lines[2:5] = ["2", "0", "1"]
        path = tmp_path / "Ocean/baseline" / clip.name / f"{clip.name}_001.txt"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(lines))
    read = read_foreign(tmp_path / "Ocean", clips)
    assert read.label == "Ocean" and list(read.runs[0]) == ["ants1"]
    assert "reset baseline" in read.refused["agility"] and "onto the object 1 time;" in read.refused["agility"]


def save_mat(path: Path, **values) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, values)


def otb_cell(rows, **more):
    cell = np.empty((1, 1), object)
    cell[0, 0] = {"type": "rect", "res": rows, "fps": 20.0, "len": len(rows), **more}
    return cell


def test_matlab_files_are_read_as_otbs_and_lasots_toolkits_save_them(tmp_path):
    clips = [clip_of(name, "otb") for name in ("Basketball", "Jogging_1", "Human4_2")]
    for clip in clips:
        stem = clip.name.lower().replace("_", "-")
        save_mat(tmp_path / "all" / f"{stem}_SiamFC_3s.mat", results=otb_cell(ours_of(clip)), video_name=stem)
        save_mat(tmp_path / "plain" / f"{clip.name}.mat", positions=ours_of(clip), note="x")
        save_mat(tmp_path / "struct" / f"{clip.name}.mat", results={"res": ours_of(clip)})
    for folder, label in (
        ("all", "SiamFC_3s"),
        ("all/SiamFC_3s", "SiamFC_3s"),
        ("plain", "plain"),
        ("struct", "struct"),
    ):
        read = read_foreign(tmp_path / folder, clips)
        assert read.label == label and read.missing == () and read.layout == "otb"
        for clip in clips:
            np.testing.assert_allclose(read.runs[0][clip.name].boxes, ours_of(clip))
        assert read.runs[0]["Basketball"].times[0] == (0.05 if "all" in folder else pytest.approx(np.nan, nan_ok=True))
    save_mat(tmp_path / "all/basketball_ECO.mat", results=otb_cell(ours_of(clips[0])))
    with pytest.raises(UserError, match=r"several results of otb-test: .*SiamFC_3s.*ECO"):
        read_foreign(tmp_path / "all", clips)
    assert list(read_foreign(tmp_path / "all/ECO", clips).runs[0]) == ["Basketball"]


def test_matlab_files_without_boxes_of_one_pass_are_refused_by_name(tmp_path):
    clip = clip_of("car-1", "tnl2k")
    two = np.empty((1, 2), object)
    two[0, 0] = two[0, 1] = {"type": "rect", "res": ours_of(clip)}
    path = tmp_path / "car-1.mat"
    for content in (two, otb_cell(ours_of(clip), type="ivtAff"), otb_cell(np.zeros((6, 6)))):
        save_mat(path, results=content)
        with pytest.raises(UserError, match=r"car-1.mat: car-1: holds no boxes of one pass"):
            read_foreign(tmp_path, [clip])
    save_mat(path, results=otb_cell(ours_of(clip)))
    whole = path.read_bytes()
    for data in (whole[:200], b"no MATLAB", b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"HDF" * 200):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"car-1.mat: is no MATLAB file that can be read .*-v7"):
            read_foreign(tmp_path, [clip])


def test_json_is_read_a_file_a_sequence_or_one_file_for_all(tmp_path):
    clips = [clip_of(name, "otb") for name in ("Basketball", "Jogging_1")]
    rows = {clip.name: ours_of(clip).tolist() for clip in clips}
    whole = {
        "rows": {"Basketball": rows["Basketball"], "Jogging-1": rows["Jogging_1"]},
        "tracks": {name: [{"seqName": name, "resType": "rect", "res": each, "fps": 10}] for name, each in rows.items()},
        "pysot": {name: {"video_dir": name, "init_rect": each[0], "gt_rect": each} for name, each in rows.items()},
    }
    for name, content in whole.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        (tmp_path / name).mkdir()
        for sequence, each in content.items():
            (tmp_path / name / f"{sequence}.json").write_text(json.dumps(each))
        for place in (f"{name}.json", name):
            read = read_foreign(tmp_path / place, clips)
            assert read.label == name and read.missing == ()
            for clip in clips:
                np.testing.assert_allclose(read.runs[0][clip.name].boxes, ours_of(clip))
            assert ("ground truth (Basketball: gt_rect)" in " ".join(read.notes)) == (name == "pysot")


def test_scores_in_json_are_no_boxes(tmp_path):
    path = tmp_path / "performance.json"
    path.write_text(json.dumps({"SiamFC": {"overall": {"success_score": 0.5}, "seq_wise": {}}}))
    for text, says in (
        (path.read_text(), "holds the scores of GOT-10k's toolkit"),
        ("[1]", "no boxes by sequence"),
        ("{", "no JSON"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=f"performance.json: .*{says}"):
            read_foreign(path, [clip_of("Basketball", "otb")])


def test_a_zip_is_read_as_its_folder_and_nothing_is_written_outside(tmp_path, monkeypatch):
    clips = [clip_of(name, "tnl2k") for name in ("car-1", "car-2")]
    text = "\n".join(",".join(map(str, row)) for row in ours_of(clips[0]))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    with zipfile.ZipFile(tmp_path / "DiMP.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("DiMP50_000/car-1.txt", text)
        archive.writestr("DiMP50_000\\car-2.txt", text + "\n1,2,x,4")
        archive.writestr("__MACOSX/DiMP50_000/._car-1.txt", "x")
        archive.writestr("DiMP50_000/weights.pth", "x")
        for name in ("../../evil.txt", "/evil.txt", "a/../../../../evil.txt"):
            archive.writestr(name, "x")
    read = read_foreign(tmp_path / "DiMP.zip", clips)
    assert (read.label, list(read.runs[0])) == ("DiMP50", ["car-1"])
    assert str(read) == f"pytracking in {tmp_path}/DiMP.zip/DiMP50_000"
    assert f"left out: {tmp_path}/DiMP.zip/DiMP50_000/car-2.txt: car-2: line 7" in read.notes[-1]
    assert not list(tmp_path.rglob("evil.txt")) and not list((tmp_path / "temp").iterdir())
    monkeypatch.setattr("lorat.evaluate.results.formats._LARGEST", 100)
    with pytest.raises(UserError, match=r"DiMP.zip: holds more than"):
        read_foreign(tmp_path / "DiMP.zip", clips)


def test_a_file_that_is_no_zip_and_a_folder_of_nothing_known_say_what_is_read(tmp_path):
    clip = clip_of("car-1", "tnl2k")
    (tmp_path / "T").mkdir()
    for path in (tmp_path / "car-1.7z", tmp_path / "T" / "car-1.npy"):
        path.write_bytes(b"x")
    for place in (tmp_path / "car-1.7z", tmp_path / "T"):
        with pytest.raises(UserError, match=r"text \(.txt\), MATLAB \(.mat\) and JSON files, in a folder or a zip"):
            read_foreign(place, [clip])
    write_rows(tmp_path / "T" / "car-1.TXT", ours_of(clip))
    assert read_foreign(tmp_path / "T", [clip]).missing == ()
