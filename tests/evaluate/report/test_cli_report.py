import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from lorat.evaluate.cli import main
from tests.evaluate.mistakes import one_line_error

OUT = Path("run/eval/epoch_0010")
NAMES = [f"GOT-10k_Val_{n:06d}" for n in (1, 2, 3)]


@pytest.fixture
def lorat_eval(tiny_weights: Path, got10k_raw: Path, monkeypatch, tmp_path):
    """Run lorat-eval in a folder where the tiny run has tracked GOT-10k val."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str):
        return CliRunner().invoke(main, list(arguments))

    fixed = ("--run", "run", "--raw", str(got10k_raw), "--dtype", "float32", "--device", "cpu")
    assert run(*fixed, "--no-video").exit_code == 0
    return run


@pytest.fixture
def report(lorat_eval, got10k_raw):
    return lambda *arguments: lorat_eval("report", "--raw", str(got10k_raw), *arguments)


def test_the_page_of_an_evaluation_is_made_anew_byte_for_byte(report):
    first = (OUT / "report.html").read_bytes()
    (OUT / "report.html").unlink()
    result = report("--run", "run")
    assert result.exit_code == 0, result.output
    assert (OUT / "report.html").read_bytes() == first
    for words in (b"LoRAT tiny", b"float32", b"GOT-10k_Val_000003", b"data:image/jpeg", b"SR0.75"):
        assert words in first
    assert str(OUT / "report.html") in result.stdout


def test_throughput_and_latency_are_told_apart(report):
    latency = json.loads((OUT / "speed.json").read_text())["latency_ms"]
    scores = json.loads((OUT / "metrics.json").read_text())["datasets"]["got10k-val"]["tracker"]
    assert latency > 0 and scores["latency"] == latency and scores["fps"] > 0
    page = (OUT / "report.html").read_text()
    assert "fps: throughput" in page and "ms: latency" in page and "3 sequences side by side" in page


def test_other_trackers_stand_beside_ours_in_any_layout(report, lorat_eval, got10k_raw):
    exported = ("--layout", "got10k", "--out", "exported", "--label", "Twin")
    done = lorat_eval("export-results", "--results", str(OUT), "--raw", str(got10k_raw), *exported)
    assert done.exit_code == 0, done.output
    few = Path("few")
    few.mkdir()
    for name in NAMES[:2]:
        shutil.copy(OUT / "results/got10k-val" / f"{name}.txt", few)
    result = report("--out", str(OUT), "--results", "Twin=exported", "--results", "Few=few")
    assert result.exit_code == 0, result.output
    assert "Few has results of 2 of 3 sequences" in result.stdout
    page = (OUT / "report.html").read_text()
    assert "Twin" in page and "(2 of 3 sequences)" in page and "± best other" in page
    (few / f"{NAMES[0]}.txt").write_text("1,2,3,4\n")
    result = report("--out", str(OUT), "--results", "Few=few")
    assert result.exit_code == 1, result.output
    assert f"Few: left out: few/{NAMES[0]}.txt: {NAMES[0]}: 1 row for 5 frames" in result.stdout


def test_sequences_without_a_result_are_said_on_the_page_and_by_the_status(report):
    (OUT / "results/got10k-val" / f"{NAMES[1]}.txt").unlink()
    result = report("--run", "run", "--html", "there/page.html", "--worst", "1")
    assert result.exit_code == 1, result.output
    page = Path("there/page.html").read_text()
    assert NAMES[1] in page and "no whole result" in page
    assert page.count('class="strip"') == 1


def test_a_users_mistake_is_one_line_and_status_two(report):
    one_line_error(report("--out", "nowhere"), "nowhere", "run lorat-eval first")
    one_line_error(report("--run", "run", "--out", "x"), "give one of them")
    one_line_error(report("--run", "run", "--results", "DiMP"), "LABEL=DIR")
    one_line_error(report("--run", "run", "--results", "DiMP=missing"), "missing")
    twice = ("--results", "A=x", "--results", "A=y")
    one_line_error(report("--run", "run", *twice), "given twice")
