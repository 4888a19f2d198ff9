"""Lengths, lists and names that disagree: what is told, and what a message says was looked for and is there."""

import json

import numpy as np
import pytest

from lorat.prep.trees.base.reading import Reading, summed_up
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError


def rows(count):
    return "".join(f"{k + 1},2,30,40\n" for k in range(count))


@pytest.mark.parametrize("dataset", ["generic", "tnl2k"])
def test_frames_are_in_the_order_of_their_numbers_and_that_is_told(tmp_path, files, images, dataset, caplog):
    folder = {"generic": "train/a", "tnl2k": "a/imgs"}[dataset]
    files(tmp_path, {f"{folder.removesuffix('/imgs')}/groundtruth.txt": rows(12)})
    images(tmp_path / folder, [f"{k}.jpg" for k in range(1, 13)])
    (clip,) = read_clips(DATASETS[dataset], "train", tmp_path)
    assert [int(path.stem) for path in clip.frames] == list(range(1, 13))
    assert "in the order of their numbers: 2.jpg where the order of text has 10.jpg" in caplog.text
    with Reading(faults=[]) as how:
        read_clips(DATASETS[dataset], "train", tmp_path)
    assert [(fault.sequence, fault.damage) for fault in how.faults] == [("a", False)]


@pytest.mark.parametrize(("count", "boxes"), [(30, 60), (12, 120), (12, 15), (1, 2)])
def test_clearly_fewer_images_than_rows_leave_a_sequence_out_by_name(tmp_path, files, images, count, boxes):
    files(tmp_path, {"bad/groundtruth.txt": rows(boxes), "good/groundtruth.txt": rows(3)})
    images(tmp_path / "bad/imgs", [f"{k:05d}.jpg" for k in range(count)])
    images(tmp_path / "good/imgs", [f"{k:05d}.jpg" for k in range(3)])
    says = rf"bad/imgs: {count} images? but {boxes} boxes of bad, so which belong together is unknown"
    with pytest.raises(UserError, match=says):
        read_clips(DATASETS["tnl2k"], "train", tmp_path)
    with Reading(faults=[]) as how:
        assert [clip.name for clip in read_clips(DATASETS["tnl2k"], "train", tmp_path)] == ["good"]
    assert [(fault.sequence, fault.damage) for fault in how.faults] == [("bad", True)]


def test_a_row_more_than_images_is_cut_and_told(tmp_path, files, images):
    files(tmp_path, {"a/groundtruth.txt": rows(25)})
    images(tmp_path / "a/imgs", [f"{k:05d}.jpg" for k in range(24)])
    with Reading(faults=[]) as how:
        (clip,) = read_clips(DATASETS["tnl2k"], "train", tmp_path)
    assert len(clip.frames) == 24 and how.faults[0].damage


def test_of_what_is_said_of_many_sequences_three_are_told_and_the_rest_counted():
    faults = [(f"s{k}", f"a/s{k}: {k + 2} images but {k + 1} boxes of s{k}") for k in range(9)]
    other = ("t", "a/t: no groundtruth.txt")
    told = list(summed_up([*faults, other]))
    assert told[:3] == [message for _, message in faults[:3]] and told[4:] == [other[1]]
    more = "6 more sequences: s3, s4, s5, s6, s7, s8"
    assert told[3] == f"a/s0: 2 images but 1 boxes of s0 (and {more}; lorat-prep check lists all)"


def got10k(tmp_path, files, *names, listed=None, inside="train"):
    for name in names:
        texts = {"groundtruth.txt": rows(2), "absence.label": "0\n0\n", "cover.label": "8\n8\n"}
        files(tmp_path / inside / name, texts)
    if listed:
        files(tmp_path / inside, {"list.txt": "\n".join(listed)})
    return tmp_path


NAMES = [f"GOT-10k_Train_{k:06d}" for k in range(1, 7)]


def test_what_got10ks_list_names_and_the_disk_lacks_is_counted(tmp_path, files):
    root = got10k(tmp_path, files, *NAMES[:4], listed=NAMES)
    with Reading() as how:
        assert len(read_clips(DATASETS["got10k"], "train", root)) == 4
    assert [str(lack) for lack in how.lacks] == [
        f"{root}/train/list.txt: 2 of the 6 sequences of list.txt are not there, such as {NAMES[4]}"
    ]


