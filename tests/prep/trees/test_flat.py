"""Sets of frames and a file of boxes a sequence, LaGOT, and the parts of OTB."""

import json

import pytest

from lorat.prep.trees.base.reading import Reading
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError

ROWS = "1,2,3,4\n5,6,7,8\n0,0,0,0\n"


@pytest.mark.parametrize(
    ("dataset", "image", "boxes"),
    [
        ("dtb70", "a/img/%05d.jpg", "a/groundtruth_rect.txt"),
        ("uavdt", "UAV-benchmark-S/a/img%06d.jpg", "UAV-benchmark-SOT_v1.0/anno/a_gt.txt"),
        ("uavdt", "sequences/a/img%06d.jpg", "anno/a_gt.txt"),
        ("uavdt", "sequences/a/img%06d.jpg", "annotations/a_gt.txt"),
        ("uavdt", "a/img%06d.jpg", "a/a_gt.txt"),
        ("visdrone", "sequences/a/img%07d.jpg", "annotations/a.txt"),
        ("uav123_10fps", "data_seq/UAV123_10fps/a/%06d.jpg", "anno/UAV123_10fps/a.txt"),
        ("didi", "sequences/a/color/%08d.jpg", "sequences/a/groundtruth.txt"),
    ],
)
def test_a_row_an_image_in_each_layout(tmp_path, files, images, dataset, image, boxes):
    files(tmp_path, {boxes: ROWS})
    folder, _, pattern = image.rpartition("/")
    images(tmp_path / folder, [pattern % number for number in (1, 2, 3)])
    row = DATASETS[dataset]
    (clip,) = read_clips(row, row.eval_split, tmp_path)
    assert (clip.name, clip.dataset, clip.annotated) == ("a", dataset, 3)
    assert [path.name for path in clip.frames] == [pattern % number for number in (1, 2, 3)]
    assert clip.tracks[0].boxes[1].tolist() == [5, 6, 12, 14]
    assert clip.tracks[0].visible.tolist() == [True, True, False]


def test_avists_flags_say_what_is_absent(tmp_path, files, images):
    texts = {"anno/a.txt": "1 2 3 4\n" * 3, "full_occlusion/a_full_occlusion.txt": "0,1,0"}
    files(tmp_path, texts | {"out_of_view/a_out_of_view.txt": "0,0,1"})
    images(tmp_path / "sequences/a", [f"img_{k:05d}.jpg" for k in (1, 2, 3)])
    (clip,) = read_clips(DATASETS["avist"], "all", tmp_path)
    assert clip.tracks[0].visible.tolist() == [True, False, False]
    assert clip.tracks[0].flagged.tolist() == [False, True, True]


def test_what_has_boxes_or_images_alone_is_told(tmp_path, files, images, caplog):
    files(tmp_path, {f"annotations/{name}.txt": ROWS for name in "ab"})
    for name in "bc":
        images(tmp_path / "sequences" / name, [f"img{k:07d}.jpg" for k in (1, 2, 3)])
    with Reading() as how:
        assert [clip.name for clip in read_clips(DATASETS["visdrone"], "test", tmp_path)] == ["b"]
    assert "c.txt: no such file, so c is not read as a sequence" in caplog.text
    assert [str(lack) for lack in how.lacks] == [
        f"{tmp_path}/annotations: 1 of the 2 annotated sequences in {tmp_path}/sequences is not there: a"
    ]


def test_spans_of_uav123_at_10_fps_are_thirds_of_those_of_uav123(tmp_path, files):
    files(tmp_path, {"anno/UAV123_10fps/uav1_3.txt": ROWS})
    (tmp_path / "data_seq/UAV123_10fps/uav1").mkdir(parents=True)
    (clip,) = read_clips(DATASETS["uav123_10fps"], "all", tmp_path)
    assert clip.frames[0].name == "000825.jpg"


@pytest.mark.parametrize("beside", ["LaSOT", "RAW/LaSOT", "RAW/LaGOT/LaSOT"])
def test_lagot_has_its_images_in_lasot(tmp_path, files, images, beside):
    root = tmp_path / "RAW/LaGOT" if "RAW" in beside else tmp_path / "LaGOT"
    images(tmp_path / beside / "bear/bear-1/img", ["00000001.jpg", "00000002.jpg"])
    frames = [f"bear/bear-1/img/{k:08d}.jpg" for k in (1, 2)]
    boxes = {"3": [[1, 2, 3, 4], [-1, -1, -1, -1]], "5": [[5, 6, 7, 8], [5, 6, 7, 8]]}
    rows = {
        "bear-1": {"frames": frames, "xywh": boxes},
        "cat-1": {"frames": ["cat/cat-1/img/1.jpg"], "xywh": [[0, 0, 1, 1]]},
    }
    files(root, {"LaGOT_multiple_object_per_sequence_annotations_final.json": json.dumps(rows)})
    with Reading() as how:
        clips = read_clips(DATASETS["lagot"], "all", root)
    assert [clip.name for clip in clips] == ["bear-1_3", "bear-1_5"]
    assert clips[0].tracks[0].visible.tolist() == [True, False]
    assert clips[1].frames[1].read_bytes()
    assert how.lacks[0].missing == ("cat-1",)


@pytest.mark.parametrize(
    ("row", "why"), [({"frames": []}, r"KeyError\('xywh'\)"), ({"frames": [], "xywh": []}, "IndexError")]
)
def test_a_json_that_is_not_lagots_is_named(tmp_path, files, row, why):
    files(tmp_path, {"LaGOT_multiple_object_per_sequence_annotations_final.json": json.dumps({"a": row})})
    with pytest.raises(UserError, match=rf"final\.json: is not LaGOT's annotation \({why}"):
        read_clips(DATASETS["lagot"], "all", tmp_path)


def test_where_lasots_images_were_looked_for_is_said(tmp_path, files):
    rows = {"a-1": {"frames": ["a/a-1/img/1.jpg"], "xywh": [[0, 0, 1, 1]]}}
    files(tmp_path / "LaGOT", {"LaGOT_one_object_per_sequence_annotations_final.json": json.dumps(rows)})
    with pytest.raises(UserError, match=r"the 1 object with images in \S+LaGOT/LaSOT or \S+/LaSOT or \S+LaGOT is not "):
        read_clips(DATASETS["lagot"], "all", tmp_path / "LaGOT")
