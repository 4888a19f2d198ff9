"""Masks are scored as VOT's toolkit scores them."""

import json
import math
import struct

import numpy as np
import pytest
from click.testing import CliRunner

from lorat.evaluate.cli import main
from lorat.evaluate.measure.segmentation import contour_accuracy, mean_scores, score_object
from lorat.evaluate.results.regions import Region, coded, read_regions, rectangle
from lorat.evaluate.segment.files import mask_files
from lorat.shards.base.errors import UserError
from tests.conftest import ROOT
from tests.evaluate.conftest import SIZE, write_frames

GOLDEN = json.loads((ROOT / "tests/golden/g11_vot_toolkit_0.9.0_masks.json").read_text())
"""Truth, trajectories and scores: the toolkit's own analysis, J and F of davis2017val, others of tests/multiobject."""


def blob(x: int, y: int, w: int, h: int) -> Region:
    return Region(x, y, np.ones((h, w), np.bool_))


@pytest.fixture
def workspace(tmp_path):
    """The golden sequences as a workspace has them; results as text."""
    for sequence, objects in GOLDEN["sequences"].items():
        folder, results = tmp_path / "sequences" / sequence, tmp_path / "results/Mine/baseline" / sequence
        write_frames(folder / "color", len(objects[0]["truth"]), 0)
        results.mkdir(parents=True)
        for number, each in enumerate(objects, start=1):
            end = f"_{number:03d}" if len(objects) > 1 else ""
            (folder / f"groundtruth{end}.txt").write_text("\n".join(each["truth"]) + "\n")
            (results / f"{sequence}{end}_001.txt").write_text("\n".join(each["found"]) + "\n")
    return tmp_path


def scored(workspace, *more):
    options = [f"--results={workspace / 'results/Mine/baseline'}", f"--sequences={workspace}"]
    return CliRunner().invoke(main, ["score-masks", *options, f"--json={workspace / 'scores.json'}", *more])


def test_scores_are_those_of_the_toolkits_own_analysis(workspace):
    outcome = scored(workspace)
    assert outcome.exit_code == 0, outcome.output
    found = json.loads((workspace / "scores.json").read_text())
    assert found["mean"] == pytest.approx(GOLDEN["scores"], abs=1e-12)
    assert list(found["objects"]) == ["seq-0_001", "seq-0_002", "seq-0_003", "seq-1"]
    last = outcome.output.splitlines()[-3].split()
    wanted = (100 * GOLDEN["scores"][name] for name in ("j", "f"))
    assert last[:4] == ["all", "(2)", *(f"{value:.1f}" for value in wanted)]


def test_objects_without_a_result_are_named_and_the_others_scored(workspace):
    (workspace / "results/Mine/baseline/seq-0/seq-0_002_001.txt").unlink()
    outcome = scored(workspace)
    assert outcome.exit_code == 1
    assert "no result of 1 object (seq-0_002): the scores are of the others" in outcome.output
    short = workspace / "results/Mine/baseline/seq-1/seq-1_001.txt"
    short.write_text("1\n10,10,5,5\n")
    outcome = scored(workspace)
    assert outcome.exit_code == 2 and f"{short.parent}: 2 regions for 30 frames; check --sequences" in outcome.stderr


@pytest.mark.parametrize("layout", ["png", "rle"])
def test_masks_that_the_tracker_wrote_score_as_the_toolkits_trajectories(layout, workspace):
    assert scored(workspace).exit_code == 0
    wanted, folder = json.loads((workspace / "scores.json").read_text()), workspace / "masks"
    folder.mkdir()
    for name, number in (("seq-0_001", 0), ("seq-0_002", 1), ("seq-0_003", 2), ("seq-1", 0)):
        (folder / f"found_{name}.txt").write_text("\n".join(GOLDEN["sequences"][name[:5]][number]["found"]))
        with mask_files(folder / name, layout) as write:
            for index, region in enumerate(read_regions(folder / f"found_{name}.txt")):
                mask = np.zeros((SIZE[1], SIZE[0]), np.bool_)
                height, width = region.pixels.shape
                mask[region.y : region.y + height, region.x : region.x + width] = region.pixels
                write(f"{index + 1:08d}", mask)
    assert scored(workspace, f"--results={folder}").exit_code == 0
    assert json.loads((workspace / "scores.json").read_text()) == wanted


