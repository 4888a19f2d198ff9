"""The benchmark for GPUs runs on a processor with tiny sizes, so that it is known to work before a GPU is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_parts
from benchmarks.gpu import PARTS, measure
from benchmarks.gpu_parts import Bench

ROOT = Path(__file__).parents[2]


def test_every_part_measures_something(tmp_path):
    report = measure(Bench(torch.device("cpu"), True, tmp_path, compiles=False), PARTS, 600.0)
    assert report.left_out == {}
    assert [name.replace("_", " ") for name in map(lambda part: part.__name__, PARTS)] == list(report.figures)
    assert all(report.figures.values())
    golden = dict(report.figures["golden arrays"])
    assert golden["tiny network, float32"]["within 0.0001"] == "holds"
    assert golden["choice of the box"] == {"cells": "all the same"}
    assert dict(report.figures["resume"])["S-224, stopped after 3 of 6 steps"] == {"weights": "equal bit for bit"}


class _Asynchronous(Bench):
    """A device that has done its work only when it was waited for."""

    def wait(self) -> None:
        self.pending = 0

    def work(self) -> None:
        self.pending += 1
        self.most = max(getattr(self, "most", 0), self.pending)


def test_no_clock_is_read_while_the_device_works(tmp_path, monkeypatch):
    bench = _Asynchronous(torch.device("cpu"), False, tmp_path)
    bench.pending, read = 0, []
    monkeypatch.setattr(gpu_parts.time, "perf_counter", lambda: read.append(bench.pending) or float(len(read)))
    assert bench.seconds(bench.work, 3) == 1.0
    assert bench.most == 1 and read == [0] * 8


def test_a_part_that_fails_or_comes_too_late_is_told_and_costs_no_other(tmp_path):
    def broken(bench):
        yield "first", {"ms": 1.0}
        raise RuntimeError("no such kernel")

    def sound(bench):
        yield "second", {"ms": 2.0}

    bench = Bench(torch.device("cpu"), True, tmp_path)
    report = measure(bench, (broken, sound), 60.0)
    assert report.figures == {"broken": [("first", {"ms": 1.0})], "sound": [("second", {"ms": 2.0})]}
    assert report.left_out == {"broken": "RuntimeError: no such kernel"}
    assert list(measure(bench, (sound,), -1.0).left_out) == ["sound"]


def test_on_a_bare_machine_it_says_which_wheels_are_missing(tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    environment = {**os.environ, "PYTHON": str(bare / "bin" / "python"), "PYTHONPATH": ""}
    done = subprocess.run(
        ["sh", str(ROOT / "tools" / "bench_gpu.sh")], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "pip download" in done.stderr and "zstandard" in done.stderr
    assert "pip wheel -w wheels --no-deps 'PyTurboJPEG<2'" in done.stderr


@pytest.mark.parametrize("where", [[], ["--device", "cpu"]])
def test_without_a_gpu_nothing_is_measured_that_could_be_taken_for_one(where):
    if torch.cuda.is_available() and not where:
        pytest.skip("here is a GPU")
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu", *where], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "no GPU here" in done.stderr
