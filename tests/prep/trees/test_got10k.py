import numpy as np
import pytest

from lorat.prep.trees.base.official import official_names
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError

GOT10K = DATASETS["got10k"]


@pytest.fixture
def got10k(tmp_path, files, images):
    def build(part, numbers, listed=None):
        names = [f"GOT-10k_{part.capitalize()}_{n:06d}" for n in numbers]
        for name in names:
            truth = {
                "groundtruth.txt": "10.5,20.25,30,40\n11,21,31,41\n0,0,0,0\n1,1,1,1\n",
                "absence.label": "0\n1\n0\n0\n",
                "cover.label": "8\n0\n3\n0\n",
            }
            if part == "test":
                truth = {"groundtruth.txt": "10.5,20.25,30,40\n"}
                images(tmp_path / part / name, [f"{i:08d}.jpg" for i in (1, 2, 3)])
            files(tmp_path / part / name, truth)
        text = "\n".join(names if listed is None else listed) + "\n"
        files(tmp_path / part, {"list.txt": text})
        return tmp_path

    return build


def test_boxes_are_not_shifted_and_frames_are_the_rows(got10k):
    (clip,) = read_clips(GOT10K, "train", got10k("train", [1]))
    np.testing.assert_array_equal(clip.tracks[0].boxes[0], [10.5, 20.25, 40.5, 60.25])
    assert clip.frames[3].name == "00000004.jpg"
    assert (len(clip.frames), clip.annotated) == (4, 4)


def test_visible_is_absence_zero_and_a_box_with_size_whatever_the_cover(got10k):
    track = read_clips(GOT10K, "val", got10k("val", [1]))[0].tracks[0]
    assert track.visible.tolist() == [True, False, False, True]
    assert track.cover.tolist() == [8, 0, 3, 0]


def test_the_frame_size_is_the_first_images_and_not_the_one_in_meta_info(got10k, images):
    root = got10k("train", [7947])
    folder = root / "train/GOT-10k_Train_007947"
    (folder / "meta_info.ini").write_text("[METAINFO]\nresolution: (1920, 1080)\n")
    images(folder, ["00000001.jpg"])
    assert read_clips(GOT10K, "train", root)[0].frame_size() == (8, 8)


def test_a_test_sequence_has_one_row_and_all_frames_on_disk(got10k):
    (clip,) = read_clips(GOT10K, "test", got10k("test", [1]))
    assert [path.name for path in clip.frames] == [f"{i:08d}.jpg" for i in (1, 2, 3)]
    assert clip.annotated == 1
    assert np.isnan(clip.tracks[0].boxes[1:]).all()
    assert clip.tracks[0].visible.tolist() == [True, False, False]


def test_a_gap_in_the_frames_of_a_test_sequence_is_a_warning(got10k, caplog):
    root = got10k("test", [1, 2])
    assert len(read_clips(GOT10K, "test", root)) == 2 and not caplog.text
    (root / "test/GOT-10k_Test_000002/00000002.jpg").unlink()
    assert len(read_clips(GOT10K, "test", root)) == 2
    assert "GOT-10k_Test_000002: image number 2 missing" in caplog.text


def test_a_split_is_its_list_in_order_cut_to_what_is_there(got10k):
    listed = [f"GOT-10k_Train_{n:06d}" for n in (3, 9, 1)]
    root = got10k("train", [1, 2, 3], listed)
    names = [clip.name for clip in read_clips(GOT10K, "train", root)]
    assert names == ["GOT-10k_Train_000003", "GOT-10k_Train_000001"]


def test_without_a_list_the_folders_are_read_after_a_warning(got10k, caplog):
    root = got10k("val", [1, 2])
    (root / "val/list.txt").unlink()
    assert len(read_clips(GOT10K, "val", root)) == 2
    assert "list.txt: missing" in caplog.text


def test_vot_is_off_by_one_as_published_and_vot_clean_is_not(got10k):
    # The prohibited names begin 4, 13, 15; the published list lacks indices 4, 13, 15 instead.
    root = got10k("train", [4, 5, 6])
    numbers = {
        split: [int(clip.name[-6:]) for clip in read_clips(GOT10K, split, root)]
        for split in ("train", "vot", "vot_clean")
    }
    assert numbers["train"] == [4, 5, 6]
    assert 4 in numbers["vot"] and 5 not in numbers["vot"]
    assert numbers["vot_clean"] == [5, 6]


def test_official_lists_have_the_published_sizes():
    sizes = {split: len(official_names("got10k", split)) for split in GOT10K.splits}
    assert sizes == {"train": 9335, "vot": 7086, "vot_clean": 8335, "val": 180, "test": 180}
    train = set(official_names("got10k", "train"))
    assert train.issuperset(official_names("got10k", "vot"))
    # 765 prohibited sequences are in the published list: the off-by-one.
    prohibited = train.difference(official_names("got10k", "vot_clean"))
    assert len(prohibited.intersection(official_names("got10k", "vot"))) == 765


def test_a_missing_split_folder_is_an_error_that_names_it(got10k):
    with pytest.raises(
        UserError, match=r"got10k-val; looked for val/GOT-10k_Val_\*/groundtruth\.txt; folders there: train"
    ):
        read_clips(GOT10K, "val", got10k("train", [1]))
