import numpy as np
import pytest

from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError

VASTTRACK = DATASETS["vasttrack"]
BOXES = "10,20,30,40\n0,0,0,0\n600,20,90,40\n"


@pytest.fixture
def tree(tmp_path, files):
    def build(*places, truth="Groundtruth.txt", boxes=BOXES):
        for place in places:
            files(tmp_path / place, {truth: boxes})
            (tmp_path / place / "imgs").mkdir(exist_ok=True)
        return tmp_path

    return build


@pytest.mark.parametrize("truth", ["Groundtruth.txt", "groundtruth.txt"])
def test_the_ground_truth_is_found_in_either_case(tree, truth):
    (clip,) = read_clips(VASTTRACK, "test", tree("Aardwolf/Aardwolf-1", truth=truth))
    assert clip.annotated == 3


def test_boxes_are_read_minus_one_also_beyond_the_image_and_zeros_mean_absent(tree):
    (clip,) = read_clips(VASTTRACK, "test", tree("Aardwolf/Aardwolf-1"))
    np.testing.assert_array_equal(clip.tracks[0].boxes[[0, 2]], [[9, 19, 39, 59], [599, 19, 689, 59]])
    assert clip.tracks[0].visible.tolist() == [True, False, True]


def test_names_have_spaces_and_hyphens_and_frames_five_digits(tree):
    root = tree("Crossbody Backpack/Crossbody Backpack-31", "Anti-radiation Suit-2/Anti-radiation Suit-2-7")
    clips = read_clips(VASTTRACK, "train", root)
    assert [clip.name for clip in clips] == ["Anti-radiation Suit-2-7", "Crossbody Backpack-31"]
    folder = root / "Crossbody Backpack/Crossbody Backpack-31/imgs"
    assert list(clips[1].frames) == [folder / f"0000{i}.jpg" for i in (1, 2, 3)]


def test_sequences_directly_in_the_root_are_found(tree):
    root = tree("Aardwolf-1", "Zebra/Zebra-900")
    assert [c.name for c in read_clips(VASTTRACK, "test", root)] == ["Aardwolf-1"]
    assert [c.name for c in read_clips(VASTTRACK, "train", root)] == ["Zebra-900"]


def test_one_folder_of_both_splits_is_parted_by_the_official_test_list(tree):
    root = tree(*(f"Aardwolf/Aardwolf-{k}" for k in (1, 2, 3, 10)))
    assert [c.name for c in read_clips(VASTTRACK, "test", root)] == ["Aardwolf-1", "Aardwolf-2"]
    assert [c.name for c in read_clips(VASTTRACK, "train", root)] == ["Aardwolf-3", "Aardwolf-10"]


def test_each_split_is_found_from_the_folder_of_both_trees(tree):
    root = tree("VastTrack_TRAIN/Aardwolf/Aardwolf-3", "VastTrack_TEST/Aardwolf/Aardwolf-1")
    assert [c.name for c in read_clips(VASTTRACK, "train", root)] == ["Aardwolf-3"]
    assert [c.name for c in read_clips(VASTTRACK, "test", root)] == ["Aardwolf-1"]


def test_a_folder_that_holds_only_the_other_split_is_an_error(tree):
    with pytest.raises(UserError, match="VastTrack_TRAIN: no such folder"):
        read_clips(VASTTRACK, "train", tree("VastTrack_TEST/Aardwolf/Aardwolf-1"))


def test_a_test_tree_without_official_names_is_read_whole_after_a_warning(tree, caplog):
    root = tree("Toy/Toy-1", "Toy/Toy-2")
    assert [clip.name for clip in read_clips(VASTTRACK, "test", root)] == ["Toy-1", "Toy-2"]
    assert "no sequence of the official test list" in caplog.text


def test_a_missing_ground_truth_is_named(tree):
    root = tree("Aardwolf/Aardwolf-1")
    (root / "Aardwolf/Aardwolf-1/Groundtruth.txt").unlink()
    with pytest.raises(UserError, match=r"Aardwolf-1/Groundtruth\.txt: cannot be read"):
        read_clips(VASTTRACK, "test", root)
