"""``export-results --submit-zip``: anybody's boxes become a judged zip, or no file at all."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lorat.evaluate.cli.results import export_results_command
from lorat.evaluate.cli.score import score_command
from lorat.evaluate.cli.submit import check_zip_command
from lorat.evaluate.results.files import SequenceResult, write_result
from lorat.evaluate.submit.servers import SERVERS
from tests.evaluate.conftest import moving_box, write_frames
from tests.evaluate.mistakes import one_line_error
from tests.evaluate.zip_files import zipped

ONE, TWO = "GOT-10k_Test_000001", "GOT-10k_Test_000002"  # of 5 and 6 frames, given 20,18 and 21,18 of 22 by 17
FRAMES = {ONE: 5, TWO: 6}


@pytest.fixture
def pack(got10k_raw, monkeypatch):
    """Zip results for GOT-10k's server, from the working folder."""
    monkeypatch.chdir(got10k_raw.parent)

    def run(*arguments: str, results="theirs", server="got10k"):
        fixed = ("--results", results, "--raw", "raw", "--submit-zip", server)
        return CliRunner().invoke(export_results_command, [*fixed, *arguments])

    return run


def rows_of(name: str, shift: float = 0.0) -> np.ndarray:
    boxes = np.tile([20.0 + (name == TWO), 18, 22, 17], (FRAMES[name], 1))
    boxes[1:, 0] += shift
    return boxes


def write(path: Path, rows: np.ndarray, separator: str = ",", decimals: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, rows, fmt=f"%.{decimals}f", delimiter=separator)


def write_layout(layout: str, shift: float = 0.0, home: Path = Path("theirs")) -> None:
    for name in FRAMES:
        boxes, seconds = rows_of(name, shift), np.full((FRAMES[name], 1), 0.02)
        if layout == "lorat":
            result = SequenceResult(name, boxes, boxes[:, 0], seconds[:, 0])
            write_result(home / "results" / "got10k-test", result)
        elif layout == "got10k":
            write(home / name / f"{name}_001.txt", boxes)
            write(home / name / f"{name}_time.txt", seconds, decimals=8)
        else:
            inner = "got10k" if layout == "ostrack" else ""
            write(home / inner / f"{name}.txt", boxes, {"otb": ","}.get(layout, "\t"))
            if layout != "otb":
                write(home / inner / f"{name}_time.txt", seconds, "\t", 6)


def contents(path: str = "GOT10k-test-unofficial.zip") -> dict[str, list[str]]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode().splitlines() for name in archive.namelist()}


@pytest.mark.parametrize("layout", ["otb", "pytracking", "ostrack", "got10k", "lorat"])
def test_boxes_in_any_layout_become_the_servers_zip_with_times_where_there_are_some(pack, layout):
    write_layout(layout, shift=0.4)
    result = pack()
    assert result.exit_code == 0, result.output + str(result.exception)
    files = contents()
    named = [f"{name}/{name}_001.txt" for name in FRAMES]
    timed = [f"{name}/{name}_time.txt" for name in FRAMES] if layout != "otb" else []
    assert sorted(files) == sorted(named + timed)
    assert files[named[0]] == ["20.0000,18.0000,22.0000,17.0000"] + ["20.0000,18.0000,23.0000,17.0000"] * 4
    assert all(files[name] == ["0.02000000"] * FRAMES[name[:19]] for name in timed)
    assert "2 sequences are not the official 180" in result.stdout and "whole pixels" in result.stdout
    assert ("no time file" in result.stdout) == (layout == "otb")
    judged = CliRunner().invoke(check_zip_command, ["GOT10k-test-unofficial.zip", "--raw", "raw"])
    assert "178 errors" in judged.stdout and "missing sequences (178)" in judged.stdout, judged.output


def test_runs_of_a_tracker_stand_beside_each_other_and_a_fourth_is_one_too_many(pack):
    for run in range(4):
        write_layout("pytracking", run, Path(f"theirs/dimp_{run:03d}"))
    one_line_error(pack(), "got10k takes 1 to 3 runs, not 4", "one run with --results")
    assert pack(results="theirs/dimp_002").exit_code == 0
    assert sum("_001" in name for name in contents()) == 2
    for run in (2, 3):
        for file in Path(f"theirs/dimp_{run:03d}").iterdir():
            file.unlink()
    assert pack("--overwrite", "--out", "zips").exit_code == 0
    assert f"{ONE}/{ONE}_002.txt" in contents("zips/GOT10k-test-unofficial.zip")


