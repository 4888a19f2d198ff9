import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lorat.evaluate.cli import main
from lorat.evaluate.results.files import list_results, read_result
from lorat.evaluate.track import batch as engine
from lorat.train.network.deploy import devices
from lorat.train.network.deploy.processor import Measured
from lorat.train.network.trained import save_weights
from tests.evaluate.mistakes import one_line_error


@pytest.fixture
def run_eval(tiny_weights: Path, got10k_raw: Path, monkeypatch, tmp_path):
    """Run lorat-eval on the tiny run and trees, from an empty working folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, weights: tuple[str, ...] = ("--run", "run"), dtype: str = "float32"):
        fixed = (*weights, "--raw", str(got10k_raw), "--dtype", dtype, "--device", "cpu")
        return CliRunner().invoke(main, [*fixed, *arguments])

    return run


OUT = Path("run/eval/epoch_0010")
VAL = OUT / "results/got10k-val"
WEIGHTS = Path("run/checkpoints/epoch_0010/model.safetensors")


def metrics():
    return json.loads((OUT / "metrics.json").read_text())


def failures(result):
    """Return the lines about failures; on a busy machine the progress bar's last state stands before them."""
    assert result.exit_code == 1, result.output
    return [line for line in result.stderr.splitlines() if line.startswith("failed: ")]


def test_one_command_tracks_scores_draws_and_zips(run_eval):
    result = run_eval("--submit-zip", "got10k")
    assert result.exit_code == 0, result.output + str(result.exception)
    names = [f"GOT-10k_Val_{n:06d}" for n in (1, 2, 3)]
    assert list_results(VAL) == names
    rows = (VAL / f"{names[0]}.txt").read_text().splitlines()
    assert rows[0] == "20.0000,18.0000,22.0000,17.0000"  # the given box, four decimals
    assert np.loadtxt(rows, delimiter=",").shape == (5, 4)
    document = metrics()
    values = document["datasets"]["got10k-val"]
    assert set(values["sequences"]) == set(names)
    assert values["tracker"]["got10k"]["frames"] == 4 + 5 + 6
    assert values["never_moving"]["auc"] > 0
    assert document["tracker"]["variant"] == "tiny"
    for name in ("success.png", "precision.png", "video.mp4"):
        assert (OUT / name).stat().st_size > 1000
    (packed,) = OUT.glob("*.zip")
    assert packed.name == "GOT10k-test-unofficial.zip"
    with zipfile.ZipFile(packed) as archive:
        assert "GOT-10k_Test_000002/GOT-10k_Test_000002_001.txt" in archive.namelist()
    for word in ("AUC", "AO", "never moving", str(packed)):
        assert word in result.stdout


def test_a_second_run_tracks_nothing_and_says_the_same(run_eval, monkeypatch):
    assert run_eval("--no-video").exit_code == 0
    before = (OUT / "metrics.json").read_bytes()

    def refuse(*_):
        raise AssertionError("tracked again")

    monkeypatch.setattr(engine, "Slot", refuse)
    assert run_eval("--no-video").exit_code == 0
    assert (OUT / "metrics.json").read_bytes() == before


def test_a_stopped_run_keeps_what_ended_and_goes_on_with_the_rest(run_eval, monkeypatch):
    steps = 0
    real = engine._Stages.launch

    def stop_late(self, group):
        nonlocal steps
        steps += 1
        if steps > 8:
            raise KeyboardInterrupt
        return real(self, group)

    monkeypatch.setattr(engine._Stages, "launch", stop_late)
    stopped = run_eval("--batch", "1")
    assert stopped.exit_code == 130 and "the same command goes on" in stopped.stderr
    (done,) = list_results(VAL)
    written = (VAL / f"{done}.txt").stat().st_mtime_ns
    monkeypatch.setattr(engine._Stages, "launch", real)
    assert run_eval("--batch", "1").exit_code == 0
    assert len(list_results(VAL)) == 3
    assert (VAL / f"{done}.txt").stat().st_mtime_ns == written


def test_a_result_that_is_not_whole_is_tracked_again(run_eval):
    assert run_eval("--no-video").exit_code == 0
    box_file = VAL / "GOT-10k_Val_000001.txt"
    whole = box_file.read_text()
    box_file.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    (VAL / "GOT-10k_Val_000002.txt").write_text("1,2,x\n")
    assert run_eval("--no-video").exit_code == 0
    assert box_file.read_text() == whole
    assert len(read_result(VAL, "GOT-10k_Val_000002").boxes) == 6


