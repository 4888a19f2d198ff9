import numpy as np
import pytest

from lorat.prep.trees.base.official import expected_frames
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError

NFS30, NFS240 = DATASETS["nfs30"], DATASETS["nfs240"]


def row(frame, lost=0, occluded=0, track=0, label='"ball"'):
    return f"{track} {frame} 20 {frame + 30} 60 {frame} {lost} {occluded} 1 {label}\n"


@pytest.fixture
def nfs(tmp_path, files, images):
    def build(rows, frames, name="book", rate=30):
        files(tmp_path / name / str(rate), {f"{name}.txt": "".join(rows)})
        images(tmp_path / name / str(rate) / name, [f"{i:05d}.jpg" for i in range(1, frames + 1)])
        return tmp_path

    return build


@pytest.mark.parametrize(
    ("dataset", "counted", "count", "expected"),
    [
        (NFS30, range(1, 25), 3, [1, 9, 17]),  # every eighth row belongs to an image
        (NFS30, range(24), 3, [0, 8, 16]),  # rows may count from zero
        (NFS30, range(1, 11), 10, range(1, 11)),  # rows that were thinned out already are all used
        (NFS30, range(1, 80, 8), 10, range(1, 80, 8)),  # so are those of every eighth frame alone
        (NFS240, range(1, 25), 24, range(1, 25)),
    ],
)
def test_rows_belong_to_the_images_that_they_count(nfs, dataset, counted, count, expected):
    rate = int(dataset.name.removeprefix("nfs"))
    (clip,) = read_clips(dataset, "all", nfs([row(k) for k in counted], count, rate=rate))
    assert clip.tracks[0].boxes[:, 0].tolist() == list(expected)
    assert [path.name for path in clip.frames] == [f"{k:05d}.jpg" for k in range(1, count + 1)]
    assert (clip.name, clip.annotated) == ("book", count)


def test_boxes_are_corners_and_not_shifted(nfs):
    (clip,) = read_clips(NFS240, "all", nfs([row(1)], 1, rate=240))
    np.testing.assert_array_equal(clip.tracks[0].boxes, [[1, 20, 31, 60]])


def test_lost_and_occluded_objects_are_not_visible(nfs):
    rows = [row(1), row(2, lost=1), row(3, occluded=1), row(4)]
    (clip,) = read_clips(NFS240, "all", nfs(rows, 4, rate=240))
    assert clip.tracks[0].visible.tolist() == [True, False, False, True]
    assert np.isfinite(clip.tracks[0].boxes).all()


@pytest.mark.parametrize(("rows", "count", "annotated"), [(24, 4, 3), (25, 3, 3)])
def test_a_difference_of_one_is_no_defect(nfs, caplog, rows, count, annotated):
    (clip,) = read_clips(NFS30, "all", nfs([row(k) for k in range(1, rows + 1)], count))
    assert (len(clip.frames), clip.annotated) == (annotated, annotated)
    assert not caplog.records


def test_more_images_than_rows_are_a_warning(nfs, caplog):
    (clip,) = read_clips(NFS30, "all", nfs([row(k) for k in range(1, 25)], 5))
    assert (len(clip.frames), clip.annotated, clip.images) == (3, 3, 5)
    assert "5 in " in caplog.text


@pytest.mark.parametrize("count", [594, 597, 1030])
def test_more_images_than_the_published_rows_are_a_warning(nfs, count, caplog):
    (clip,) = read_clips(NFS30, "all", nfs([row(k) for k in range(1, 594 * 8 + 1)], count, name="dog_2"))
    assert (len(clip.frames), clip.annotated, len(caplog.records)) == (594, 594, count > 595)


@pytest.mark.parametrize(("last", "count"), [(3, 6), (10, 3)])
def test_lengths_that_clearly_differ_are_an_error(nfs, last, count):
    with pytest.raises(UserError, match=rf"book\.txt: rows for {last} images, but {count} in .*together is unknown"):
        read_clips(NFS30, "all", nfs([row(k) for k in range(1, 8 * last + 1)], count))


def test_an_image_without_a_row_is_not_visible(nfs):
    (clip,) = read_clips(NFS240, "all", nfs([row(1), row(3)], 3, rate=240))
    assert clip.tracks[0].visible.tolist() == [True, False, True]


@pytest.mark.parametrize(("dataset", "rate", "annotated"), [(NFS240, 240, 263), (NFS30, 30, 33)])
def test_pingpong_2_is_annotated_up_to_frame_263(nfs, caplog, dataset, rate, annotated):
    rows = [row(k) for k in range(1, 401)]
    root = nfs(rows, 400 * rate // 240, name="pingpong_2", rate=rate)
    (clip,) = read_clips(dataset, "all", root)
    assert (len(clip.frames), clip.annotated) == (400 * rate // 240, annotated)
    assert clip.tracks[0].visible.sum() == annotated
    assert (clip.before, clip.images) == (0, len(clip.frames))
    assert not caplog.records


def test_labels_may_have_spaces(nfs):
    rows = [row(1, label='"person head" "turned"'), row(2, label="")]
    assert len(read_clips(NFS240, "all", nfs(rows, 2, rate=240))[0].frames) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(1), "0 1 2 3\n"], r"book\.txt: line 2: expected id, 4 corners"),
        ([row(1), row(2, track=1)], r"book\.txt: rows of 2 objects"),
        ([], r"book\.txt: rows of 0 objects"),
    ],
)
def test_a_damaged_file_is_named(nfs, rows, message):
    with pytest.raises(UserError, match=message):
        read_clips(NFS240, "all", nfs(rows, 2, rate=240))


def test_a_sequence_without_this_rate_is_left_out_after_a_warning(nfs, caplog):
    nfs([row(1)], 1, name="car", rate=240)
    root = nfs([row(1)], 1)
    assert [clip.name for clip in read_clips(NFS30, "all", root)] == ["book"]
    assert "car: no 30/*.txt" in caplog.text


@pytest.fixture
def pytracking(tmp_path, files, images):
    files(tmp_path / "anno", {"nfs_book.txt": "1\t2\t3\t4\n5\t6\t7\t8\n", "nfs_car.txt": "1\t1\t1\t1\n"})
    images(tmp_path / "sequences/book", ["00001.jpg", "00002.jpg"])
    return tmp_path


def test_pytrackings_tree_has_sides_instead_of_corners_and_the_same_names(pytracking):
    (clip,) = read_clips(NFS30, "all", pytracking)
    assert clip.name == "book" and clip.name in expected_frames("nfs30", "all")
    assert clip.frames[1] == pytracking / "sequences/book/00002.jpg"
    np.testing.assert_array_equal(clip.tracks[0].boxes, [[1, 2, 4, 6], [5, 6, 12, 14]])


def test_pytrackings_tree_is_not_read_at_240(pytracking):
    with pytest.raises(UserError, match="read it as nfs30"):
        read_clips(NFS240, "all", pytracking)
