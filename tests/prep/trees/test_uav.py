from itertools import pairwise

import numpy as np
import pytest

from lorat.evaluate.measure.scores import dataset_scores, never_moving_results
from lorat.prep.trees.base.official import expected_frames, official_names
from lorat.prep.trees.datasets.uav import _SPANS
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError

UAV123, UAV20L = DATASETS["uav123"], DATASETS["uav20l"]


@pytest.fixture
def uav(tmp_path, files):
    def build(*names, part="UAV123", folders=(), boxes="1,2,3,4\nNaN,NaN,NaN,NaN\n5,6,7,8\n"):
        for name in names:
            files(tmp_path / "anno" / part, {f"{name}.txt": boxes})
        for name in folders:
            (tmp_path / "data_seq/UAV123" / name).mkdir(parents=True, exist_ok=True)
        return tmp_path

    return build


def numbers(clip):
    return [path.name for path in clip.frames]


def test_a_row_of_nan_means_absent_and_nothing_is_shifted(uav):
    (clip,) = read_clips(UAV123, "all", uav("bike1", folders=["bike1"]))
    assert clip.tracks[0].visible.tolist() == [True, False, True]
    np.testing.assert_array_equal(clip.tracks[0].boxes[0], [1, 2, 4, 6])
    assert np.isnan(clip.tracks[0].boxes[1]).all()
    assert clip.annotated == 3


def test_sequences_of_a_shared_folder_begin_where_the_table_says(uav):
    names = ["uav1_1", "uav1_2", "uav1_3", "car1_s"]
    clips = read_clips(UAV123, "all", uav(*names, folders=["uav1", "car1_s"]))
    found = {clip.name: (clip.frames.folder.name, numbers(clip)[0]) for clip in clips}
    assert found == {
        "car1_s": ("car1_s", "000001.jpg"),
        "uav1_1": ("uav1", "000001.jpg"),
        "uav1_2": ("uav1", "001555.jpg"),
        "uav1_3": ("uav1", "002473.jpg"),
    }
    assert numbers(clips[-1]) == ["002473.jpg", "002474.jpg", "002475.jpg"]


def test_a_clip_knows_its_span_among_the_images(uav, images):
    images(uav("uav1_2", folders=["uav1"]) / "data_seq/UAV123/uav1", [f"{k:06d}.jpg" for k in range(1550, 1560)])
    (clip,) = read_clips(UAV123, "all", uav("uav1_2"))
    assert (clip.before, clip.images) == (5, 10)


def test_the_table_of_spans_fits_the_published_lengths():
    lengths = expected_frames("uav123", "all")
    assert lengths.keys() >= _SPANS.keys()
    assert len({_SPANS.get(name, (name, 1))[0] for name in lengths}) == 91
    assert len([name for name in lengths if name not in _SPANS]) == 91 - 19
    for (name, (folder, first)), (_, (after, start)) in pairwise(_SPANS.items()):
        if folder == after:
            # A span ends with the frame that the next begins with; three follow after a gap.
            gap = start - (first + lengths[name] - 1)
            assert gap == {"bird1_1": 522, "bird1_2": 96, "uav1_2": 96}.get(name, 0)


def test_the_last_span_of_a_folder_ends_where_the_whole_folder_does_in_uav20l():
    lengths, whole = expected_frames("uav123", "all"), expected_frames("uav20l", "all")
    ends: dict[str, int] = {}
    for name, (folder, first) in _SPANS.items():
        ends[folder] = first + lengths[name] - 1
    shared = ends.keys() & whole.keys()
    assert len(shared) == 16
    assert all(ends[folder] == whole[folder] for folder in shared)


def test_uav20l_reads_whole_folders_of_the_same_images(uav):
    root = uav("car1", "bike1", part="UAV20L", folders=["car1", "bike1"])
    clips = read_clips(UAV20L, "all", root)
    assert [clip.name for clip in clips] == ["bike1", "car1"]
    assert [clip.dataset for clip in clips] == ["uav20l", "uav20l"]
    assert clips[1].frames[0] == root / "data_seq/UAV123/car1/000001.jpg"
    names = official_names("uav20l", "all")
    assert (len(names), len(set(names)), names.count("person7")) == (20, 20, 1)


def test_annotations_without_images_and_attributes_are_left_out(uav, files):
    root = uav("bike1", "bike2", folders=["bike1"])
    files(root, {"anno/UAV123/att/bike1.txt": "0,1,0,0,0,0,0,0,0,0,0,0\n"})
    assert [clip.name for clip in read_clips(UAV123, "all", root)] == ["bike1"]


def test_a_tree_without_the_long_sequences_annotations_says_so(uav):
    with pytest.raises(UserError, match="holds no sequence of uav20l-all"):
        read_clips(UAV20L, "all", uav("bike1", folders=["bike1"]))


def test_sequences_with_absent_rows_are_scored(uav):
    clips = read_clips(UAV123, "all", uav("bike1", folders=["bike1"]))
    scores = dataset_scores(clips, [never_moving_results(clips)])
    assert scores.sequences[0].invalid_frames == 1
    curves = scores.curves
    assert np.isfinite([curves.auc, curves.precision_20, curves.norm_precision_20]).all()
