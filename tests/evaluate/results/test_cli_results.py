"""lorat-eval export-results: our boxes in the layouts of other toolkits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lorat.evaluate.cli.results import export_results_command
from lorat.evaluate.cli.score import score_command
from lorat.evaluate.results.files import SequenceResult, write_result
from tests.evaluate.mistakes import one_line_error
from tests.evaluate.score_trees import NAMES, tracked, write_flat, write_lasot, write_ours


@pytest.fixture
def export(tmp_path, monkeypatch):
    """Run the command on results of a LaSOT tree of three sequences, from the working folder."""
    monkeypatch.chdir(tmp_path)
    write_lasot(Path("raw"))
    write_ours(Path("ours"))

    def run(*arguments: str, results: tuple[str, ...] = ("--results", "ours")):
        fixed = ("--out", "out", "--raw", "raw", *results)
        return CliRunner().invoke(export_results_command, [*fixed, *arguments])

    return run


def _files(folder: str = "out") -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def _scores(folder: str) -> dict:
    arguments = ["--results", folder, "--dataset", "lasot", "--raw", "raw", "--out", "scores"]
    result = CliRunner().invoke(score_command, arguments)
    assert result.exit_code == 0, result.output + str(result.exception)
    document = json.loads(Path("scores/metrics.json").read_text())
    for of_one in document["datasets"]["lasot-test"].values():
        of_one.pop("fps", None)  # two layouts have no times
        of_one.pop("latency", None)
    for sequence in document["datasets"]["lasot-test"]["sequences"].values():
        sequence["tracker"].pop("fps")
    return document["datasets"]


@pytest.mark.parametrize("layout", ["pytracking", "otb", "got10k"])
@pytest.mark.parametrize("shifts", [(3.0,), (3.0, 1.0)])
def test_what_is_exported_scores_the_same(export, layout, shifts):
    write_ours(Path("ours"), shifts)
    result = export("--layout", layout, "--label", "Ours")
    assert result.exit_code == 0, result.output + str(result.exception)
    assert _scores("out") == _scores("ours")
    assert "x and y from 1" in result.stdout


@pytest.mark.parametrize("layout", ["pytracking", "got10k"])
def test_another_trackers_boxes_are_exported_as_they_are(export, layout):
    write_flat(Path("theirs"))
    Path("theirs/airplane-9.txt").unlink()
    arguments, theirs = ("--layout", layout), ("--results", "theirs")
    one_line_error(export(*arguments, results=theirs), "theirs: holds no results of lorat-eval", "--datasets")
    result = export(*arguments, "--datasets", "lasot", results=theirs)
    assert result.exit_code == 1, result.output + str(result.exception)
    assert "read as otb in theirs" in result.stdout
    assert "no result of 1 sequence of the tree (airplane-9)" in result.stdout
    inside = "airplane-1/airplane-1_001" if layout == "got10k" else "airplane-1"
    written = np.loadtxt(f"out/theirs/{inside}.txt", delimiter="," if layout == "got10k" else "\t")
    assert (written == np.loadtxt("theirs/airplane-1.txt", delimiter=",")).all()


def test_a_run_is_found_by_its_checkpoint(export):
    checkpoint = Path("runs/B/checkpoints/epoch_0010")
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"")
    write_ours(Path("runs/B/eval/epoch_0010"))
    for chosen in (("--run", "runs/B"), ()):
        result = export("--layout", "otb", results=chosen)
        assert result.exit_code == 0, result.output + str(result.exception)
        assert _files() == [f"LoRAT_tracking_result/{name}.txt" for name in NAMES]
        shutil.rmtree("out")


def test_the_same_again_writes_nothing_and_other_content_is_refused(export):
    assert export("--layout", "pytracking").exit_code == 0
    before = {p: p.stat().st_mtime_ns for p in Path("out").rglob("*.txt")}
    result = export("--layout", "pytracking")
    assert result.exit_code == 0 and "0 files written, 3 are there as they are" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in Path("out").rglob("*.txt")} == before
    write_ours(Path("ours"), (5.0,))
    refused = export("--layout", "pytracking")
    one_line_error(refused, "out/LoRAT/airplane-1.txt", "2 more", "--overwrite")
    assert {p: p.stat().st_mtime_ns for p in Path("out").rglob("*.txt")} == before
    assert export("--layout", "pytracking", "--overwrite").exit_code == 0
    assert Path("out/LoRAT/airplane-1.txt").stat().st_mtime_ns not in before.values()


def test_sets_can_be_chosen_and_colliding_names_are_refused(export):
    boxes = tracked(0)
    for name in ("uav123-all", "uav20l-all", "lasot_ext-test"):
        sequence = "car-1" if name.startswith("lasot") else "bike1"
        result = SequenceResult(sequence, boxes, boxes[:, 0], boxes[:, 0])
        write_result(Path("ours/results") / name, result)
    one_line_error(export("--layout", "otb"), "bike1", "uav123-all and uav20l-all", "--datasets")
    assert not Path("out").exists()
    result = export("--layout", "pytracking", "--datasets", "uav123,lasot_ext-test")
    assert result.exit_code == 0, result.output
    assert _files() == ["LoRAT/car-1.txt", "LoRAT/uav_bike1.txt"]
    assert "uav123-all: its tree is not there" in result.stdout


def test_sequences_that_the_tree_has_besides_give_status_one(export):
    Path("ours/results/lasot-test/airplane-9.txt").unlink()
    result = export("--layout", "otb")
    assert result.exit_code == 1
    assert "no result of 1 sequence of the tree (airplane-9)" in result.stdout
    assert len(_files()) == 2


def test_results_of_another_length_than_the_tree_are_refused(export):
    path = Path("ours/results/lasot-test/airplane-9.txt")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    for extra in ("scores", "times"):
        path.with_name(f"airplane-9.{extra}.txt").unlink()
    one_line_error(export("--layout", "otb"), "airplane-9", "11 rows for 12 frames")
    assert not Path("out").exists()


def test_times_that_are_not_there_are_said(export):
    Path("ours/results/lasot-test/airplane-9.times.txt").unlink()
    result = export("--layout", "got10k")
    assert result.exit_code == 0 and "1 of them without a time for every frame" in result.stdout
    assert "LoRAT/airplane-9/airplane-9_time.txt" not in _files()
    assert "LoRAT/airplane-1/airplane-1_time.txt" in _files()


def test_a_run_that_lacks_a_sequence_is_refused(export):
    write_ours(Path("ours"), (3.0, 1.0))
    Path("ours/results/lasot-test/run_002/airplane-9.txt").unlink()
    one_line_error(export("--layout", "otb"), "run_002", "airplane-9")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--datasets", "lassot"), ("--datasets", "did you mean 'lasot'")),
        (("--datasets", "tnl2k"), ("--datasets tnl2k", "lasot-test")),
        (("--label", "a/b"), ("--label 'a/b'", "folder")),
        (("--run", "runs/B"), ("--run and --results", "one of them")),
        (("--root", "lasot=nowhere"), ("nowhere", "--root lasot")),
    ],
)
def test_a_users_mistake_is_one_line_and_status_two(export, arguments, words):
    one_line_error(export("--layout", "otb", *arguments), *words)
    assert not Path("out").exists()


def test_a_folder_without_results_is_refused(export):
    Path("empty").mkdir()
    for folder in ("empty", "nowhere"):
        result = export("--layout", "otb", results=("--results", folder))
        one_line_error(result, folder, "holds no results")