def test_results_of_other_weights_are_refused_until_overwrite(run_eval, tiny_predictor):
    assert run_eval("--no-video").exit_code == 0
    save_weights(WEIGHTS, tiny_predictor.network, tiny_predictor.variant, {"epoch": "11"})
    one_line_error(run_eval("--no-video"), "--overwrite", "--out")
    assert len(list_results(VAL)) == 3
    assert run_eval("--no-video", "--overwrite").exit_code == 0


def test_an_evaluation_keeps_the_number_type_it_began_with(run_eval, monkeypatch):
    for speedup, whole in ((3.0, "--limit=1"), (0.5, "--limit=2")):
        rounds = [(speedup, 1.0)] * 8
        monkeypatch.setattr(devices, "fast_dtype", lambda product, rounds=rounds: Measured.of(rounds).dtype)
        assert run_eval("--no-video", whole, dtype="auto").exit_code == 0
        assert json.loads((OUT / "tracker.json").read_text())["dtype"] == "bfloat16"
    assert len(list_results(VAL)) == 2
    assert run_eval("--no-video", "--limit=1", "--overwrite", dtype="auto").exit_code == 0
    assert json.loads((OUT / "tracker.json").read_text())["dtype"] == "float32"


def test_a_failed_sequence_is_named_and_stops_neither_the_others_nor_the_scores(run_eval, got10k_raw):
    (got10k_raw / "GOT-10k/val/GOT-10k_Val_000002/00000006.jpg").unlink()
    (got10k_raw / "GOT-10k/test/GOT-10k_Test_000001/00000001.jpg").write_bytes(b"")
    result = run_eval("--submit-zip", "got10k", "--no-video")
    first, second = failures(result)
    assert "GOT-10k_Val_000002" in first and "GOT-10k_Test_000001" in second
    document = metrics()
    assert len(document["datasets"]["got10k-val"]["sequences"]) == 2
    assert "GOT-10k_Val_000002" in document["failed"]["got10k-val"]
    assert not list(OUT.glob("*.zip"))
    assert "no zip of got10k-test" in result.stdout


def test_annotations_that_do_not_parse_fail_their_sequence_and_no_other(run_eval, got10k_raw):
    broken = got10k_raw / "GOT-10k/val/GOT-10k_Val_000002/groundtruth.txt"
    broken.write_text(broken.read_text().replace("21.0", "2x.0"))
    (got10k_raw / "GOT-10k/test/GOT-10k_Test_000002/groundtruth.txt").write_text("\n")
    result = run_eval("--submit-zip", "got10k", "--no-video")
    first, _ = failures(result)
    assert "GOT-10k_Val_000002" in first and "line" in first
    assert set(list_results(VAL)) == {"GOT-10k_Val_000001", "GOT-10k_Val_000003"}
    document = metrics()
    assert set(document["failed"]["got10k-val"]) == {"GOT-10k_Val_000002"}
    assert "no zip of got10k-test: 1 of its 2 sequences failed" in result.stdout
    assert "GOT-10k_Val_000002" in failures(run_eval("--sequences", "GOT-10k_Val_000002", "--no-video"))[0]


def test_a_tree_of_which_nothing_can_be_read_is_a_mistake(run_eval, got10k_raw):
    for file in (got10k_raw / "GOT-10k/val").glob("*/groundtruth.txt"):
        file.write_text("nothing\n")
    one_line_error(run_eval(), "groundtruth.txt", "line 1")