@pytest.mark.parametrize(
    ("inside", "listed", "says"),
    [
        (
            "train/GOT-10k_Train_split_01",
            NAMES,
            r"list\.txt: none of the 6 sequences of list\.txt is there, such as GOT-10k_Train_000001; looked for "
            r"train/GOT-10k_Train_\*/groundtruth\.txt; folders in train: GOT-10k_Train_split_01; "
            r"\S+GOT-10k_Train_split_01 is a folder too many: move what it holds into \S+/train$",
        ),
        (
            "train/GOT-10k_Train_split_01",
            None,
            r"GOT-10k_Train_split_01: is no sequence: it has no groundtruth\.txt; folders there: GOT-10k_Train_000001",
        ),
        (f"train/{NAMES[0]}", NAMES[:1], rf"{NAMES[0]}: is no sequence: .*; sequences lie directly in .*train"),
        (
            "full_data/train",
            None,
            r"folders there: full_data; \S+full_data looks like it: give --root got10k=\S+full_data",
        ),
        ("train_data", None, r"folders there: train_data; \S+/train_data looks like \S+/train: call it so$"),
        (
            "full_data/Train",
            None,
            r"folders there: full_data; \S+/full_data/Train looks like \S+/full_data/train: call",
        ),
    ],
)
def test_got10k_a_folder_deeper_or_called_otherwise(tmp_path, files, inside, listed, says):
    root = got10k(tmp_path, files, NAMES[0], inside=inside)
    if listed:
        files(root / "train", {"list.txt": "\n".join(listed)})
    with pytest.raises(UserError, match=says):
        read_clips(DATASETS["got10k"], "train", root)


def test_of_a_list_of_others_the_folders_beside_it_are_said(tmp_path, files):
    root = got10k(tmp_path, files, NAMES[1], listed=NAMES[:1])
    says = rf"list\.txt: the 1 sequence of list\.txt is not there: {NAMES[0]}; folders in train: {NAMES[1]}$"
    with pytest.raises(UserError, match=says):
        read_clips(DATASETS["got10k"], "train", root)


def coco(tmp_path, files, images, names, there):
    table = [{"id": k, "file_name": name, "width": 8, "height": 8} for k, name in enumerate(names)]
    boxes = [{"id": k, "image_id": k, "bbox": [1, 1, 3, 3], "iscrowd": 0} for k in range(len(names))]
    files(tmp_path, {"annotations/instances_train2017.json": json.dumps({"images": table, "annotations": boxes})})
    images(tmp_path / "images/train2017", there)
    return tmp_path


def test_annotated_images_that_are_not_there_are_counted(tmp_path, files, images):
    names = [f"{k:012d}.jpg" for k in range(12)]
    with Reading() as how:
        assert len(read_clips(DATASETS["coco"], "train", coco(tmp_path, files, images, names, names[5:]))) == 7
    assert "5 of 12 annotated images are not there, such as 000000000000.jpg" in str(how.lacks[0])


def test_a_folder_in_file_name_is_said(tmp_path, files, images):
    root = coco(tmp_path, files, images, [f"train2017/{k}.jpg" for k in range(12)], ["0.jpg"])
    says = r"none of the 12 images that the annotations name \(train2017/0\.jpg\) is in .*images/train2017"
    with pytest.raises(UserError, match=says):
        read_clips(DATASETS["coco"], "train", root)


