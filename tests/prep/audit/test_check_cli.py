"""``lorat-prep check`` as a user runs it: output, exit status, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from lorat.prep.cli.check import check_command
from lorat.shards.pixels.jpeg import encode


def picture(width: int = 64, height: int = 48) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encode(noise)


def write_sequence(folder: Path, frames: int = 4, data: bytes | None = None, images: str = "img") -> None:
    (folder / images).mkdir(parents=True)
    first = folder / images / "00001.jpg"
    first.write_bytes(data or picture())
    for number in range(2, frames + 1):
        os.link(first, folder / images / f"{number:05d}.jpg")
    (folder / "groundtruth.txt").write_text("11,6,20,15\n" * frames)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a", "b"):
        write_sequence(tmp_path / "raw" / "generic" / "train" / name)
    write_sequence(tmp_path / "raw" / "VOT" / "bag", images="color")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "raw"


def check(*arguments: str) -> Result:
    return CliRunner().invoke(check_command, ["--raw=raw", "--workers=1", *arguments])


def test_a_whole_tree_ends_with_0_and_a_report_in_the_working_folder(raw):
    result = check("--datasets=generic,vot")
    assert result.exit_code == 0, result.output
    report = json.loads((raw.parent / "check.json").read_text())
    assert report["version"] == 1 and list(report["datasets"]) == ["generic-train", "vot-all"]
    assert report["datasets"]["generic-train"]["counts"]["sequences"] == 2
    assert report["datasets"]["generic-train"]["sequences"] == {}


def test_damage_ends_with_1_after_every_data_set_was_audited(raw):
    (raw / "generic" / "train" / "a" / "groundtruth.txt").write_text("1,2,3\n" * 4)
    (raw / "VOT" / "bag" / "groundtruth.txt").write_text("1,2,3,x\n" * 4)
    result = check("--datasets=generic,vot", "--report=found.json")
    assert result.exit_code == 1
    assert "Traceback" not in result.output and isinstance(result.exception, SystemExit)
    lines = [line for line in result.output.splitlines() if line.startswith("damage: ")]
    assert len(lines) == 2 and "a/groundtruth.txt: line 1" in lines[0] and "bag" in lines[1]
    assert "build --exclude found.json" in result.output
    found = json.loads((raw.parent / "found.json").read_text())["datasets"]
    assert list(found["generic-train"]["sequences"]) == ["a"]
    assert found["vot-all"]["sequences"]["bag"][0]["severity"] == "damage"


def test_a_tree_that_cannot_be_read_is_damage_that_no_build_can_leave_out(raw):
    result = check("--datasets=generic-val")
    assert result.exit_code == 1
    assert "looked for val/*/groundtruth.txt" in result.output and "--exclude" not in result.output


def test_mistakes_end_with_2_in_one_line_and_leave_no_report(raw):
    arguments = ["--datasets=lasot"], ["--datasets=vto"]
    for mistake in arguments:
        result = check(*mistake)
        assert result.exit_code == 2 and len(result.stderr.strip().splitlines()) == 1
    assert not (raw.parent / "check.json").exists()


def test_a_missing_tree_is_told_with_where_to_get_it(raw):
    result = check("--datasets=generic,tnl2k,otb")
    told = [line for line in result.stdout.splitlines() if not line.startswith("    ")]
    assert [line[:14] for line in told] == ["To get tnl2k: ", "To get otb: ht", "with RAW=raw a"]
    assert "To get tnl2k: https://github.com/wangxiao5791509/" in told[0] and "docs/data.md" in told[2]
    assert '    unzip -q -n "$ZIPS/otb/*.zip" -d "$RAW/OTB"' in result.stdout
    assert "folders there: VOT, generic" in result.stderr


def test_sequences_that_lack_or_are_not_published_are_counted(raw):
    for name in ("Basketball", "Jogging-1", "Mine"):
        write_sequence(raw / "OTB" / name)
        (raw / "OTB" / name / "groundtruth.txt").rename(raw / "OTB" / name / "groundtruth_rect.txt")
    output = check("--datasets=otb").output
    assert "3 of 100 published sequences; not there: Biker, Bird1, Bird2 and 95 more" in output
    assert output.index("Findings in ") < output.index("To get otb: http://cvlab.hanyang.ac.kr/")
    assert "1 sequence not among the published ones: Mine" in output


def test_a_check_of_one_set_keeps_what_the_report_says_of_others(raw):
    (raw / "VOT" / "bag" / "groundtruth.txt").write_text("1,2,3,x\n" * 4)
    assert check("--datasets=vot").exit_code == 1
    assert check("--datasets=generic").exit_code == 0
    (raw / "generic" / "train" / "a" / "groundtruth.txt").write_text("1,2,3\n" * 4)
    assert check("--datasets=generic").exit_code == 1
    found = json.loads((raw.parent / "check.json").read_text())["datasets"]
    assert list(found["vot-all"]["sequences"]) == ["bag"] and list(found["generic-train"]["sequences"]) == ["a"]


def test_a_file_that_is_no_report_is_not_overwritten(raw):
    (raw.parent / "check.json").write_text('{"mine": 1}')
    result = check("--datasets=generic")
    assert result.exit_code == 2 and "check.json: is no whole report" in result.stderr
    assert (raw.parent / "check.json").read_text() == '{"mine": 1}'


def test_boxes_in_another_notation_are_damage_of_the_set(raw):
    rows = [f"{20 + 6 * k},30,{40 + 6 * k},46\n" for k in range(4)]
    for name in ("a", "b"):
        (raw / "generic" / "train" / name / "groundtruth.txt").write_text("".join(rows))
    result = check("--datasets=generic")
    assert result.exit_code == 1 and "damage: generic-train" in result.output
    assert "8 of 8 visible boxes reach beyond" in result.output and "corners instead of sizes?" in result.output
    assert "No damage" not in result.output and "--exclude" not in result.output


@pytest.mark.parametrize("columns", ["80", "120"])
def test_tables_fit_80_columns_and_findings_stay_on_one_line(raw, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    (raw / "generic" / "train" / "a" / "groundtruth.txt").write_text("1,2,3\n" * 4)
    output = check("--datasets=generic,vot").output
    for line in output.splitlines():
        assert len(line) <= 80 or line.startswith(("damage: ", "note: ", "Findings in "))


def test_more_damage_than_a_screen_takes_is_in_the_report(raw):
    for number in range(30):
        folder = raw / "generic" / "train" / f"s{number:02d}"
        write_sequence(folder)
        (folder / "groundtruth.txt").write_text("?")
    result = check("--datasets=generic")
    lines = [line for line in result.output.splitlines() if line.startswith("damage: ")]
    assert len(lines) == 11 and "20 more in check.json" in lines[-1]
    report = json.loads((raw.parent / "check.json").read_text())["datasets"]["generic-train"]
    assert len(report["sequences"]) == 30


_COMMAND = """
from lorat.prep.cli.check import check_command
print("ready", flush=True)
check_command()
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_stops_a_deep_check_without_traceback_or_report(tmp_path, workers):
    write_sequence(tmp_path / "VOT" / "long", 4000, picture(1280, 720), "color")
    command = [sys.executable, "-c", _COMMAND, "--deep", f"--raw={tmp_path}", "--datasets=vot"]
    process = subprocess.Popen(
        [*command, f"--workers={workers}"],
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert output == "" and errors.strip() == "Error: stopped; no report was written"
    assert not (tmp_path / "check.json").exists()
