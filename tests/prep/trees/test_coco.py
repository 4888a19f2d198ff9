import json

import numpy as np
import pytest

from lorat.prep.trees.base.reading import Reading
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError

COCO = DATASETS["coco"]


def image(number, **changes):
    return {"id": number, "file_name": f"{number:012d}.jpg", "width": 64, "height": 48, **changes}


def annotation(number, image_id, bbox=(1.5, 2.5, 10.0, 20.0), crowd=0, **changes):
    row = {"id": number, "image_id": image_id, "bbox": list(bbox), "iscrowd": crowd}
    return {**row, "segmentation": [[1.0, 2.0]], "category_id": 90, **changes}


@pytest.fixture
def coco(tmp_path, files, images):
    def build(rows, objects, folder="images/train2017"):
        text = json.dumps({"images": rows, "annotations": objects})
        files(tmp_path, {"annotations/instances_train2017.json": text})
        images(tmp_path / folder, [row["file_name"] for row in rows])
        return tmp_path

    return build


@pytest.mark.parametrize("folder", ["images/train2017", "train2017"])
def test_an_image_is_a_clip_of_one_frame_and_each_object_a_track(coco, folder):
    objects = [annotation(1, 7), annotation(2, 3), annotation(3, 7, (0.0, 0.0, 5.0, 5.0))]
    clips = read_clips(COCO, "train", coco([image(7), image(3)], objects, folder))
    assert [clip.name for clip in clips] == ["000000000003", "000000000007"]
    assert [len(clip.tracks) for clip in clips] == [1, 2]
    np.testing.assert_array_equal(clips[1].tracks[0].boxes, [[1.5, 2.5, 11.5, 22.5]])
    np.testing.assert_array_equal(clips[1].tracks[1].boxes, [[0, 0, 5, 5]])
    assert clips[1].tracks[0].visible.tolist() == [True]
    assert clips[0].frames[0].is_file()


def test_the_size_comes_from_the_annotations(coco):
    (clip,) = read_clips(COCO, "train", coco([image(1)], [annotation(1, 1)]))
    assert clip.frame_size() == (64, 48)  # the file itself is 8×8


def test_crowds_and_images_with_nothing_else_are_left_out(coco):
    objects = [annotation(1, 1, crowd=1), annotation(2, 2, crowd=1), annotation(3, 2)]
    clips = read_clips(COCO, "train", coco([image(1), image(2), image(3)], objects))
    assert [(clip.name, len(clip.tracks)) for clip in clips] == [("000000000002", 1)]


def test_a_box_without_height_is_not_visible(coco):
    objects = [annotation(918, 1, (296.65, 388.33, 1.03, 0.0))]
    (clip,) = read_clips(COCO, "train", coco([image(1)], objects))
    assert clip.tracks[0].visible.tolist() == [False]


def test_images_that_are_not_on_disk_are_left_out(coco):
    root = coco([image(1), image(2)], [annotation(1, 1), annotation(2, 2)])
    (root / "images/train2017/000000000001.jpg").unlink()
    assert [clip.name for clip in read_clips(COCO, "train", root)] == ["000000000002"]


@pytest.mark.parametrize(
    ("rows", "objects", "message"),
    [
        ([image(1)], [annotation(5, 1, (1, 2, 3))], r"annotation 5: bbox \[1, 2, 3\]"),
        ([image(1)], [annotation(5, 1), annotation(6, 1, bbox="x")], "annotation 6: bbox"),
        ([image(1)], [annotation(5, None)], "annotation 5: image_id None"),
        ([image(1)], [annotation(5, 9)], "annotations of image 9, which is not"),
        ([image(1, width="wide")], [annotation(5, 1)], "image 1: width 'wide'"),
    ],
)
def test_a_damaged_row_is_named(coco, rows, objects, message):
    with pytest.raises(UserError, match=rf"instances_train2017\.json: {message}"):
        read_clips(COCO, "train", coco(rows, objects))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "line 1: is no JSON"),
        ("[]", "lacks the list 'images'"),
        ('{"images": []}', "lacks the list 'annotations'"),
        ('{"images": [], "annotations": [3]}', "lacks the list 'annotations'"),
    ],
)
def test_a_file_that_is_no_annotation_file_is_named(tmp_path, files, text, message):
    files(tmp_path, {"annotations/instances_val2017.json": text})
    with pytest.raises(UserError, match=rf"instances_val2017\.json: {message}"):
        read_clips(COCO, "val", tmp_path)


def test_a_missing_image_folder_is_named(coco):
    root = coco([image(1)], [annotation(1, 1)], folder="elsewhere")
    with pytest.raises(
        UserError,
        match=r"images are looked for in .*/train2017 and .*images/train2017; folders there: annotations, els",
    ):
        read_clips(COCO, "train", root)


def test_real_photographs_are_read_with_boxes_inside_them(shared):
    clips = read_clips(COCO, "train", shared / "real/coco")
    assert (len(clips), sum(len(clip.tracks) for clip in clips)) == (126, 929)
    for clip in clips:
        for track in clip.tracks:
            assert track.visible.all()
            assert (track.boxes[0, 2:] <= np.array(clip.size) + 0.1).all()


def test_annotated_images_that_are_not_there_are_counted_and_none_is_an_error(coco):
    root = coco([image(n) for n in range(12)], [annotation(n, n) for n in range(12)])
    for number in range(5):
        (root / "images" / "train2017" / f"{number:012d}.jpg").unlink()
    with Reading() as how:
        assert len(read_clips(COCO, "train", root)) == 7
    (lack,) = how.lacks
    assert str(lack).endswith("5 of 12 annotated images are not there, such as 000000000000.jpg")
    for picture in (root / "images" / "train2017").iterdir():
        picture.rename(picture.with_suffix(".jpeg"))
    with pytest.raises(UserError, match=r"none of the 12 images .*000000000000\.jpg.* is in .*images/train2017"):
        read_clips(COCO, "train", root)
