import json

import pytest

from lorat.prep.trees.base.official import expected_frames, expected_sequences, official_names
from lorat.prep.trees.registry import DATASETS

SPLITS = [(row.name, split) for row in DATASETS.values() for split in row.splits]

SIZES = {
    ("lasot", "train"): (1120, 2_831_982),
    ("lasot", "test"): (280, 685_360),
    ("lasot_ext", "test"): (150, None),
    ("got10k", "train"): (9335, None),
    ("got10k", "vot"): (7086, None),
    ("got10k", "vot_clean"): (8335, None),
    ("got10k", "val"): (180, None),
    ("got10k", "test"): (180, None),
    ("trackingnet", "train"): (30_132, None),
    ("trackingnet", "test"): (511, None),
    ("coco", "train"): (117_266, None),
    ("coco", "val"): (4952, None),
    ("tnl2k", "train"): (1300, None),
    ("tnl2k", "test"): (700, 516_038),
    ("vasttrack", "train"): (47_110, None),
    ("vasttrack", "test"): (3500, 372_133),
    ("uav123", "all"): (123, 112_578),
    ("uav20l", "all"): (20, 58_670),
    ("uav123_10fps", "all"): (123, 37_607),
    ("otb", "all"): (100, 59_035),
    ("otb", "50"): (50, 26_972),
    ("otb", "2013"): (51, 29_486),
    ("nfs30", "all"): (100, 47_953),
    ("nfs240", "all"): (100, None),
    ("tc128", "all"): (129, 55_346),
    ("vot", "all"): (None, None),
    ("didi", "all"): (None, None),
    ("avist", "all"): (120, None),
    ("lagot", "all"): (None, None),
    ("dtb70", "all"): (70, None),
    ("uavdt", "all"): (50, 37_084),
    ("visdrone", "test"): (35, 32_922),
}


@pytest.mark.parametrize(("dataset", "split"), SPLITS)
def test_sizes_are_the_published_ones(dataset, split):
    frames = expected_frames(dataset, split)
    total = None if frames is None else sum(frames.values())
    assert (expected_sequences(dataset, split), total) == SIZES[dataset, split]


@pytest.mark.parametrize(("dataset", "split"), SPLITS)
def test_where_frames_are_known_they_are_known_of_every_name(dataset, split):
    names, frames = official_names(dataset, split), expected_frames(dataset, split)
    if names is not None:
        assert len(set(names)) == len(names)
    if frames is not None:
        assert tuple(frames) == names
        assert min(frames.values()) >= 1


def test_nothing_is_known_of_any_other_name():
    assert expected_sequences("generic", "train") is None
    assert expected_frames("lasot", "other") is None
    for dataset, split in (("zoo", "train"), ("coco", "train"), ("got10k", "other")):
        assert official_names(dataset, split) is None
    assert official_names("vasttrack", "train") is None


def test_known_lengths():
    train, test = expected_frames("lasot", "train"), expected_frames("lasot", "test")
    assert (max(train, key=train.get), train["airplane-16"]) == ("airplane-16", 11_397)
    assert test["monkey-17"] == 2260
    assert (max(test, key=test.get), min(test.values())) == ("spider-20", 1000)
    assert expected_frames("vasttrack", "test")["Football-1"] == 5
    assert expected_frames("otb", "all")["Tiger1"] == 349
    assert expected_frames("otb", "all")["David"] == 770 - 300 + 1


def test_the_counts_cannot_be_changed():
    with pytest.raises(TypeError):
        expected_frames("lasot", "test")["monkey-17"] = 1


def test_the_lengths_are_those_of_the_published_annotations(shared):
    published = json.loads((shared / "data/frame_counts_per_sequence.json").read_text())
    pairs = {
        "LaSOT_train": ("lasot", "train"),
        "LaSOT_test": ("lasot", "test"),
        "TNL2K_test": ("tnl2k", "test"),
        "VastTrack_test": ("vasttrack", "test"),
        "UAV123": ("uav123", "all"),
        "UAV20L": ("uav20l", "all"),
        "OTB100": ("otb", "all"),
        "NFS30": ("nfs30", "all"),
        "TPL129_pytracking": ("tc128", "all"),
    }
    assert pairs.keys() == published.keys()
    for key, (dataset, split) in pairs.items():
        counts = {name.replace("Yo_yos", "Yo-yos"): n for name, n in published[key].items()}
        assert dict(expected_frames(dataset, split)) == counts
