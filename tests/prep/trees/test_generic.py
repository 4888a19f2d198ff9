import numpy as np
import pytest

from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError

GENERIC = DATASETS["generic"]


@pytest.fixture
def sequence(files, images):
    def build(folder, rows=3, inner="", absent=None):
        texts = {"groundtruth.txt": "1,2,3,4\n" * rows}
        files(folder, texts if absent is None else {**texts, "absent.txt": absent})
        images(folder / inner, ["c.png", "a.jpg", "b.jpg"])

    return build


@pytest.mark.parametrize("inner", ["", "img"])
def test_frames_lie_in_the_folder_or_in_img_sorted_by_name_and_absent_ones_are_not_visible(tmp_path, sequence, inner):
    sequence(tmp_path / "mine/cat", inner=inner, absent="0\n1\n0\n")
    (clip,) = read_clips(GENERIC, "mine", tmp_path)
    assert [path.name for path in clip.frames] == ["a.jpg", "b.jpg", "c.png"]
    np.testing.assert_array_equal(clip.tracks[0].boxes[2], [1, 2, 4, 6])
    assert clip.tracks[0].visible.tolist() == [True, False, True]


def test_one_box_alone_is_a_test_sequence(tmp_path, sequence):
    sequence(tmp_path / "test/cat", rows=1)
    (clip,) = read_clips(GENERIC, "test", tmp_path)
    assert (len(clip.frames), clip.annotated) == (3, 1)
    assert clip.tracks[0].visible.tolist() == [True, False, False]
    sequence(tmp_path / "train/cat", rows=1)
    with pytest.raises(UserError, match="cat: 3 images but 1 box of cat, so which belong together is unknown"):
        read_clips(GENERIC, "train", tmp_path)


def test_another_number_of_boxes_than_images_is_treated_as_in_other_sets(tmp_path, sequence, caplog):
    sequence(tmp_path / "test/cat", rows=2, absent="0\n1\n")
    (clip,) = read_clips(GENERIC, "test", tmp_path)
    assert (len(clip.frames), clip.tracks[0].visible.tolist()) == (2, [True, False])
    assert "3 images but 2 boxes of cat; only the first 2 frames are used" in caplog.text
    for rows in (6, 7):  # twice as many, and clearly more
        sequence(tmp_path / "test/cat", rows=rows)
        (tmp_path / "test/cat/absent.txt").unlink(missing_ok=True)
        with pytest.raises(UserError, match=f"cat: 3 images but {rows} boxes of cat, so which belong together is unk"):
            read_clips(GENERIC, "test", tmp_path)


def test_all_is_every_split_and_a_name_in_two_of_them_is_an_error(tmp_path, sequence):
    sequence(tmp_path / "a/cat")
    sequence(tmp_path / "b/dog")
    assert [clip.name for clip in read_clips(GENERIC, "all", tmp_path)] == ["cat", "dog"]
    sequence(tmp_path / "b/cat")
    with pytest.raises(UserError, match=r"b/cat: has the same name as .*a/cat"):
        read_clips(GENERIC, "all", tmp_path)


def test_an_unknown_split_lists_the_folders_there_are(tmp_path, sequence):
    sequence(tmp_path / "mine/cat")
    with pytest.raises(UserError, match=r"looked for train/\*/groundtruth\.txt; folders there: mine"):
        read_clips(GENERIC, "train", tmp_path)


def test_a_sequence_without_images_is_an_error(tmp_path, files):
    files(tmp_path / "train/cat", {"groundtruth.txt": "1,2,3,4\n"})
    with pytest.raises(UserError, match="train/cat: holds no images"):
        read_clips(GENERIC, "train", tmp_path)
