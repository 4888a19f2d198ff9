import numpy as np
import pytest

from lorat.prep.trees.base.reading import Reading
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError

TRACKINGNET = DATASETS["trackingnet"]


@pytest.fixture
def chunk(tmp_path, files, images):
    def build(name, sequence, rows=3, frames=3):
        files(tmp_path / name, {f"anno/{sequence}.txt": "1.25,2.50,3.00,4.00\n" * rows})
        images(tmp_path / name / "frames" / sequence, [f"{i}.jpg" for i in range(frames)])
        return tmp_path

    return build


def test_train_frames_count_from_zero_without_padding(chunk):
    (clip,) = read_clips(TRACKINGNET, "train", chunk("TRAIN_0", "-abc_0"))
    assert [path.name for path in clip.frames] == ["0.jpg", "1.jpg", "2.jpg"]
    np.testing.assert_array_equal(clip.tracks[0].boxes[2], [1.25, 2.5, 4.25, 6.5])
    assert clip.annotated == 3


def test_test_frames_are_counted_on_disk_and_sorted_by_number(chunk):
    (clip,) = read_clips(TRACKINGNET, "test", chunk("TEST", "_id_1", rows=1, frames=12))
    assert [path.name for path in clip.frames] == [f"{i}.jpg" for i in range(12)]
    assert (clip.name, clip.annotated) == ("_id_1", 1)
    assert clip.tracks[0].visible.tolist() == [True] + [False] * 11


@pytest.mark.parametrize(("gone", "says"), [([0], "number 0 missing"), ([3, 7], "3 and 1 more")])
def test_a_gap_in_the_frames_of_a_test_sequence_is_damage(chunk, gone, says):
    root = chunk("TEST", "a_0", rows=1, frames=12)
    for number in gone:
        (root / "TEST/frames/a_0" / f"{number}.jpg").unlink()
    with Reading(faults=(faults := [])):
        read_clips(TRACKINGNET, "test", root)
    (fault,) = faults
    assert (fault.sequence, fault.damage) == ("a_0", True) and says in fault.message


def test_chunks_come_in_the_order_of_their_numbers_and_missing_ones_are_left_out(chunk):
    chunk("TRAIN_10", "a_0")
    chunk("TEST", "t_0")
    root = chunk("TRAIN_2", "b_0")
    assert [clip.name for clip in read_clips(TRACKINGNET, "train", root)] == ["b_0", "a_0"]


def test_names_may_begin_with_a_hyphen_or_an_underscore(chunk):
    for name in ("-Dz7OIf54b0_0", "_id_1", "0-6LB4FqxoE_0"):
        root = chunk("TRAIN_0", name)
    names = [clip.name for clip in read_clips(TRACKINGNET, "train", root)]
    assert names == ["-Dz7OIf54b0_0", "0-6LB4FqxoE_0", "_id_1"]


def test_archives_and_other_files_may_stay_and_annotations_without_frames_are_left_out(chunk, files):
    root = chunk("TRAIN_0", "a_0")
    files(root, {"TRAIN_0/zips/a_0.zip": "PK", "TRAIN_0_ANNO.csv": "x", "TRAIN_0/anno/x.csv": "x"})
    files(root, {"TRAIN_0/anno/b_0.txt": "1,2,3,4\n"})
    assert [clip.name for clip in read_clips(TRACKINGNET, "train", root)] == ["a_0"]


def test_a_box_without_size_is_not_visible(chunk, files):
    root = chunk("TRAIN_0", "a_0")
    files(root, {"TRAIN_0/anno/a_0.txt": "1.25,2.50,3.00,4.00\n1,1,0.00,5\n-9.5,-9.5,4,4\n"})
    (clip,) = read_clips(TRACKINGNET, "train", root)
    # The last lies outside of the frame: what cleaning finds, which knows the frame's size.
    assert clip.tracks[0].visible.tolist() == [True, False, True]


def test_frames_without_annotations_are_left_out_after_one_warning(chunk, caplog):
    root = chunk("TRAIN_0", "a_0")
    for name in ("b_0", "c_0"):
        (root / "TRAIN_0/frames" / name).mkdir()
    assert [clip.name for clip in read_clips(TRACKINGNET, "train", root)] == ["a_0"]
    assert len(caplog.records) == 1
    assert "TRAIN_0: 2 folders of frames without a file in anno, such as b_0: not read" in caplog.text


def test_a_tree_without_chunks_or_with_unpacked_zips_missing_says_what_to_do(tmp_path, files):
    with pytest.raises(
        UserError, match=r"none of the 12 folders of the split is there, such as TRAIN_0; looked for TRAIN_\*/anno"
    ):
        read_clips(TRACKINGNET, "train", tmp_path)
    files(tmp_path, {"TRAIN_0/anno/a_0.txt": "1,2,3,4\n"})
    with pytest.raises(UserError, match="TRAIN_0: no folder frames; extract"):
        read_clips(TRACKINGNET, "train", tmp_path)
