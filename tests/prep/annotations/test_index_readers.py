"""An index holds what the reader of each data set and cleaning give."""

import json

import numpy as np
import pytest

from lorat.prep.annotations.clips import annotations_fingerprint
from lorat.prep.annotations.index import indexed_clips
from lorat.prep.build.plan import most_pairs
from lorat.prep.pairs.draw import draw_sample
from lorat.prep.toy.write import ToyWorldConfig, write_toyworld
from lorat.prep.trees.registry import DATASETS
from lorat.shards.pixels.jpeg import encode
from tests.prep.annotations.same import fresh, same_clips

WORLD = {
    "lasot-train": "LaSOT",
    "lasot_ext-test": "LaSOT_Extension",
    "got10k-train": "GOT-10k",
    "got10k-test": "GOT-10k",
    "trackingnet-train": "TrackingNet",
    "trackingnet-test": "TrackingNet",
    "coco-train": "COCO",
    "tnl2k-train": "TNL2K_TRAIN",
}
OTHERS = {  # images, ground truth
    "otb-all": ("Board/img/{:05d}.jpg", "Board/groundtruth_rect.txt"),
    "vot-all": ("bag/color/{:08d}.jpg", "bag/groundtruth.txt"),
    "generic-train": ("train/my cat-1/{:d}.png.jpg", "train/my cat-1/groundtruth.txt"),
    "vasttrack-train": ("A Cat/A Cat-1/imgs/{:05d}.jpg", "A Cat/A Cat-1/Groundtruth.txt"),
    "uav123-all": ("data_seq/UAV123/bike1/{:06d}.jpg", "anno/UAV123/bike1.txt"),
    "uav20l-all": ("data_seq/UAV123/bike1/{:06d}.jpg", "anno/UAV20L/bike1.txt"),
    "nfs30-all": ("sequences/book/{:05d}.jpg", "anno/nfs_book.txt"),
    "nfs240-all": ("book/240/book/{:05d}.jpg", "book/240/book.txt"),
    "uav123_10fps-all": ("data_seq/UAV123_10fps/bike1/{:06d}.jpg", "anno/UAV123_10fps/bike1.txt"),
    "didi-all": ("sequences/bag/color/{:08d}.jpg", "sequences/bag/groundtruth.txt"),
    "avist-all": ("sequences/bag/img_{:05d}.jpg", "anno/bag.txt"),
    "dtb70-all": ("Girl1/img/{:05d}.jpg", "Girl1/groundtruth_rect.txt"),
    "uavdt-all": ("UAV-benchmark-S/S0101/img{:06d}.jpg", "UAV-benchmark-SOT_v1.0/anno/S0101_gt.txt"),
    "visdrone-test": ("sequences/uav1_s/img{:07d}.jpg", "annotations/uav1_s.txt"),
    "lagot-all": ("airplane/airplane-1/img/{:08d}.jpg", "LaGOT_multiple_object_per_sequence_annotations_final.json"),
    "tc128-all": ("Cup/img/{:04d}.jpg", "Cup/Cup_gt.txt"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    raw = tmp_path_factory.mktemp("world") / "raw"
    sizes = {"width": 128, "height": 96, "lasot_length": 16, "got10k_length": 12}
    sizes |= {"trackingnet_length": 10, "tnl2k_length": 6, "lasot_train": 4, "lasot_test": 1}
    sizes |= {"lasot_ext": 2, "got10k_train": 4, "got10k_val": 1, "got10k_test": 2}
    sizes |= {"trackingnet_train": 3, "trackingnet_test": 2, "coco_train": 26, "coco_val": 2}
    write_toyworld(raw, ToyWorldConfig(**sizes, tnl2k_train=2, tnl2k_test=1), workers=1)
    return raw


def other_tree(folder, name):
    """A tree of 6 frames for the readers that the toy world does not serve."""
    image, truth = OTHERS[name]
    jpeg = encode(np.full((48, 64, 3), 90, np.uint8))
    for number in range(1, 7):
        file = folder / image.format(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg)
    rows = ["-3,4,20,10", "70,4,5,5", "5,4,20,10", "6,4,20,10.25", "0,0,0,0", "9,4,20,10"]
    if name == "nfs240-all":
        rows = [f"0 {5 - k} 4 30 20 {k} {k % 2} 0 1" for k in range(6)]
    if name == "avist-all":
        for flag in ("full_occlusion", "out_of_view"):
            (folder / flag).mkdir()
            (folder / flag / f"bag_{flag}.txt").write_text("0,0,0,0,0,0")
    if name == "lagot-all":
        boxes = [[float(field) for field in row.split(",")] for row in rows]
        frames = [image.format(number) for number in range(1, 7)]
        rows = [json.dumps({"airplane-1": {"frames": frames, "xywh": {"0": boxes}}})]
    (folder / truth).parent.mkdir(parents=True, exist_ok=True)
    (folder / truth).write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize("name", [*WORLD, *OTHERS])
def test_an_index_holds_what_the_reader_and_cleaning_give(name, world, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))
    short, _, split = name.partition("-")
    dataset = DATASETS[short]
    root = world / WORLD[name] if name in WORLD else other_tree(tmp_path / "tree", name)
    expected = fresh(dataset, split, root)
    written = indexed_clips(dataset, split, root)
    opened = indexed_clips(dataset, split, root)
    assert opened.path == written.path and (opened.dataset, opened.split) == (short, split)
    same_clips(opened, expected)
    assert opened.fingerprint == annotations_fingerprint(expected)
    assert most_pairs(opened) == most_pairs(expected) == 4 * opened.object_frames
    assert opened.frames == sum(len(clip.frames) for clip in expected)
    assert not opened.lost
    draws = [draw_sample(expected, "x", 3, i) for i in range(50)]
    assert draws == [draw_sample(opened, "x", 3, i) for i in range(50)]


def test_every_data_set_is_among_them():
    assert {name.partition("-")[0] for name in (*WORLD, *OTHERS)} == DATASETS.keys()
