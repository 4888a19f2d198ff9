import numpy as np
import pytest

from lorat.prep.trees.base.official import expected_frames
from lorat.prep.trees.registry import DATASETS, read_clips

OTB, VOT = DATASETS["otb"], DATASETS["vot"]


@pytest.fixture
def otb(tmp_path, files, images):
    def build(name, frames, rows, annotation="groundtruth_rect.txt", pattern="%04d.jpg"):
        text = "".join(f"{i + 1}\t2\t3\t4\n" for i in range(rows))
        files(tmp_path / name, {annotation: text})
        images(tmp_path / name / "img", [pattern % i for i in frames])
        return tmp_path

    return build


def numbers(clip):
    return [int(path.stem) for path in clip.frames]


@pytest.mark.parametrize(("name", "pattern"), [("Skiing", "%04d.jpg"), ("Board", "%05d.jpg")])
def test_a_plain_sequence_is_read_unshifted(otb, name, pattern):
    (clip,) = read_clips(OTB, "all", otb(name, range(1, 4), 3, pattern=pattern))
    assert [path.name for path in clip.frames] == [pattern % number for number in (1, 2, 3)]
    np.testing.assert_array_equal(clip.tracks[0].boxes[0], [1, 2, 4, 6])


def test_several_objects_of_a_folder_are_several_clips_and_an_empty_file_is_none(otb):
    for name, rows in (("Jogging", 3), ("Human4", 0)):
        otb(name, range(1, 4), rows, "groundtruth_rect.1.txt")
        root = otb(name, range(1, 4), 3, "groundtruth_rect.2.txt")
    clips = read_clips(OTB, "all", root)
    assert [clip.name for clip in clips] == ["Human4_2", "Jogging_1", "Jogging_2"]
    assert [len(clip.frames) for clip in clips] == [3, 3, 3]


@pytest.mark.parametrize(
    ("name", "frames", "rows", "expected"),
    [
        ("David", range(1, 306), 6, [300, 301, 302, 303, 304, 305]),
        ("David", range(300, 303), 3, [300, 301, 302]),
        ("BlurCar1", range(240, 250), 3, [247, 248, 249]),
        ("BlurCar3", range(1, 6), 3, [3, 4, 5]),
        ("BlurCar4", range(1, 21), 3, [18, 19, 20]),
        ("Football1", range(1, 80), 74, list(range(1, 75))),
        ("Freeman3", range(1, 471), 460, list(range(1, 461))),
        ("Freeman4", range(1, 298), 283, list(range(1, 284))),
        ("Diving", range(1, 232), 215, list(range(1, 216))),
        ("Tiger1", range(1, 9), 8, [6, 7, 8]),
    ],
)
def test_rows_belong_to_the_annotated_frames(otb, name, frames, rows, expected, caplog):
    (clip,) = read_clips(OTB, "all", otb(name, frames, rows))
    assert numbers(clip) == expected
    assert clip.annotated == len(expected) == len(clip.tracks[0].boxes)
    assert clip.tracks[0].boxes[0, 0] == (6 if name == "Tiger1" else 1)  # its first rows go with their frames
    whole = len(frames) > len(expected)
    before = list(frames).index(expected[0]) if whole else 0
    assert (clip.before, clip.images) == (before, len(frames) if whole else 0)
    assert not caplog.records


@pytest.mark.parametrize("row", ["1,2,3,4", "1\t2\t3\t4", " 1  2   3  4 ", "1, 2, 3, 4\r"])
def test_boxes_are_separated_by_commas_tabs_or_spaces(tmp_path, files, images, row):
    files(tmp_path / "Deer", {"groundtruth_rect.txt": f"{row}\n"})
    images(tmp_path / "Deer/img", ["0001.jpg"])
    (clip,) = read_clips(OTB, "all", tmp_path)
    np.testing.assert_array_equal(clip.tracks[0].boxes, [[1, 2, 4, 6]])


@pytest.mark.parametrize("folder", ["img", "jpg"])
def test_frames_may_be_png_files(tmp_path, files, images, folder):
    files(tmp_path / "KiteSurf", {"groundtruth_rect.txt": "1,2,3,4\n" * 2})
    images(tmp_path / "KiteSurf" / folder, ["0001.png", "0002.png"])
    (clip,) = read_clips(OTB, "all", tmp_path)
    assert [path.name for path in clip.frames] == ["0001.png", "0002.png"]


def test_names_are_those_of_the_published_counts(otb):
    otb("Jogging", range(1, 4), 3, "groundtruth_rect.1.txt")
    otb("Skating2", range(1, 4), 3, "groundtruth_rect.2.txt")
    otb("Human4", range(1, 4), 3, "groundtruth_rect.2.txt")
    names = [clip.name for clip in read_clips(OTB, "all", otb("Board", range(1, 4), 3))]
    assert names == ["Board", "Human4_2", "Jogging_1", "Skating2_2"]
    assert expected_frames("otb", "all").keys() >= set(names)


@pytest.mark.parametrize("images_in", ["color", "."])
def test_vot_reads_four_numbers(tmp_path, files, images, images_in):
    files(tmp_path / "bag", {"groundtruth.txt": "1.5,2,3,4\n1,2,3,4\n"})
    images(tmp_path / "bag" / images_in, ["00000001.jpg", "00000002.jpg"])
    (clip,) = read_clips(VOT, "all", tmp_path)
    assert (clip.name, numbers(clip)) == ("bag", [1, 2])
    np.testing.assert_array_equal(clip.tracks[0].boxes[0], [1.5, 2, 4.5, 6])


