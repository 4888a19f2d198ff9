"""A training ends in a result, which costs it nothing but time."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from lorat.evaluate.cli import main as evaluate
from lorat.evaluate.track import batch as engine
from lorat.train.cli import results
from tests.train.conftest import assert_equal, log_of, train, two_processes, weights_of, write_got10k

NAMES = [f"GOT-10k_Val_{n:06d}" for n in (1, 2, 3)]


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """GOT-10k's val split with three sequences of noise."""
    folder = tmp_path_factory.mktemp("raw")
    write_got10k(folder / "GOT-10k" / "val", dict(zip(NAMES, (4, 9, 6), strict=True)))
    return folder


@pytest.fixture
def files(files, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return [*files, "--set=train.evaluate_epochs=1"]


def scores(run: str, epoch: int) -> dict:
    path = Path(run, "eval", f"epoch_{epoch:04d}", "metrics.json")
    return json.loads(path.read_text())["datasets"]["got10k-val"]


def test_weights_are_equal_bit_for_bit_with_and_without_evaluation(files, raw):
    drops = ["--set=variant.drop_path=0.2"]  # which draws from torch's generator
    printed = train(*files, *drops, f"--raw={raw}", "--run=a").output
    train(*files, *drops, "--no-eval", "--run=b")
    assert_equal(weights_of("a"), weights_of("b"))
    assert not Path("b/eval").exists()
    for epoch in (1, 2, 3):
        assert set(scores("a", epoch)["sequences"]) == set(NAMES)
    assert "never moving" in printed and "best:    a/best.safetensors" in printed


def test_the_best_and_the_last_weights_are_named_and_logged(files, raw, monkeypatch):
    read, choose = list[str](), results.choose_test_sets
    monkeypatch.setattr(results, "choose_test_sets", lambda names, *rest: read.extend(names) or choose(names, *rest))
    train(*files, f"--raw={raw}", "--run=a", "--set=train.keep_checkpoints=1")
    assert read == ["got10k-val"]  # once, not an epoch
    result = json.loads(Path("a/result.json").read_text())
    log = log_of("a")
    reached = {e["step"] // 3: e["got10k-val/ao"] for e in log if "got10k-val/ao" in e}
    assert reached == {n: scores("a", n)["tracker"]["got10k"]["ao"] for n in (1, 2, 3)}
    assert result["best"]["score"] == max(reached.values())
    assert reached[result["best"]["epoch"]] == max(reached.values())
    assert result["last"]["epoch"] == 3
    last = load_file(f"a/{result['last']['weights']}")
    assert load_file("a/best.safetensors").keys() == last.keys()
    train(*files, f"--raw={raw}", "--run=a", "--set=train.keep_checkpoints=1", "--resume=auto")
    assert log_of("a") == log  # scored once more, and told once


def test_a_damaged_sequence_is_reported_and_does_not_end_the_training(files, raw, tmp_path):
    damaged = shutil.copytree(raw, tmp_path / "damaged")
    (damaged / "GOT-10k/val" / NAMES[1] / "00000005.jpg").unlink()
    result = train(*files, f"--raw={damaged}", "--run=a", status=1)
    assert NAMES[1] in result.stderr
    assert Path("a/checkpoints/epoch_0003/model.safetensors").is_file()
    assert NAMES[1] not in scores("a", 3)["sequences"]


def test_two_processes_track_what_one_does(files, raw):
    two_processes(*files, f"--raw={raw}", "--run-dir=two").check_returncode()
    assert set(scores("two", 3)["sequences"]) == set(NAMES)
    checkpoint = "two/checkpoints/epoch_0003/model.safetensors"
    again = ["--weights", checkpoint, "--raw", str(raw), "--out=one", "--device=cpu", "--no-video"]
    assert CliRunner().invoke(evaluate, again).exit_code == 0
    alone = json.loads(Path("one/metrics.json").read_text())["datasets"]["got10k-val"]
    measures = [each["tracker"]["got10k"] for each in (scores("two", 3), alone)]
    for measured in measures:
        measured.pop("speed")
    assert measures[0] == pytest.approx(measures[1])


def test_an_evaluation_that_was_stopped_goes_on(files, raw, monkeypatch):
    train(*files, f"--raw={raw}", "--run=a")
    out = Path("a/eval/epoch_0003")
    (out / "metrics.json").unlink()
    (out / "results/got10k-val" / f"{NAMES[1]}.txt").unlink()
    opened, real = [], engine.Slot
    monkeypatch.setattr(engine, "Slot", lambda work, *rest: opened.append(work.clip.name) or real(work, *rest))
    train(*files, f"--raw={raw}", "--run=a", "--resume=auto")
    assert opened == [NAMES[1]] and set(scores("a", 3)["sequences"]) == set(NAMES)
    # What lorat-eval would track is there.
    again = ["--run=a", "--raw", str(raw), "--device=cpu", "--no-video"]
    assert CliRunner().invoke(evaluate, again).exit_code == 0
    assert opened == [NAMES[1]]


def test_a_run_without_test_sets_says_so_and_a_wrong_folder_is_refused_at_once(files):
    result = train(*files, "--run=a", "--set=train.epochs=1")
    assert "ends without a result" in result.stderr and not Path("a/eval").exists()
    for option in ("--raw=nowhere", "--root=got10k=nowhere"):
        result = train(*files, option, "--run=b", status=2)
        assert "nowhere" in result.stderr and not Path("b").exists()
