"""Masks as files: whole or not there, and as COCO's own tools read them."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from lorat.evaluate.segment.files import from_rle, mask_files, place_of, read_masks, to_rle
from lorat.shards.base.errors import UserError

MASKS = {f"{number:08d}": np.random.default_rng(number).random((7, 9)) > 0.6 for number in (3, 1, 20)}


@given(st.integers(1, 70), st.integers(1, 70), st.floats(0, 1), st.integers(0, 9), st.integers(1, 30))
def test_run_lengths_are_those_of_cocos_own_tools(height, width, share, seed, grain):
    cells = np.random.default_rng(seed).random((height // grain + 1, width // grain + 1)) < share
    mask = np.kron(cells, np.ones((grain, grain), bool))[:height, :width]
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert to_rle(mask) == theirs["counts"].decode()
    np.testing.assert_array_equal(from_rle(to_rle(mask), height, width), mask)


def test_long_runs_keep_their_length():
    mask = np.zeros((3000, 4000), dtype=bool)
    mask[1000:2900, 700:3999] = True
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert to_rle(mask) == theirs["counts"].decode()
    np.testing.assert_array_equal(from_rle(to_rle(mask), *mask.shape), mask)


@pytest.mark.parametrize("layout", ["png", "rle"])
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools
def test_what_is_written_is_read_back(layout, tmp_path):
    stem = tmp_path / "set" / "a.b"
    with mask_files(stem, layout) as write:
        for name, mask in MASKS.items():
            write(name, mask)
        assert not place_of(stem, layout).exists()
    read = dict(read_masks(stem))
    assert read.keys() == MASKS.keys()
    assert all((read[name] == mask).all() for name, mask in MASKS.items())
    if layout == "png":
        image = cv2.imread(str(stem / "00000020.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(image, np.where(MASKS["00000020"], 255, 0))
    else:
        rows = [json.loads(line) for line in (tmp_path / "set/a.b.jsonl").read_text().splitlines()]
        assert [row["frame"] for row in rows] == list(MASKS)
        np.testing.assert_array_equal(coco.decode(rows[0]), MASKS[rows[0]["frame"]])


@pytest.mark.parametrize(
    "line",
    ["{", "{}", '{"frame": "2", "size": [2, 2], "counts": "9"}', '{"frame": "2", "size": 4, "counts": "4"}', "3"],
)
def test_a_damaged_line_is_named(line, tmp_path):
    with mask_files(tmp_path / "seq", "rle") as write:
        write("1", MASKS["00000001"])
    with (tmp_path / "seq.jsonl").open("a") as file:
        file.write(line)
    masks = read_masks(tmp_path / "seq")
    next(masks)
    with pytest.raises(UserError, match=r"seq\.jsonl: line 2 is no mask"):
        next(masks)


@pytest.mark.parametrize("layout", ["png", "rle"])
def test_masks_of_a_sequence_that_failed_are_not_there(layout, tmp_path):
    stem = tmp_path / "seq"
    with pytest.raises(RuntimeError), mask_files(stem, layout) as write:
        write("1", MASKS["00000001"])
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="no masks there; make them with --segment"):
        next(read_masks(stem))


def test_what_a_killed_process_left_is_begun_anew(tmp_path):
    (left := tmp_path / ".seq.partial").mkdir()
    (left / "9.png").write_bytes(b"half")
    with mask_files(tmp_path / "seq", "png") as write:
        write("1", MASKS["00000001"])
    assert [path.name for path in tmp_path.iterdir()] == ["seq"]
    assert [path.name for path in (tmp_path / "seq").iterdir()] == ["1.png"]
