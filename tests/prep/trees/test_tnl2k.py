import numpy as np
import pytest

from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError

TNL2K = DATASETS["tnl2k"]


@pytest.fixture
def sequence(files, images):
    def build(folder, rows=3, names=("b.png", "a.jpg", "00010.png")):
        files(folder, {"groundtruth.txt": "-1,2,3,4\n" + "0,0,0,0\n" * (rows - 1)})
        images(folder / "imgs", names)

    return build


def test_frames_of_any_stem_are_sorted_as_text_and_a_box_without_size_means_absent(tmp_path, sequence):
    sequence(tmp_path / "toy")
    (clip,) = read_clips(TNL2K, "test", tmp_path)
    assert [path.name for path in clip.frames] == ["00010.png", "a.jpg", "b.png"]
    assert clip.tracks[0].visible.tolist() == [True, False, False]
    np.testing.assert_array_equal(clip.tracks[0].boxes[0], [-1, 2, 2, 6])  # nothing is shifted


@pytest.mark.parametrize(("rows", "frames"), [(2, 3), (3, 2)])
def test_the_longer_of_images_and_boxes_is_cut_after_a_warning(tmp_path, sequence, caplog, rows, frames):
    sequence(tmp_path / "toy", rows, [f"{i}.jpg" for i in range(frames)])
    (clip,) = read_clips(TNL2K, "test", tmp_path)
    assert (len(clip.frames), len(clip.tracks[0].boxes), clip.annotated) == (2, 2, 2)
    assert f"{frames} images but {rows} boxes of toy" in caplog.text


def test_hidden_files_are_no_frames(tmp_path, sequence):
    sequence(tmp_path / "toy", 1, ["a.jpg", "._a.jpg"])
    (clip,) = read_clips(TNL2K, "test", tmp_path)
    assert len(clip.frames) == 1


def test_each_split_is_found_from_the_folder_of_both(tmp_path, sequence):
    sequence(tmp_path / "TNL2K_TRAIN/one")
    sequence(tmp_path / "TNL2K_TEST/two")
    assert [clip.name for clip in read_clips(TNL2K, "train", tmp_path)] == ["one"]
    assert [clip.name for clip in read_clips(TNL2K, "test", tmp_path)] == ["two"]


def test_a_folder_that_holds_only_the_other_split_is_an_error(tmp_path, sequence):
    sequence(tmp_path / "TNL2K_TEST/two")
    with pytest.raises(UserError, match="TNL2K_TRAIN: no such folder"):
        read_clips(TNL2K, "train", tmp_path)


def test_sequences_that_only_the_other_list_has_are_left_out(tmp_path, sequence):
    # Folder names differ from the list in spaces and ampersands; the last is in both lists.
    for name in ("monitor_four man", "advSamp_Baseball_game_002-Done", "monitor_manypeople"):
        sequence(tmp_path / name)
    train = [clip.name for clip in read_clips(TNL2K, "train", tmp_path)]
    test = [clip.name for clip in read_clips(TNL2K, "test", tmp_path)]
    assert train == ["monitor_four man", "monitor_manypeople"]
    assert test == ["advSamp_Baseball_game_002-Done", "monitor_manypeople"]


def test_a_folder_that_is_no_sequence_is_left_out_after_a_warning(tmp_path, sequence, caplog):
    sequence(tmp_path / "toy")
    (tmp_path / "results").mkdir()
    assert len(read_clips(TNL2K, "test", tmp_path)) == 1
    assert "results: no groundtruth.txt" in caplog.text