def test_vot_reads_a_polygon_as_its_min_max_box(tmp_path, files, images):
    files(tmp_path / "bag", {"groundtruth.txt": "5,1,9,4,6,8,2,5\n"})
    images(tmp_path / "bag/color", ["00000001.jpg"])
    (clip,) = read_clips(VOT, "all", tmp_path)
    np.testing.assert_array_equal(clip.tracks[0].boxes, [[2, 1, 9, 8]])
    assert clip.tracks[0].visible.all()


def test_real_sequences_are_read_whole(shared):
    lengths = {clip.name: len(clip.frames) for clip in read_clips(OTB, "all", shared / "real/otb")}
    assert lengths == {"Crossing": 120, "MotorRolling": 164, "Skiing": 81}
    clips = read_clips(VOT, "all", shared / "real/vot")
    assert {clip.name: len(clip.frames) for clip in clips} == {"bag": 196, "bicycle": 150, "car": 200}
    assert clips[0].frame_size() == (480, 360)
    assert all(clip.tracks[0].visible.all() for clip in clips)


def test_tiger1s_rows_of_the_toolkit_begin_at_its_sixth_frame(otb, caplog):
    (clip,) = read_clips(OTB, "all", otb("Tiger1", range(1, 31), 25))
    assert numbers(clip) == list(range(6, 31))
    assert clip.tracks[0].boxes[0, 0] == 1
    assert (clip.before, clip.images) == (5, 30)
    assert not caplog.records


def test_pysots_copies_of_a_folder_are_left_out_with_a_note(otb, caplog):
    for folder in ("Jogging", "Jogging-1", "Jogging-2", "Human4-2"):
        for which in (1, 2):
            root = otb(
                folder, range(1, 4), 3 if folder == "Jogging" or which == 2 else 0, f"groundtruth_rect.{which}.txt"
            )
    clips = read_clips(OTB, "all", root)
    assert [(clip.name, clip.frames.folder.parent.name) for clip in clips] == [
        ("Human4_2", "Human4-2"),
        ("Jogging_1", "Jogging"),
        ("Jogging_2", "Jogging"),
    ]
    assert "Jogging-2: holds an object that is read from another folder already" in caplog.text


def test_a_copy_that_holds_its_own_objects_file_alone_is_that_object(otb, caplog):
    otb("Jogging", range(1, 4), 3, "groundtruth_rect.1.txt")
    for folder in ("Jogging-1", "Jogging-2"):
        root = otb(folder, range(1, 4), 3)
    clips = read_clips(OTB, "all", root)
    assert [(clip.name, clip.frames.folder.parent.name) for clip in clips] == [
        ("Jogging_1", "Jogging"),
        ("Jogging_2", "Jogging-2"),
    ]
    assert "Jogging-1: holds an object that is read from another folder already" in caplog.text


def test_parts_of_otb_are_their_objects(otb):
    for name in ("Biker", "Coke", "Basketball"):
        root = otb(name, range(1, 4), 3)
    names = {split: [clip.name for clip in read_clips(OTB, split, root)] for split in ("all", "50", "2013")}
    assert names == {
        "all": ["Basketball", "Biker", "Coke"],
        "50": ["Basketball", "Biker"],
        "2013": ["Basketball", "Coke"],
    }


@pytest.mark.parametrize(
    ("rows", "boxes", "visible"),
    [
        ("m10,20,3,2,0,6\n1,2,3,4\n", [[10, 20, 13, 22], [1, 2, 4, 6]], [True, True]),
        ("1,2,3,4\n0\n", [[1, 2, 4, 6], [np.nan] * 4], [True, False]),
        ("1,2,3,4\n5,1,9,4,6,8,2,5\n", [[1, 2, 4, 6], [2, 1, 9, 8]], [True, True]),
    ],
)
def test_vot_reads_masks_as_their_box_and_lone_numbers_as_not_annotated(tmp_path, files, images, rows, boxes, visible):
    files(tmp_path / "agility", {"groundtruth.txt": rows})
    images(tmp_path / "agility/color", ["00000001.jpg", "00000002.jpg"])
    (clip,) = read_clips(VOT, "all", tmp_path)
    np.testing.assert_array_equal(clip.tracks[0].boxes, boxes)
    assert clip.tracks[0].visible.tolist() == visible


@pytest.mark.parametrize("about", [None, "channels.ir=ir/%08d.png\nfps=30\n", "channels.ir=ir\n"])
def test_vots_other_channels_and_several_objects_are_read(tmp_path, files, images, about):
    texts = {"groundtruth_000.txt": "1,2,3,4\n", "groundtruth_001.txt": "5,6,7,8\n"}
    files(tmp_path / "ants1", texts | ({"sequence": about} if about else {}))
    images(tmp_path / "ants1/ir", ["00000001.png"])
    clips = read_clips(VOT, "all", tmp_path)
    assert [clip.name for clip in clips] == ["ants1_000", "ants1_001"]
    assert clips[1].frames[0] == tmp_path / "ants1/ir/00000001.png"
