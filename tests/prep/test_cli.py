"""``lorat-prep``: a user's mistake is one line on stderr and exit status 2."""

import pytest
from click.testing import CliRunner

from lorat.prep.cli import main


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def refused(result) -> str:
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    return lines[0]


def test_missing_trees_are_all_named_with_the_command_without_them(tmp_path):
    (tmp_path / "COCO").mkdir()
    line = refused(run("build", "--raw", str(tmp_path), "--datasets", "lasot,coco"))
    assert "LaSOT" in line and line.endswith("--datasets coco")


def test_an_unknown_data_set_names_the_nearest_and_a_test_set_is_not_built():
    assert "did you mean 'lasot'" in refused(run("build", "--datasets", "lasto"))
    assert "lasot_ext" in refused(run("build", "--datasets", "lasot_ext"))


def test_an_annotation_line_that_does_not_parse_is_named_with_its_number(tmp_path):
    folder = tmp_path / "LaSOT" / "cat" / "cat-1"
    (folder / "img").mkdir(parents=True)
    (folder / "groundtruth.txt").write_text("1,2,3,4\n1,2,three,4\n")
    (folder / "full_occlusion.txt").write_text("0,0")
    (folder / "out_of_view.txt").write_text("0,0")
    (tmp_path / "LaSOT" / "training_set.txt").write_text("cat-1\n")
    line = refused(run("build", "--raw", str(tmp_path), "--datasets", "lasot"))
    assert "groundtruth.txt" in line and "2" in line and "three" in line


@pytest.mark.parametrize("option", ["--root=lasot", "--root=lasto=/x"])
def test_a_root_that_cannot_be_read_is_refused(option):
    refused(run("build", option, "--datasets", "lasot"))


def test_a_toy_world_is_written_built_and_left_alone_the_second_time(tmp_path):
    raw, shards = str(tmp_path / "raw"), str(tmp_path / "shards")
    counts = {"lasot-train": 2, "lasot-test": 1, "lasot-ext": 1, "got10k-train": 3, "got10k-val": 1, "got10k-test": 1}
    counts |= {"trackingnet-train": 1, "trackingnet-test": 1, "coco-train": 2, "coco-val": 1, "tnl2k-train": 1}
    counts |= {"tnl2k-test": 1, **{f"{name}-length": 12 for name in ("lasot", "got10k", "trackingnet", "tnl2k")}}
    numbers = [f"--{name}={count}" for name, count in counts.items()] + ["--workers=1"]
    assert run("toyworld", raw, *numbers).exit_code == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "raw").rglob("*") if p.is_file()}
    assert run("toyworld", raw, *numbers).exit_code == 0
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "raw").rglob("*") if p.is_file()}
    built = run("build", "--raw", raw, "--shards", shards, "--pairs=20", "--workers=1")
    assert built.exit_code == 0, built.output
    for name in ("lasot-train", "got10k-vot", "trackingnet-train", "coco-train", "got10k-val"):
        assert name in built.output
        assert (tmp_path / "shards" / name / "manifest.json").is_file()
