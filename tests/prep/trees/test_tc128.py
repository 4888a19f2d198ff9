import numpy as np
import pytest

from lorat.prep.trees.base.official import expected_frames
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError

TC128 = DATASETS["tc128"]


@pytest.fixture
def tc128(tmp_path, files, images):
    def build(name, rows, span=None, frames=(), folder=None, frames_name=None):
        texts = {f"{name}_gt.txt": "".join(f"{i + 1},2,3,4\n" for i in range(rows))}
        if span:
            texts[frames_name or f"{name}_frames.txt"] = span
        files(tmp_path / (folder or name), texts)
        if frames:
            images(tmp_path / (folder or name) / "img", [f"{i:04d}.jpg" for i in frames])
        return tmp_path

    return build


def numbers(clip):
    return [int(path.stem) for path in clip.frames]


@pytest.mark.parametrize("frames_name", ["David_frames.txt", "david_frames.txt"])
def test_rows_belong_to_the_frames_of_the_span_both_ends_included(tc128, frames_name):
    (clip,) = read_clips(TC128, "all", tc128("David", 3, "300,302\n", frames_name=frames_name))
    assert numbers(clip) == [300, 301, 302]
    assert clip.frames[0].name == "0300.jpg"
    np.testing.assert_array_equal(clip.tracks[0].boxes[0], [1, 2, 4, 6])
    assert clip.annotated == 3


def test_a_clip_knows_its_span_among_the_images(tc128):
    (clip,) = read_clips(TC128, "all", tc128("Basketball_ce1", 20, "11,30", frames=range(1, 41)))
    assert (clip.before, clip.images) == (10, 40)


def test_a_span_of_another_length_is_cut_after_a_warning(tc128, caplog):
    (clip,) = read_clips(TC128, "all", tc128("Bird", 3, "6,10"))
    assert numbers(clip) == [6, 7, 8]
    assert "5 images but 3 boxes of Bird" in caplog.text


def test_without_a_span_as_many_images_as_rows_are_needed(tc128):
    assert numbers(read_clips(TC128, "all", tc128("Cup", 2, frames=[1, 2]))[0]) == [1, 2]
    root = tc128("David", 2, frames=[299, 300, 301])
    with pytest.raises(UserError, match=r"David: no file David_frames\.txt says which of the 3"):
        read_clips(TC128, "all", root)


@pytest.mark.parametrize("span", ["300", "a,b", "5,4", "0,4"])
def test_a_span_that_is_none_is_named(tc128, span):
    with pytest.raises(UserError, match=r"David_frames\.txt: line 1: expected first,last"):
        read_clips(TC128, "all", tc128("David", 3, span))


def test_a_folder_with_two_objects_is_two_sequences(tc128):
    tc128("Jogging1", 2, "1,2", folder="Jogging")
    root = tc128("Jogging2", 3, "1,3", folder="Jogging")
    clips = read_clips(TC128, "all", root)
    assert [(clip.name, len(clip.frames)) for clip in clips] == [("Jogging1", 2), ("Jogging2", 3)]


def test_a_sequence_is_called_as_its_ground_truth_in_either_tree(tc128):
    tc128("Yo-yos_ce1", 1, "1,1", folder="tpl_Yo_yos_ce1")
    root = tc128("Yo-yos_ce2", 1, "1,1")
    names = [clip.name for clip in read_clips(TC128, "all", root)]
    assert sorted(names) == ["Yo-yos_ce1", "Yo-yos_ce2"]
    assert set(names) <= expected_frames("tc128", "all").keys()
