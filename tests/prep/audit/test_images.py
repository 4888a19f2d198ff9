"""What is lost or passed over of images is a note of their sequence, and damage of none."""

import cv2
import numpy as np
import pytest

from lorat.prep.audit.check import audit
from lorat.prep.audit.images import odd_images
from lorat.prep.trees.registry import DATASETS
from lorat.prep.trees.sources import TreeSplit
from lorat.shards.pixels.jpeg import Range16
from tests.shards.pixels.test_jpeg import exif, with_exif

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)


@pytest.fixture
def tree(tmp_path):
    jpeg = cv2.imencode(".jpg", IMAGE)[1].tobytes()
    images = {
        "plain": (".jpg", jpeg),
        "thermal": (".png", cv2.imencode(".png", 7000 + 4 * IMAGE.astype(np.uint16))[1].tobytes()),
        "turned": (".jpg", with_exif(jpeg, exif("II", 6))),
        "white": (".png", cv2.imencode(".png", np.full_like(IMAGE, 255))[1].tobytes()),
    }
    for name, (suffix, data) in images.items():
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        for number in range(4):
            (folder / f"{number}{suffix}").write_bytes(data)
        (folder / "groundtruth.txt").write_text("11,6,20,15\n" * 4)
    return tmp_path


@pytest.mark.parametrize(
    ("deep", "frames", "others"), [(False, [0, 3], "1 more frame"), (True, [0, 1, 2, 3], "3 more frames")]
)
def test_check_notes_them_with_their_frames(tree, deep, frames, others):
    result = audit(TreeSplit(DATASETS["generic"], "train", tree), deep=deep, workers=2)
    assert result.damaged == 0
    found = {name: [(f.kind, f.frames, f.message) for f in each] for name, each in result.sequences.items()}
    folder = tree / "train"
    assert found == {
        "thermal": [
            (
                "16 bits",
                frames,
                f"{folder}/thermal/0.png: 16 bits a pixel; only the upper 8 are read (27 … 31 of 255); --range16 of "
                f"lorat-prep build and lorat-eval stretches them (and {others})",
            )
        ],
        "turned": [
            (
                "orientation",
                frames,
                f"{folder}/turned/0.jpg: asks to be turned (EXIF 6); images are used as stored (and {others})",
            )
        ],
        "white": [("one colour", frames, f"{folder}/white/0.png: one colour (255, 255, 255) all over (and {others})")],
    }


def test_first_images_are_summed_up_a_line_a_kind(tree):
    clips = DATASETS["generic"].read(DATASETS["generic"], "train", tree)
    lines = list(odd_images(clips))
    assert all(line.endswith("(1 of 4 first images looked at)") for line in lines)
    assert [kind in line for kind, line in zip(("16 bits", "EXIF 6", "one colour"), lines, strict=True)] == [True] * 3
    (first, *_) = odd_images(clips, Range16(7000, 8020))
    assert "8 bits a pixel" in first and first.endswith("(3 of 4 first images looked at)")
    assert len(list(odd_images(clips * 40))) == 3