def test_repeated_runs_stand_beside_the_first_and_all_go_into_the_zip(run_eval, monkeypatch):
    assert run_eval("--published", "--submit-zip", "got10k", "--no-video").exit_code == 0
    for run in ("run_002", "run_003"):
        for name in list_results(VAL):
            assert (VAL / run / f"{name}.txt").read_bytes() == (VAL / f"{name}.txt").read_bytes()
    document = metrics()["datasets"]["got10k-val"]
    assert document["tracker"]["runs"] == 3
    assert document["tracker"]["got10k"]["frames"] == 3 * (4 + 5 + 6)
    (packed,) = OUT.glob("*.zip")
    with zipfile.ZipFile(packed) as archive:
        assert "GOT-10k_Test_000002/GOT-10k_Test_000002_003.txt" in archive.namelist()
    once = run_eval("--no-video")  # the first of the runs that are there
    assert once.exit_code == 0
    single = metrics()["datasets"]["got10k-val"]
    assert single["tracker"]["auc"] == pytest.approx(document["tracker"]["auc"])
    taken = []
    monkeypatch.setattr(engine, "Slot", lambda *work: taken.append(work))
    assert run_eval("--repeats", "3", "--no-video").exit_code == 0 and not taken


def test_damaged_frames_are_reported_also_by_a_second_run(run_eval, got10k_raw):
    (got10k_raw / "GOT-10k/val/GOT-10k_Val_000002/00000004.jpg").write_bytes(b"")
    for _ in range(2):
        result = run_eval("--no-video")
        assert result.exit_code == 0
        assert "1 frame of 1 sequence did not decode" in result.stdout
    document = metrics()
    assert document["damaged_frames"] == {"got10k-val": {"GOT-10k_Val_000002": 1}}


def test_parts_of_a_test_set_can_be_chosen(run_eval):
    result = run_eval("--sequences", "GOT-10k_Val_000003,GOT-10k_Val_000001", "--limit", "1")
    assert result.exit_code == 0
    assert list_results(VAL) == ["GOT-10k_Val_000001"]
    assert "1 sequence chosen" in result.stdout


def test_a_test_split_without_ground_truth_is_tracked_but_not_scored(run_eval):
    result = run_eval("--datasets", "got10k")
    assert result.exit_code == 0
    assert "ground truth is not public" in result.stdout
    assert metrics()["datasets"] == {}
    assert (OUT / "video.mp4").is_file()


def test_without_options_the_newest_run_is_taken(run_eval, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "run").rename(tmp_path / "runs" / "tiny-toy")
    (tmp_path / "runs" / "empty").mkdir()
    assert run_eval("--no-video", weights=()).exit_code == 0
    assert (tmp_path / "runs/tiny-toy/eval/epoch_0010/metrics.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--datasets", "lassot"), ("lassot", "lasot")),
        (("--datasets", "lasot"), ("LaSOT", "--root lasot=DIR")),
        (("--datasets", "got10k-tset"), ("got10k-test",)),
        (("--datasets", "coco"), ("still images",)),
        (("--root", "lasot"), ("NAME=DIR",)),
        (("--sequences", "GOT-10k_Val_00002"), ("did you mean 'GOT-10k_Val_000002'",)),
        (("--video", "none"), ("--video none",)),
        (("--video", "GOT-10k_Val_000002", "--no-video"), ("give one of them",)),
        (("--submit-zip", "got10k", "--limit", "1"), ("whole test set",)),
        (("--published", "--repeats", "2"), ("give one of them",)),
        (("--device", "gpu"), ("unknown device 'gpu'", "cuda")),
        (("--dtype", "half"), ("unknown number type 'half'",)),
        (("--weights", "x.safetensors"), ("give one of them",)),
        (("--variant", "B-224"), ("tiny", "B-224")),
        (("--variant", "B-225"), ("did you mean 'B-224'",)),
    ],
)
def test_a_users_mistake_is_one_line_and_status_two(run_eval, arguments, words):
    one_line_error(run_eval(*arguments), *words)
    assert not OUT.exists()


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (("--run", "nowhere"), ("nowhere", "lorat-train")),
        (("--weights", "no.safetensors"), ("no.safetensors",)),
        ((), ("runs", "--weights")),
        (("--run", "run"), ("model.safetensors",)),
    ],
)
def test_missing_and_damaged_weights_are_one_line_and_status_two(run_eval, weights, words):
    WEIGHTS.write_bytes(WEIGHTS.read_bytes()[:1000])
    one_line_error(run_eval(weights=weights), *words)


def test_a_checkpoint_of_whole_epochs_goes_before_a_rolling_one(run_eval):
    from lorat.evaluate.track.settings import run_weights

    folder = Path("run/checkpoints")
    for name in ("epoch_0009", "step_00099999", "epoch_0100"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(b"")
    assert run_weights(Path("run")).parent.name == "epoch_0100"
