"""Which test sets an evaluation takes when none is named."""

import pytest

from lorat.evaluate.track.testsets import default_test_sets
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.errors import UserError


def sequence(root, name: str) -> None:
    folder = root / name.partition("-")[0] / name
    folder.mkdir(parents=True)
    (folder / "groundtruth.txt").write_text("1,2,3,4\n")
    for flag in ("full_occlusion", "out_of_view"):
        (folder / f"{flag}.txt").write_text("0\n")


def test_a_tree_that_holds_the_training_split_alone_is_left_out_with_the_reason(tmp_path, caplog):
    sequence(tmp_path / "LaSOT", "bear-1")
    (tmp_path / "LaSOT/testing_set.txt").write_text("airplane-1\n")
    (tmp_path / "OTB/OTB100/Board").mkdir(parents=True)
    (tmp_path / "OTB/OTB100/Board/groundtruth_rect.txt").write_text("1,2,3,4\n")
    with pytest.raises(UserError, match="no test set's tree there"):
        default_test_sets(TreeOptions(raw=tmp_path))
    assert "left out: " in caplog.text
    assert "testing_set.txt: the 1 sequence of testing_set.txt is not there" in caplog.text
    assert f"OTB100 looks like it: give --root otb={tmp_path}/OTB/OTB100" in caplog.text
    sequence(tmp_path / "LaSOT", "airplane-1")
    assert default_test_sets(TreeOptions(raw=tmp_path)) == ["lasot-test"]
