"""Evaluations in real processes: several at once, killed, and interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.evaluate.conftest import moving_box, write_frames
from tests.evaluate.segment.tiny import save_tiny_sam

LENGTHS = (30, 4, 26, 5, 9, 40, 3, 12)
NAMES = [f"GOT-10k_Val_{n:06d}" for n in range(1, len(LENGTHS) + 1)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """GOT-10k's val split with sequences of very different lengths."""
    val = tmp_path / "raw" / "GOT-10k" / "val"
    for seed, (name, frames) in enumerate(zip(NAMES, LENGTHS, strict=True)):
        _write_sequence(val / name, frames, seed)
    (val / "list.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path / "raw"


def _write_sequence(folder: Path, frames: int, seed: int) -> None:
    write_frames(folder, min(frames, 40), seed)
    for index in range(40, frames):  # the same again
        os.link(folder / f"{index % 40 + 1:08d}.jpg", folder / f"{index + 1:08d}.jpg")
    boxes = [moving_box(index % 40, seed) for index in range(frames)]
    lines = [f"{x1},{y1},{x2 - x1},{y2 - y1}\n" for x1, y1, x2, y2 in boxes]
    (folder / "groundtruth.txt").write_text("".join(lines))
    (folder / "absence.label").write_text("0\n" * frames)
    (folder / "cover.label").write_text("8\n" * frames)


@pytest.fixture
def command(tiny_weights: Path, raw: Path):
    """Return the arguments of an evaluation into a folder, and its environment."""
    fixed = ["--weights", str(tiny_weights), "--raw", str(raw), "--datasets", "got10k-val"]
    fixed += ["--dtype", "float32", "--device", "cpu", "--no-video", "--batch", "2"]

    def arguments(out: Path, *launch: str) -> list[str]:
        python = [sys.executable, *launch, "-m", "lorat.evaluate.cli"]
        return [*python, *fixed, "--out", str(out)]

    return arguments


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def _boxes(out: Path) -> dict[str, str]:
    folder = out / "results" / "got10k-val"
    return {name: (folder / f"{name}.txt").read_text() for name in NAMES}


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, check=True, capture_output=True, text=True, env=ENVIRONMENT, timeout=240)


def test_two_processes_give_the_files_and_scores_of_one_and_one_speaks(command, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    _run(command(one))
    masks = ["--segment=sam", f"--segment-weights={save_tiny_sam(tmp_path / 'sam.pth')}", "--segment-files=rle"]
    printed = _run([*command(two, *TWO), *masks]).stdout
    assert printed.count("Scores in per cent") == 1
    first, second = _boxes(one), _boxes(two)
    for name in NAMES:
        for a, b in zip(first[name].split(), second[name].split(), strict=True):
            pairs = zip(a.split(","), b.split(","), strict=True)
            assert all(abs(float(x) - float(y)) <= 0.01 for x, y in pairs)
    scores = [json.loads((out / "metrics.json").read_text())["datasets"]["got10k-val"]["tracker"] for out in (one, two)]
    assert scores[0]["got10k"]["ao"] == pytest.approx(scores[1]["got10k"]["ao"], abs=1e-4)
    assert "2 processes" in (two / "speed.json").read_text()
    files = {path.stem: path.read_text().splitlines() for path in two.glob("masks/*/*.jsonl")}
    assert {name: len(lines) for name, lines in files.items()} == dict(zip(NAMES, LENGTHS, strict=True))


def test_a_mistake_is_said_once_and_ends_all_processes(command, tmp_path):
    (tmp_path / "two" / "results" / "got10k-val").mkdir(parents=True)
    (tmp_path / "two" / "results" / "got10k-val" / "x.txt").write_text("1,2,3,4\n")
    ended = subprocess.run(
        command(tmp_path / "two", *TWO), capture_output=True, text=True, env=ENVIRONMENT, timeout=240, check=False
    )
    assert ended.returncode != 0
    assert ended.stderr.count("holds results of other weights") == 1


def _wait_for_a_result(out: Path, process: subprocess.Popen) -> None:
    until = time.monotonic() + 120
    while not list(out.glob("results/*/GOT*[0-9].txt")):
        assert process.poll() is None, "ended before it was stopped"
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_evaluation_leaves_whole_results_and_goes_on(command, raw, tmp_path, number):
    """The longest sequence is under way when the first result is seen."""
    long, out = LENGTHS.index(max(LENGTHS)), tmp_path / "out"
    _write_sequence(raw / "GOT-10k" / "val" / NAMES[long], 500, long)
    process = subprocess.Popen(command(out), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    _wait_for_a_result(out, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on" in said and "Traceback" not in said
    there = {path: path.read_bytes() for path in out.glob("results/*/GOT*[0-9].txt")}
    assert 0 < len(there) < len(NAMES)
    for path in there:
        index = NAMES.index(path.stem)
        assert index != long and len(path.read_text().splitlines()) == LENGTHS[index]
    _run(command(out))
    assert all(path.read_bytes() == data for path, data in there.items())
    _run(command(tmp_path / "whole"))
    assert _boxes(out) == _boxes(tmp_path / "whole")
