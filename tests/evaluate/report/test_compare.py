"""Several trackers from their files alone: the table of `compare`, the page of `report`, pictures and CSV."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from rich.text import Text

from lorat.evaluate.cli import main
from lorat.evaluate.measure.scores import Entry, dataset_scores
from lorat.evaluate.report.tables import comparison_table
from tests.evaluate.mistakes import one_line_error
from tests.evaluate.pages import clips_of, results_of
from tests.evaluate.result_files import write_rows
from tests.evaluate.score_trees import FRAMES, NAMES, write_flat, write_lasot, write_ours


@pytest.fixture
def lorat_eval(tmp_path, monkeypatch):
    """Run lorat-eval beside a LaSOT tree without images and the results of three trackers, one of which lacks one."""
    monkeypatch.chdir(tmp_path)
    write_lasot(Path("raw"))
    write_flat(Path("a"), 1.0)
    write_flat(Path("b"), 3.0)
    write_flat(Path("few"), 2.0, NAMES[:2])
    for name in NAMES:
        np.savetxt(f"a/{name}_time.txt", np.full(FRAMES, 0.04))

    def run(command: str, *arguments: str):
        return CliRunner(env={"COLUMNS": "120"}).invoke(main, [command, "--raw", "raw", *arguments])

    return run


def test_a_page_and_pictures_are_made_of_others_results_alone(lorat_eval):
    result = lorat_eval("report", "--results", "A=a", "--results", "B=b", "--csv", "scores.csv")
    assert result.exit_code == 0, result.output + str(result.exception)
    page = Path("report/report.html").read_text()
    assert "<h1>A, B</h1>" in page and "otb in b" in page and "Success by attribute" in page
    assert 'class="ours"' not in page and "OSTrack-384, published" in page
    names = [f"lasot-test_{kind}" for kind in ("success", "precision", "norm_precision")]
    for name in (end for n in names for end in (n, f"{n}_attributes")):
        assert cv2.imread(f"report/plots/{name}.png") is not None
        assert Path(f"report/plots/{name}.pdf").read_bytes().startswith(b"%PDF")
    rows = list(csv.DictReader(Path("scores.csv").read_text().splitlines()))
    assert [(row["tracker"], row["sequence"]) for row in rows] == [(t, n) for t in "AB" for n in NAMES]
    assert rows[0]["frames"] == str(FRAMES) and 0.5 < float(rows[0]["auc"]) < 1 and rows[-1]["fps"] == ""


def test_a_tracker_that_lacks_sequences_keeps_its_place_on_the_page(lorat_eval):
    result = lorat_eval("report", "--results", "Few=few", "--results", "A=a", "--datasets", "lasot", "--out", "out")
    assert result.exit_code == 1, result.output
    assert "lasot-test: Few has results of 2 of 3 sequences" in result.stdout
    page = Path("out/report.html").read_text()
    assert f'<th scope="row">{NAMES[2]}</th>' in page and "(2 of 3 sequences)" in page


def test_a_file_that_cannot_be_used_leaves_out_its_sequence_on_the_page(lorat_eval):
    Path(f"b/{NAMES[0]}.txt").write_text("1,2,3,4\n")
    arguments = ("--results", "A=a", "--results", "B=b", "--datasets", "lasot", "--worst", "0")
    result = lorat_eval("report", *arguments)
    assert result.exit_code == 1 and f"{NAMES[0]}: 1 row for {FRAMES} frames" in result.stdout
    assert "(2 of 3 sequences)" in Path("report/report.html").read_text()


def test_trackers_are_compared_over_the_sequences_that_all_have(lorat_eval):
    write_ours(Path("run/eval/epoch_0010"))
    Path("run/checkpoints/epoch_0010").mkdir(parents=True)
    Path("run/checkpoints/epoch_0010/model.safetensors").touch()
    result = lorat_eval("compare", "a", "run", "Mine=b", "--csv", "scores.csv")
    assert result.exit_code == 0, result.output + str(result.exception)
    for words in ("lasot-test (3 sequences)", "run ", "Mine ", "paired bootstrap over sequences, 10,000 draws"):
        assert words in result.stdout
    line = next(line for line in result.stdout.splitlines() if line.startswith(" a "))
    assert line.split()[-2:] == ["25", "40"], "frames a second, and milliseconds of one sequence alone"
    assert len(Path("scores.csv").read_text().splitlines()) == 1 + 3 * 3
    result = lorat_eval("compare", "a", "few")
    assert result.exit_code == 1
    assert f"1 sequence left out, which not every tracker has ({NAMES[2]})" in result.stdout


def test_a_tracker_of_which_no_file_can_be_used_is_left_out_and_the_others_are_scored_and_drawn(lorat_eval):
    for name in NAMES:
        write_rows(Path(f"short/{name}.txt"), np.ones((1, 4)))
    result = lorat_eval("compare", "a", "short", "b")
    assert result.exit_code == 1 and "(3 sequences)" in result.stdout and " b " in result.stdout
    why = (
        f"short: none of its 3 results of lasot-test can be used: short/{NAMES[0]}.txt: {NAMES[0]}: 1 row for 12 frames"
    )
    assert f"lasot-test: short left out: {why}" in result.stdout
    arguments = ("--results", "A=a", "--results", "Short=short", "--results", "B=b")
    result = lorat_eval("report", *arguments, "--worst", "0")
    assert result.exit_code == 1 and f"lasot-test: Short left out: {why}" in result.stdout
    page = Path("report/report.html").read_text()
    assert "otb in b" in page and "otb in short" not in page and Path("report/plots/lasot-test_success.pdf").is_file()
    one_line_error(lorat_eval("compare", "short"), why)


def test_a_toolkits_report_is_a_row_and_a_curve_beside_boxes(lorat_eval):
    curves = {"success_curve": [0.6] * 21, "precision_curve": [0.7] * 51, "speed_fps": -1}
    Path("performance.json").write_text(json.dumps({"KCF": {"overall": {}, "seq_wise": dict.fromkeys(NAMES, curves)}}))
    result = lorat_eval("compare", "a", "KCF=performance.json")
    (row,) = (line.split() for line in result.stdout.splitlines() if line.startswith(" KCF "))
    assert result.exit_code == 0 and (row[1], row[4:]) == ("60.0", ["70.0", "-", "-", "-"])
    assert "lasot-test: KCF: scores as GOT-10k's toolkit counted them; it keeps no boxes" in result.stdout
    result = lorat_eval("report", "--results", "KCF=performance.json", "--results", "A=a")
    assert result.exit_code == 0, result.output + str(result.exception)
    page = Path("report/report.html").read_text()
    assert "GOT-10k&#39;s toolkit counted them, in performance.json" in page and "nan" not in page


def test_every_argument_is_looked_at_before_a_table_is_printed(lorat_eval):
    Path("empty").mkdir()
    for last, why in (("nowhere", "no such folder or file"), ("empty", "no result of lasot-test")):
        result = lorat_eval("compare", "a", last)
        one_line_error(result, last, why)
        assert "lasot-test (" not in result.stdout and "--results" not in result.stderr
    for run in (1, 2):
        write_flat(Path(f"dimp/dimp50_00{run}"))
    result = lorat_eval("compare", "a", "dimp/dimp50")
    assert result.exit_code == 0 and " dimp50 " in result.stdout, "several runs go by a name that is no folder"


def test_the_best_of_each_column_is_bold(tmp_path):
    clips = clips_of(8, tmp_path)
    trackers = {"good": 1.0, "[bold]bad": 9.0}
    entries = [Entry(name, dataset_scores(clips, [results_of(clips, error)])) for name, error in trackers.items()]
    columns = {str(column.header): list(column.cells) for column in comparison_table(entries).columns}
    assert all(isinstance(cell, Text) for cells in columns.values() for cell in cells)
    for heading in ("AUC", "P", "Pnorm"):
        assert [cell.style for cell in columns[heading]] == ["bold", ""]
    assert [cell.plain for cell in columns["p"]] == ["", "<0.001"]
    assert [cell.plain for cell in columns["tracker"]] == ["good", "[bold]bad"]


def test_a_users_mistake_is_one_line_and_status_two(lorat_eval):
    one_line_error(lorat_eval("compare", "a", "x/../a"), "two trackers would be called a")
    one_line_error(lorat_eval("compare", "a", "nowhere"), "nowhere", "no such folder")
    one_line_error(lorat_eval("report", "--results", "A=a", "--results", "B=nowhere"), "nowhere", "no such folder")
    one_line_error(lorat_eval("report"), "no run with weights")
