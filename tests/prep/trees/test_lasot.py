import numpy as np
import pytest

from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError

LASOT, EXTENSION = DATASETS["lasot"], DATASETS["lasot_ext"]


def sequence(boxes="10,20,30,40\n11,21,31,41\n", occluded="0,0", outside="0,0"):
    return {"groundtruth.txt": boxes, "full_occlusion.txt": occluded + "\n", "out_of_view.txt": outside + "\n"}


@pytest.fixture
def lasot(tmp_path, files):
    def build(places, **lists):
        for place, texts in places.items():
            files(tmp_path / place, texts)
        files(tmp_path, {f"{name}.txt": text for name, text in lists.items()})
        return tmp_path

    return build


def test_boxes_are_read_minus_one_in_lasot_and_as_they_are_in_the_extension(lasot):
    root = lasot({"airplane/airplane-1": sequence()})
    boxes = read_clips(LASOT, "test", root)[0].tracks[0].boxes
    np.testing.assert_array_equal(boxes[0], [9, 19, 39, 59])
    boxes = read_clips(EXTENSION, "test", root)[0].tracks[0].boxes
    np.testing.assert_array_equal(boxes[0], [10, 20, 40, 60])


def test_frames_are_the_rows_even_where_there_are_more_images(lasot, images):
    root = lasot({"monkey/monkey-17": sequence()})
    assert len(read_clips(LASOT, "test", root)[0].frames) == 2  # reading opens no image
    images(root / "monkey/monkey-17/img", [f"{i:08d}.jpg" for i in range(1, 5)])
    (clip,) = read_clips(LASOT, "test", root)
    assert [path.name for path in clip.frames] == ["00000001.jpg", "00000002.jpg"]
    assert clip.frame_size() == (8, 8)
    assert clip.annotated == 2


def test_visible_means_neither_flag_and_a_box_with_size(lasot):
    boxes = "1,1,5,5\n1,1,5,5\n1,1,5,5\n731,613,247,-11\n0,0,0,0\n"
    root = lasot({"tiger/tiger-6": sequence(boxes, "0,1,0,0,0", "0,0,1,0,0")})
    (clip,) = read_clips(LASOT, "test", root)
    assert clip.tracks[0].visible.tolist() == [True, False, False, False, False]
    assert np.isfinite(clip.tracks[0].boxes).all()  # an absent frame keeps its box


def test_the_official_list_is_cut_to_what_is_there(lasot):
    root = lasot({f"airplane/airplane-{k}": sequence() for k in (1, 2, 10, 13, 21)})
    assert [c.name for c in read_clips(LASOT, "test", root)] == ["airplane-1", "airplane-13"]
    assert [c.name for c in read_clips(LASOT, "train", root)] == ["airplane-2", "airplane-10"]


def test_the_trees_own_list_comes_first(lasot):
    places = {f"toy/toy-{k}": sequence() for k in (1, 2, 3)}
    root = lasot(places, training_set="toy-3\r\ntoy-1\r\ntoy-9\r\n", testing_set="toy-2\n")
    assert [c.name for c in read_clips(LASOT, "train", root)] == ["toy-3", "toy-1"]
    assert [c.name for c in read_clips(LASOT, "test", root)] == ["toy-2"]


def test_a_list_that_chooses_otherwise_than_the_official_one_is_a_warning(lasot, caplog):
    places = {f"airplane/airplane-{k}": sequence() for k in (1, 2, 3, 4)}
    root = lasot(places, training_set="airplane-1\nairplane-2\nairplane-3\n")
    assert read_clips(LASOT, "train", root)[0].name == "airplane-1"
    assert "training_set.txt: differs from the official list: 1 sequence more and 1 fewer, the " in (caplog.text)
    assert "first airplane-1;" in caplog.text


@pytest.mark.parametrize("listed", ["airplane-2\nairplane-3\nbear-1\n", "toy-1\n"])
def test_a_list_that_agrees_on_what_is_there_is_no_warning(lasot, caplog, listed):
    names = [name for name in listed.split() if name != "bear-1"]
    root = lasot({f"kind/{name}": sequence() for name in names}, training_set=listed)
    assert [clip.name for clip in read_clips(LASOT, "train", root)] == names
    assert not caplog.records


def test_flags_are_read_from_one_line_or_one_a_line(lasot):
    root = lasot({"airplane/airplane-1": sequence(occluded="0, 1", outside="0\r\n0\r\n")})
    assert read_clips(LASOT, "test", root)[0].tracks[0].visible.tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "box"), [("tiger-6", "613,731,247,-11"), ("tank-17", "1125,730,155,-10"), ("lion-5", "5,5,0,9")]
)
def test_a_box_without_size_is_not_visible_though_no_flag_says_so(lasot, name, box):
    root = lasot({f"{name.split('-')[0]}/{name}": sequence(f"1,1,5,5\n{box}\n")})
    split = "train" if name == "tank-17" else "test"
    (clip,) = read_clips(LASOT, split, root)
    assert clip.tracks[0].visible.tolist() == [True, False]


def test_archives_beside_the_sequences_are_no_sequences(lasot):
    root = lasot({"airplane/airplane-1": sequence()})
    (root / "airplane.zip").write_bytes(b"PK")
    (root / "airplane/airplane-9.zip").write_bytes(b"PK")
    assert [clip.name for clip in read_clips(LASOT, "test", root)] == ["airplane-1"]


def test_the_extension_takes_every_sequence_in_natural_order_also_those_directly_in_the_root(lasot):
    places = ("atv-1", "polar bear/polar bear-10", "polar bear/polar bear-2")
    clips = read_clips(EXTENSION, "test", lasot({place: sequence() for place in places}))
    assert [clip.name for clip in clips] == ["atv-1", "polar bear-2", "polar bear-10"]


@pytest.mark.parametrize("missing", ["groundtruth.txt", "full_occlusion.txt", "out_of_view.txt"])
def test_a_missing_annotation_file_is_named(lasot, missing):
    root = lasot({"airplane/airplane-1": sequence()})
    (root / "airplane/airplane-1" / missing).unlink()
    with pytest.raises(UserError, match=rf"airplane-1/{missing}: cannot be read"):
        read_clips(LASOT, "test", root)


@pytest.mark.parametrize("dataset", [LASOT, EXTENSION], ids=["lasot", "extension"])
@pytest.mark.parametrize(
    ("flags", "file"),
    [
        ({"outside": "0,0,0"}, "out_of_view"),
        ({"occluded": "0,0,0"}, "full_occlusion"),
        ({"occluded": "0,0,0", "outside": "0,0,0"}, "full_occlusion"),  # they agree, but not with the boxes
    ],
)
def test_flags_of_another_length_are_an_error(lasot, dataset, flags, file):
    root = lasot({"airplane/airplane-1": sequence(**flags)})
    with pytest.raises(UserError, match=rf"{file}\.txt: 3 values for 2 boxes"):
        read_clips(dataset, "test", root)