def broken(name: str, rows: np.ndarray, moved: tuple[float, ...] = (0, 0, 0, 0)) -> None:
    write(Path("theirs") / f"{name}.txt", rows + np.array(moved))


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (lambda: Path(f"theirs/{TWO}.txt").unlink(), ("missing sequences (1)", TWO)),
        (lambda: broken(TWO, rows_of(TWO)[:-1]), (TWO, "5 rows for 6 frames")),
        (lambda: broken(TWO, np.vstack([rows_of(TWO)[:-1], [[np.nan] * 4]])), (TWO,)),
        (lambda: broken(ONE, rows_of(ONE), (1, 1, 0, 0)), ("one pixel off the given box", ONE)),
        (lambda: broken(ONE, rows_of(ONE), (1e6, 0, 0, 0)), ("reach 100000 pixels", ONE)),
    ],
)
def test_what_a_server_cannot_score_is_refused_by_name_and_leaves_no_file(pack, mistake, told):
    write_layout("otb")
    mistake()
    result = pack()
    assert result.exit_code == 2, result.output
    assert all(part in result.output for part in told), result.output
    assert result.stderr.count("\n") == 1 and not list(Path().rglob("*.zip"))


def test_every_fault_is_named_at_once_and_a_zip_of_results_is_as_good_as_a_folder(pack):
    write_layout("pytracking")
    Path("theirs.zip").write_bytes(zipped({f"a/{p.name}": p.read_bytes() for p in Path("theirs").iterdir()}).getvalue())
    assert pack(results="theirs.zip", server="got10k").exit_code == 0
    assert len(contents()) == 4
    Path(f"theirs/{TWO}.txt").unlink()
    broken(ONE, rows_of(ONE)[:-1])
    one_line_error(pack("--overwrite"), f"missing sequences (1): {TWO}", f"{ONE}_001.txt (4 rows for 5 frames)")


def test_the_first_row_is_theirs_and_what_is_odd_about_it_is_said(pack):
    write_layout("otb")
    broken(ONE, np.vstack([[[12.0, 9, 22, 17]], rows_of(ONE)[1:]]))
    result = pack()
    assert result.exit_code == 0, result.output
    assert "files that do not begin with the given box (1)" in result.stdout
    assert contents()[f"{ONE}/{ONE}_001.txt"][0] == "12.0000,9.0000,22.0000,17.0000"


def test_trackingnets_zip_is_flat_has_one_run_and_its_official_name_where_all_are_there(pack):
    boxes = np.vstack([moving_box(index, 0) for index in range(2)])
    for folder in ("frames", "anno"):
        Path("raw/TrackingNet/TEST", folder).mkdir(parents=True)
    write_frames(Path("image"), 1, 0)
    image = next(Path("image").iterdir()).read_bytes()
    for name in SERVERS["trackingnet"].official:
        folder = Path("raw/TrackingNet/TEST/frames", name)
        folder.mkdir()
        for frame in ("0.jpg", "1.jpg"):
            (folder / frame).write_bytes(image)
        given = boxes[:1] - [0, 0, *boxes[0, :2]]
        write(Path(f"raw/TrackingNet/TEST/anno/{name}.txt"), given, decimals=2)
        for run in (0, 1):
            rows = np.vstack([given, given + np.array([run, 0, 0, 0])])
            write(Path(f"theirs/dimp_{run:03d}/{name}.txt"), rows, "\t", 0)
    result = pack(server="trackingnet")
    assert result.exit_code == 0, result.output + str(result.exception)
    files = contents("TrackingNet-test.zip")
    assert sorted(files) == sorted(f"{name}.txt" for name in SERVERS["trackingnet"].official)
    assert set(map(tuple, files.values())) == {("20.00,18.00,22.00,17.00",) * 2}
    assert "no place for repeated runs: the first of 2 is zipped" in result.stdout
    judged = CliRunner().invoke(check_zip_command, ["TrackingNet-test.zip", "--raw", "raw"])
    assert judged.exit_code == 0 and "0 errors, 0 warnings" in judged.stdout, judged.output


def test_wrong_ways_point_to_the_right_one(pack):
    write_layout("got10k")
    here = ["--results", "theirs", "--raw", "raw"]
    scored = CliRunner().invoke(score_command, [*here, "--dataset", "got10k-test"])
    one_line_error(scored, "got10k-test", "export-results --results theirs --submit-zip got10k")
    for arguments, words in (
        (["--layout", "otb"], ("theirs: holds no results of lorat-eval", "--datasets", "--submit-zip")),
        ([], ("a --layout or", "--submit-zip")),
        (["--layout", "otb", "--submit-zip", "got10k"], ("a --layout or", "--submit-zip")),
        (["--submit-zip", "got10k", "--datasets", "got10k"], ("--datasets", "leave it out")),
        (["--submit-zip", "trackingnet"], ("trackingnet: no folder raw/TrackingNet",)),
    ):
        one_line_error(CliRunner().invoke(export_results_command, [*here, *arguments]), *words)
    assert not list(Path().rglob("*.zip"))
