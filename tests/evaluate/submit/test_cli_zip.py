"""``check-zip`` as a command: what it says, and its exit status."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lorat.evaluate.cli.submit import check_zip_command
from lorat.evaluate.results.files import SequenceResult
from lorat.evaluate.submit.pack import pack_zip
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.pixels.geometry import xyxy_to_xywh
from tests.evaluate.zip_files import GOT10K, TIMES, got10k_files, trackingnet_files, zipped

FLAT = {name: data.replace(b",", b" ") for name, data in got10k_files().items()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("LORAT_GOT10K", "LORAT_TRACKINGNET"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def check(files, *arguments: str):
    if files is not None:
        Path("t.zip").write_bytes(zipped(files).getvalue())
    return CliRunner().invoke(check_zip_command, ["t.zip", *arguments])


def test_a_whole_zip_is_fit_and_what_was_not_checked_is_said(here):
    result = check(got10k_files())
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "t.zip: GOT-10k test, 360 files at the root, 180 of 180 sequences"
    assert lines[1].startswith("not checked: the rows of 180 sequences") and "--root" in lines[1]
    assert lines[-2] == "0 errors, 0 warnings"
    assert lines[-1].startswith("Verdict: fit to submit, if each has a row a frame")
    assert [path.name for path in here.iterdir()] == ["t.zip"]


def test_what_the_server_would_not_say_is_said(here):
    result = check(FLAT)
    assert result.exit_code == 1, result.output
    first = f"{GOT10K[0]}/{GOT10K[0]}_001.txt"
    assert (
        f"error: files with lines that are not four numbers with commas between (180): {first} (line 1:"
        in result.stdout
    )
    assert "and 177 more" in result.stdout
    assert "180 errors, 0 warnings" in result.stdout
    assert "Verdict: not fit to submit." in result.stdout


def test_warnings_alone_leave_it_fit(here):
    folders = {f"T/{name[:-4]}/{name}": data for name, data in trackingnet_files().items()}
    result = check(folders)
    assert result.exit_code == 0, result.output
    assert "warning: files in folders, or with more in the name than the sequence (511): T/" in result.stdout
    assert "0 errors, 511 warnings" in result.stdout


def packed_from(raw: Path) -> Path:
    clips = read_clips(DATASETS["got10k"], "test", raw / "GOT-10k")
    results = {}
    for clip in clips:
        boxes = xyxy_to_xywh(clip.tracks[0].boxes[:1]).repeat(len(clip.frames), axis=0)
        ones = boxes[:, 0] * 0 + 1
        results[clip.name] = SequenceResult(clip.name, boxes, ones, ones)
    return pack_zip("got10k", [results], clips, Path("t.zip")).path


@pytest.mark.parametrize("option", [("--raw", "raw"), ("--root", "got10k=raw/GOT-10k")])
def test_with_the_tree_rows_first_boxes_and_sizes_are_compared(here, got10k_raw, option):
    packed = packed_from(got10k_raw)
    result = CliRunner().invoke(check_zip_command, [str(packed), *option])
    assert result.exit_code == 1 and "not checked" not in result.stdout, result.output
    assert result.stdout.count("error: ") == 1 and "missing sequences (178)" in result.stdout
    one, two = ("GOT-10k_Test_000001", "GOT-10k_Test_000002")
    bad = got10k_files()
    bad[f"{one}/{one}_001.txt"] = b"21,19,22,17\n" * 5  # given: 20,18
    bad[f"{two}/{two}_001.txt"] = b"21,18,22,17\n" * 4 + b"96,18,22,17\n"  # of 6 frames
    for name, rows in ((one, 5), (two, 6)):
        bad[f"{name}/{name}_time.txt"] = TIMES[:11] * rows
    result = check(bad, *option)
    assert result.exit_code == 1, result.output
    assert f"one pixel off the given box in x and y (1): {one}" in result.stdout
    assert "21,19,22,17; given is 20,18,22,17" in result.stdout
    assert f"(1): {two}/{two}_001.txt (5 rows for 6 frames)" in result.stdout
    assert f"outside the image (1): {two}/{two}_001.txt (row 5: 96,18,22,17)" in result.stdout
    assert "the rows of 178 sequences" in result.stdout
    assert "2 errors, 1 warning" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["none.zip"], ["none.zip", "no such file"]),
        (["."], ["no such file"]),
        (["text.zip"], ["text.zip", "not a zip"]),
        (["empty.zip"], ["empty.zip", "--server"]),
        (["good.zip", "--raw", "absent"], ["got10k", "absent"]),
        (["good.zip", "--root", "lasot=."], ["--root lasot", "got10k or trackingnet"]),
        (["good.zip", "--root", "trackingnet=."], ["good.zip", "--root got10k=DIR"]),
        (["good.zip", "--root", "nonsense"], ["--root nonsense"]),
    ],
)
def test_wrong_use_and_no_zip_end_in_one_line(here, arguments, parts):
    Path("text.zip").write_text("not a zip")
    Path("empty.zip").write_bytes(zipped({}).getvalue())
    Path("good.zip").write_bytes(zipped(got10k_files()).getvalue())
    result = CliRunner().invoke(check_zip_command, arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    for part in parts:
        assert part in result.stderr


def test_names_in_a_zip_cannot_write_on_the_terminal(here):
    result = check(trackingnet_files() | {"\x1b[31m[red]\u202e.txt": b"\x1b[2J,1,2,3\n"})
    assert result.exit_code == 1, result.output
    assert "\x1b" not in result.stdout and "\u202e" not in result.stdout
    assert r"\x1b[31m[red]\u202e" in result.stdout


def test_help_is_quick():
    code = (
        "import sys; from lorat.evaluate.cli.submit import check_zip_command as c;"
        "c.main(['--help'], standalone_mode=False);"
        "sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "lorat-eval check-zip GOT10k-test.zip" in result.stdout