LAID = {
    "lasot": ("train", "bear/bear-1/full_occlusion.txt"),
    "got10k": ("val", "val/GOT-10k_Val_000001/groundtruth.txt"),
    "trackingnet": ("train", "TRAIN_3/anno/a_0.txt"),
    "coco": ("val", "annotations/instances_val2017.json"),
    "tnl2k": ("test", "a/groundtruth.txt"),
    "vasttrack": ("test", "Bear/Bear-1/Groundtruth.txt"),
    "uav123": ("all", "anno/UAV123/bird1_1.txt"),
    "uav20l": ("all", "anno/UAV20L/bird1.txt"),
    "uav123_10fps": ("all", "anno/UAV123_10fps/bird1_1.txt"),
    "otb": ("all", "Board/groundtruth_rect.txt"),
    "nfs30": ("all", "book/30/book.txt"),
    "tc128": ("all", "Bird/Bird_gt.txt"),
    "vot": ("all", "bag/groundtruth.txt"),
    "avist": ("all", "anno/a.txt"),
    "lagot": ("all", "LaGOT_one_object_per_sequence_annotations_final.json"),
    "dtb70": ("all", "a/groundtruth_rect.txt"),
    "uavdt": ("all", "UAV-benchmark-SOT_v1.0/anno/a_gt.txt"),
    "visdrone": ("test", "annotations/a.txt"),
    "generic": ("train", "train/a/groundtruth.txt"),
}


@pytest.mark.parametrize("name", LAID)
def test_a_level_more_or_less_is_said_with_what_to_do(tmp_path, files, name):
    split, file = LAID[name]
    files(tmp_path / "a" / "deeper", {file: ""})
    with pytest.raises(UserError) as error:
        read_clips(DATASETS[name], split, tmp_path / "a")
    says = str(error.value)
    assert f"holds no sequence of {name}-{split}" in says or "none of the 12 folders" in says
    assert f"a/deeper looks like it: give --root {name}={tmp_path}/a/deeper" in says
    assert "looked for " in says and "; folders there: deeper; " in says
    around, *parts = (tmp_path / "a/deeper" / file).relative_to(tmp_path / "a").parts
    if len(parts) > 1 and name not in ("lasot", "avist", "visdrone", "vasttrack"):  # theirs may be others' too
        with pytest.raises(UserError, match=rf"{parts[0]} is a part of it: give --root {name}={tmp_path}/a/{around}$"):
            read_clips(DATASETS[name], split, tmp_path / "a" / around / parts[0])


def test_sequences_a_level_too_high_are_said(tmp_path, files):
    files(tmp_path, {"mine/a/groundtruth.txt": ""})
    with pytest.raises(UserError, match=r"what \S+mine holds belongs into \S+mine/train$"):
        read_clips(DATASETS["generic"], "train", tmp_path / "mine")


def test_a_sequence_in_a_folder_of_its_own_name_is_said(tmp_path, files):
    files(tmp_path, {"Board/Board/groundtruth_rect.txt": ""})
    with pytest.raises(UserError, match=r"Board is a folder too many: move what it holds into"):
        read_clips(DATASETS["otb"], "all", tmp_path)


@pytest.mark.parametrize("name", ["lasot_ext", "vasttrack"])
def test_what_lies_a_level_deeper_in_a_sequence_is_said(tmp_path, files, images, name):
    truth = "groundtruth.txt" if name == "lasot_ext" else "Groundtruth.txt"
    files(tmp_path / "a/a-1/inner", {truth: rows(2)})
    images(tmp_path / "a/a-1/imgs", ["00001.jpg"])
    says = rf"a-1/{truth}: cannot be read .*; \S+inner/{truth} is there: move what \S+inner holds into \S+a/a-1$"
    with pytest.raises(UserError, match=says):
        read_clips(DATASETS[name], "test", tmp_path)


def test_images_in_a_folder_of_another_name_are_said(tmp_path, files, images):
    files(tmp_path, {"train/a/groundtruth.txt": rows(2)})
    images(tmp_path / "train/a/frames", ["1.jpg", "2.jpg"])
    with pytest.raises(UserError, match=r"train/a: holds no images \(.*\), but folders: frames; restore them"):
        read_clips(DATASETS["generic"], "train", tmp_path)


@pytest.mark.parametrize(("name", "split", "part"), [("visdrone", "test", "sequences"), ("avist", "all", "anno")])
def test_a_root_that_is_a_part_of_the_tree_is_said(tmp_path, files, name, split, part):
    files(tmp_path / "set", {LAID[name][1]: rows(2)})
    (tmp_path / "set" / part).mkdir(exist_ok=True)
    with pytest.raises(UserError, match=rf"set looks like it: give --root {name}={tmp_path}/set$"):
        read_clips(DATASETS[name], split, tmp_path / "set" / part)