def test_pixels_that_do_not_count_are_left_out():
    truth, found = [blob(10, 10, 20, 20)] * 2, [coded(1), blob(10, 10, 40, 20)]
    assert score_object(truth, found, SIZE).accuracy == pytest.approx((0.0 + 0.5) / 2)
    assert score_object(truth, found, SIZE, [blob(30, 0, 60, 60)] * 2).accuracy == pytest.approx((0.0 + 1.0) / 2)


def test_what_is_outside_the_frame_does_not_count():
    truth, found = [blob(86, 62, 10, 10)] * 2, [coded(1), rectangle((86.2, 61.8, 50.0, 50.0))]
    scores = score_object(truth, found, SIZE)
    assert (scores.j, scores.f) == (1.0, 1.0)


def test_absence_counts_where_it_is_told_and_where_it_is_not():
    nothing = rectangle((0, 0, 0, 0))
    truth = [blob(5, 5, 8, 8), *[Region(0, 0, np.zeros((1, 1), np.bool_))] * 12]
    scores = score_object(truth, [coded(1), *[nothing] * 9, *[blob(1, 1, 4, 4)] * 3], SIZE)
    assert scores.adq == 0.75 and scores.nre == 1.0 and scores.j == pytest.approx(10 / 13)
    assert score_object(truth, [coded(1), *[coded(0)] * 12], SIZE).j == pytest.approx(1 / 13)  # said nothing of
    assert math.isnan(score_object(truth[:11], [coded(1), *[nothing] * 10], SIZE).adq)
    assert mean_scores([[scores]]).adq == 0.75


def test_contours_match_within_a_tolerance():
    square, moved = np.zeros((2, 40, 40), np.bool_)
    square[10:30, 10:30], moved[10:30, 12:32] = True, True
    assert contour_accuracy(square, moved, 2) == 1.0
    # Of 76 pixels of each contour: 19 of each level side, and the upright side's two next to the other's level sides.
    assert contour_accuracy(square, moved, 1) == pytest.approx((2 * 19 + 2) / 76)


def test_the_toolkits_binary_form_is_its_text(tmp_path):
    mask = np.zeros((3, 5), np.bool_)
    mask[1, 1:4] = True
    runs = (6, 3, 6)
    data = struct.pack("<hI", 1, 3) + struct.pack("<BI", 0, 1) + struct.pack("<Bffff", 1, 1.6, 2.0, 3.4, 4.0)
    data += struct.pack("<BhhHHH3H", 3, -2, 7, 5, 3, 3, *runs)
    (tmp_path / "a.bin").write_bytes(data)
    (tmp_path / "a.txt").write_text("1\n1.6,2,3.4,4\nm-2,7,5,3,6,3,6\n")
    for one, other in zip(read_regions(tmp_path / "a.bin"), read_regions(tmp_path / "a.txt"), strict=True):
        assert one.code == other.code and (one.x, one.y) == (other.x, other.y)
        np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(read_regions(tmp_path / "a.bin")[2].pixels, mask)
    (tmp_path / "a.bin").write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"a\.bin: damaged \(it ends too early\)"):
        read_regions(tmp_path / "a.bin")
    (tmp_path / "a.txt").write_text("1\n1,2,3,4,5,6\n")
    with pytest.raises(UserError, match=r"a\.txt: line 2: expected a mask, a box or a code, found a polygon"):
        read_regions(tmp_path / "a.txt")
