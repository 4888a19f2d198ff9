"""lorat-eval score: boxes that any tracker wrote."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lorat.evaluate.cli.score import score_command
from tests.evaluate.mistakes import one_line_error
from tests.evaluate.score_trees import FRAMES, NAMES, unpack_got10k, write_flat, write_lasot, write_ours

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def score(tmp_path, monkeypatch):
    """Run the command on a LaSOT tree of three sequences, from an empty working folder."""
    monkeypatch.chdir(tmp_path)
    write_lasot(Path("raw"))

    def run(*arguments: str):
        runner = CliRunner(env={"COLUMNS": "120"})
        return runner.invoke(score_command, ["--raw", "raw", *arguments])

    return run


LASOT = ("--dataset", "lasot")


def test_a_table_stands_beside_never_moving_and_says_how_it_was_read(score):
    write_flat(Path("DiMP_tracking_result"))
    result = score("--results", "DiMP_tracking_result", *LASOT)
    assert result.exit_code == 0, result.output + str(result.exception)
    for words in (
        "lasot-test (3)",
        "DiMP ",
        "never moving",
        "airplane-9",
        "read as otb in DiMP_tracking_result",
        "3 of the official 280 sequences; published numbers are over all of these",
    ):
        assert words in result.stdout
    assert not Path("metrics.json").exists()


def test_every_layout_of_the_same_boxes_scores_the_same(score):
    write_ours(Path("ours"))
    write_flat(Path("flat"))
    for name in NAMES:
        nested = Path("nested") / name
        nested.mkdir(parents=True)
        (nested / f"{name}_001.txt").write_text((Path("flat") / f"{name}.txt").read_text())
    documents = {}
    for folder in ("ours", "flat", "nested"):
        result = score("--results", folder, *LASOT, "--out", f"out/{folder}")
        assert result.exit_code == 0, result.output + str(result.exception)
        documents[folder] = json.loads(Path(f"out/{folder}/metrics.json").read_text())
    layouts = [document["tracker"]["layout"] for document in documents.values()]
    assert layouts == ["lorat", "otb", "got10k"]
    scores = [d["datasets"]["lasot-test"]["tracker"] for d in documents.values()]
    assert scores[0]["fps"] == 50 and scores[1]["fps"] is None
    curves = [{k: v for k, v in s.items() if k != "fps"} for s in scores]
    assert curves[0] == curves[1] == curves[2]
    assert 0.3 < curves[0]["auc"] < 0.95


def test_our_own_results_are_called_by_their_variant(score):
    write_ours(Path("runs/B/eval/epoch_0010"))
    assert "epoch_0010 " in score("--results", "runs/B/eval/epoch_0010", *LASOT).stdout
    known = '{"weights": "0123", "variant": "B-224", "dtype": "float32"}'
    Path("runs/B/eval/epoch_0010/tracker.json").write_text(known)
    assert "LoRAT B-224" in score("--results", "runs/B/eval/epoch_0010", *LASOT).stdout
    named = score("--results", "runs/B/eval/epoch_0010", *LASOT, "--label", "mine")
    assert "mine " in named.stdout and "LoRAT B-224" not in named.stdout


def test_runs_are_averaged_and_counted(score):
    values = []
    for number, shift in enumerate((1.0, 6.0)):
        write_flat(Path(f"dimp/dimp50_{number:03d}"), shift)
        score("--results", f"dimp/dimp50_{number:03d}", *LASOT, "--out", "out")
        document = json.loads(Path("out/metrics.json").read_text())
        values.append(document["datasets"]["lasot-test"]["tracker"]["auc"])
    result = score("--results", "dimp", *LASOT, "--out", "out")
    assert "and 1 more run" in result.stdout
    document = json.loads(Path("out/metrics.json").read_text())
    assert document["tracker"]["runs"] == 2
    mean = document["datasets"]["lasot-test"]["tracker"]["auc"]
    assert mean == pytest.approx(np.mean(values), abs=2e-6) and values[0] != values[1]


def test_missing_sequences_are_named_and_the_status_is_one(score):
    write_flat(Path("T"), names=NAMES[:2])
    result = score("--results", "T", *LASOT, "--out", "out")
    assert result.exit_code == 1, result.output
    assert "no result of 1 of 3 sequences (basketball-1)" in result.stdout
    assert "the scores are of the 2 that are there" in result.stdout
    document = json.loads(Path("out/metrics.json").read_text())
    assert document["failed"] == {"lasot-test": {"basketball-1": "no result"}}
    result = score("--results", "T", *LASOT, "--sequences", "airplane-1,airplane-9")
    assert result.exit_code == 0 and "lasot-test (2)" in result.stdout


def test_a_base_that_is_off_is_said(score):
    write_ours(Path("ours"))
    result = score("--results", "ours/results/lasot-test", *LASOT, "--layout", "otb")
    assert result.exit_code == 0
    assert "exactly one pixel left of and above" in result.stdout
    assert "--layout lorat" in result.stdout


def test_conventions_are_told_apart(score):
    write_flat(Path("T"))
    truth = Path("raw/LaSOT/airplane/airplane-1/groundtruth.txt")
    lines = truth.read_text().splitlines()
    lines[6] = "-5,41,24,16"  # left of the image: no annotation in MATLAB's eyes
    truth.write_text("\n".join(lines) + "\n")
    aucs = {}
    for convention in ("published", "matlab"):
        result = score("--results", "T", *LASOT, "--convention", convention, "--out", convention)
        assert result.exit_code == 0, result.output + str(result.exception)
        document = json.loads(Path(convention, "metrics.json").read_text())
        assert document["tracker"]["convention"] == convention
        aucs[convention] = document["datasets"]["lasot-test"]["tracker"]["precision"]
    assert aucs["published"] < aucs["matlab"]


@pytest.mark.parametrize("box", ["1,1,0,0", "0,0,0,0", "31,41,24,16"])
def test_matlab_removes_a_flagged_frame_whatever_its_box_says(score, box):
    folder = Path("raw/LaSOT/airplane/airplane-1")
    folder.joinpath("groundtruth.txt").write_text("31,41,24,16\n" * 3 + box + "\n")
    for name, flags in (("full_occlusion", "0,0,0,1"), ("out_of_view", "0,0,0,0")):
        folder.joinpath(f"{name}.txt").write_text(flags)
    Path("T").mkdir()
    Path("T/airplane-1.txt").write_text("31,41,24,16\n" * 4)
    arguments = ("--sequences", "airplane-1", "--convention", "matlab", "--out", "out")
    assert score("--results", "T", *LASOT, *arguments).exit_code == 0
    scores = json.loads(Path("out/metrics.json").read_text())["datasets"]["lasot-test"]["tracker"]
    assert scores["precision"] == scores["norm_precision"] == 0.75


@pytest.mark.parametrize("bad", ["nan,nan,nan,nan", "-1,-1,-1,-1"])
def test_rows_that_are_no_box_are_repaired_by_matlab_and_leave_out_their_sequence_elsewhere(score, bad):
    write_flat(Path("T"))
    file = Path("T/airplane-1.txt")
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:5], bad, bad, *lines[7:]]))
    published = score("--results", "T", *LASOT)
    assert published.exit_code == 1 and "line 6 is not finite" in published.stdout
    assert "--convention matlab" in published.stdout and "no toolkit" not in published.stdout
    repaired = score("--results", "T", *LASOT, "--convention", "matlab", "--out", "bad")
    assert repaired.exit_code == 0 and "rows that are no box are the row before" in repaired.stdout
    file.write_text("\n".join([*lines[:5], lines[4], lines[4], *lines[7:]]))
    score("--results", "T", *LASOT, "--convention", "matlab", "--out", "good")
    bad_scores, good = (json.loads(Path(out, "metrics.json").read_text())["datasets"] for out in ("bad", "good"))
    assert bad_scores == good


def test_attributes_get_a_table(score):
    write_flat(Path("T"))
    result = score("--results", "T", *LASOT)
    assert "lasot-test by attribute" in result.stdout
    assert "Scale variation" in result.stdout


def test_got10k_means_val_and_scores_as_its_toolkit(score, tmp_path):
    unpack_got10k(tmp_path)
    report = json.loads((GOLDEN / "g8_got10k_toolkit.json").read_text())["_derived"]
    arguments = ("--results", "gotres/GOT-10k", "--dataset", "got10k", "--root", "got10k=gotval")
    result = score(*arguments, "--out", "out")
    assert result.exit_code == 0, result.output + str(result.exception)
    document = json.loads(Path("out/metrics.json").read_text())
    scores = document["datasets"]["got10k-val"]["tracker"]
    assert scores["got10k"]["ao"] == pytest.approx(report["AO"], abs=1e-6)
    assert scores["got10k"]["sr50"] == pytest.approx(report["SR0.5"], abs=1e-6)
    assert scores["fps"] == pytest.approx(50)
    result = score(*arguments, "--convention", "matlab", "--out", "out")
    assert "counted as published" in result.stdout
    assert json.loads(Path("out/metrics.json").read_text())["tracker"]["convention"] == "published"


def test_ground_truth_that_is_not_public_is_no_score(score, got10k_raw):
    result = score("--results", ".", "--dataset", "got10k-test", "--root", f"got10k={got10k_raw}/GOT-10k")
    one_line_error(result, "got10k-test", "not public", "--submit-zip")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--results", "nowhere", *LASOT), ("nowhere", "no such folder")),
        (("--results", "raw", *LASOT), ("it holds LaSOT", "airplane-1 and airplane-9")),
        (("--results", "T", "--dataset", "lassot"), ("lassot", "did you mean 'lasot'")),
        (("--results", "T", "--dataset", "coco"), ("still images",)),
        (("--results", "T", "--dataset", "tnl2k"), ("TNL2K_TEST", "--root tnl2k=DIR")),
        (("--results", "T", "--dataset", "lasot,tnl2k"), ("one test set",)),
        (("--results", "T", *LASOT, "--sequences", "airplane-2"), ("did you mean 'airplane-",)),
        (("--results", "T", *LASOT, "--layout", "got10k"), ("in the layout got10k", "airplane-1.txt")),
        (("--results", "T", *LASOT, "--root", "lasot"), ("NAME=DIR",)),
    ],
)
def test_a_users_mistake_is_one_line_and_status_two(score, arguments, words):
    write_flat(Path("T"))
    one_line_error(score(*arguments, "--out", "out"), *words)
    assert not Path("out").exists()


def test_every_file_that_cannot_be_used_leaves_its_sequence_out_by_name_and_the_others_are_scored(score):
    write_flat(Path("T"))
    Path("T/airplane-9.txt").write_text("1,2,3,4\n1,2,3\n" + "1,2,3,4\n" * (FRAMES - 2))
    Path("T/basketball-1.txt").write_text("1,2,3,4\n" * (FRAMES - 1))
    result = score("--results", "T", *LASOT, "--out", "out")
    assert result.exit_code == 1, result.output
    assert "left out: T/airplane-9.txt: airplane-9: line 2" in result.stdout
    assert "left out: T/basketball-1.txt: basketball-1: 11 rows for 12 frames" in result.stdout
    document = json.loads(Path("out/metrics.json").read_text())
    assert list(document["failed"]["lasot-test"]) == ["airplane-9", "basketball-1"]
    assert list(document["datasets"]["lasot-test"]["sequences"]) == ["airplane-1"]
    Path("T/airplane-1.txt").write_text("")
    one_line_error(score("--results", "T", *LASOT), "airplane-1: holds no numbers", "line 2", "11 rows")


def test_a_zip_of_results_is_scored_as_it_is(score):
    write_flat(Path("T"))
    shutil.make_archive("DiMP", "zip", "T")
    result = score("--results", "DiMP.zip", *LASOT)
    assert result.exit_code == 0, result.output
    assert "DiMP " in result.stdout and "read as otb in DiMP.zip" in result.stdout


def test_a_sequence_whose_annotations_do_not_parse_is_named_and_the_others_are_scored(score):
    write_flat(Path("T"))
    Path("raw/LaSOT/airplane/airplane-9/groundtruth.txt").write_text("1,2,x,4\n")
    result = score("--results", "T", *LASOT, "--out", "out")
    assert result.exit_code == 1, result.output
    assert "lasot-test: cannot be scored: raw/LaSOT/airplane/airplane-9/groundtruth.txt: line 1" in result.stdout
    document = json.loads(Path("out/metrics.json").read_text())
    assert "groundtruth.txt: line 1" in document["failed"]["lasot-test"]["airplane-9"]
    assert len(document["datasets"]["lasot-test"]["sequences"]) == 2
    result = score("--results", "T", *LASOT, "--sequences", "airplane-9")
    one_line_error(result, "groundtruth.txt: line 1")