def test_a_tree_in_a_folder_of_its_own_name_is_the_root(tmp_path, files):
    files(tmp_path, {"UAV123/anno/UAV123/bike1.txt": ""})
    with pytest.raises(UserError, match=rf"UAV123 looks like it: give --root uav123={tmp_path}/UAV123$"):
        read_clips(DATASETS["uav123"], "all", tmp_path)


def test_annotations_without_any_images_are_said(tmp_path, files):
    files(tmp_path, {"anno/a.txt": rows(2)})
    (tmp_path / "sequences/b").mkdir(parents=True)
    says = r"anno: the 1 annotated sequence in \S+sequences is not there: a; folders there: anno, sequences$"
    with pytest.raises(UserError, match=says):
        read_clips(DATASETS["avist"], "all", tmp_path)


def test_vots_list_decides_and_what_it_lacks_and_does_not_name_is_told(tmp_path, files, images):
    for name in ("bag", "car", "ant"):
        files(tmp_path / "sequences" / name, {"groundtruth.txt": "1,2,3,4\n"})
        images(tmp_path / "sequences" / name / "color", ["00000001.jpg"])
    files(tmp_path / "sequences", {"list.txt": "car\nbag\nfish\n"})
    with Reading(faults=[]) as how:
        assert [clip.name for clip in read_clips(DATASETS["vot"], "all", tmp_path)] == ["car", "bag"]
    assert [str(lack) for lack in how.lacks] == [
        f"{tmp_path}/sequences/list.txt: 1 of the 3 sequences of list.txt is not there: fish"
    ]
    assert ["ant: not in list.txt, so not read" in fault.message for fault in how.faults] == [True]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ('0 20 30 59 59 1 0 0 0 "x"', "a row of VATIC"),
        ("m10,20,3,4,0,12", "a mask"),
        ("1,2,3,4,5,6,7,8", "a polygon"),
        ("0 0.5 0.25 0.1 0.1", "as YOLO has"),
        ("1,-1,20,30,40,50,1,-1,-1,-1", "a row of MOT"),
        ("1;2;3;4", "semicolons"),
        ('{"images": [', "JSON"),
        ("<annotation>", "Pascal VOC"),
        ("x,y,w,h", "the names of columns"),
    ],
)
def test_a_known_notation_that_is_no_box_is_named(tmp_path, files, images, row, what):
    files(tmp_path, {"train/a/groundtruth.txt": f"{row}\n" * 2})
    images(tmp_path / "train/a", ["1.jpg", "2.jpg"])
    with pytest.raises(
        UserError, match=f"line 1: expected 4 numbers .*, which looks like .*{what}.*; write x, y, width"
    ):
        read_clips(DATASETS["generic"], "train", tmp_path)


def test_the_official_rows_in_pytrackings_tree_are_known(tmp_path, files, images):
    files(tmp_path, {"anno/nfs_book.txt": '0 20 30 59 59 1 0 0 0 "x"\n' * 3})
    images(tmp_path / "sequences/book", ["00001.jpg"])
    with pytest.raises(UserError, match=r"is a row of the official tree; lay it out as book/30/book\.txt"):
        read_clips(DATASETS["nfs30"], "all", tmp_path)


def test_the_two_trees_of_nfs_differ_by_a_pixel_and_that_is_told(tmp_path, files, images, caplog):
    files(tmp_path / "official", {"book/30/book.txt": '0 20 30 59 59 1 0 0 0 "x"\n'})
    images(tmp_path / "official/book/30/book", ["00001.jpg"])
    files(tmp_path / "pytracking", {"anno/nfs_book.txt": "20\t30\t40\t30\n"})
    images(tmp_path / "pytracking/sequences/book", ["00001.jpg"])
    official, other = (read_clips(DATASETS["nfs30"], "all", tmp_path / tree)[0] for tree in ("official", "pytracking"))
    np.testing.assert_array_equal(other.tracks[0].boxes - official.tracks[0].boxes, [[0, 0, 1, 1]])
    assert caplog.text.count("count the last pixel in") == 1
