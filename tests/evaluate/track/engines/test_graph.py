"""Graphs track as PyTorch does, and what was tracked by one engine is not gone on with by another."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lorat.evaluate.cli import main
from lorat.evaluate.cli.vot import _settled, _tracker_command
from lorat.evaluate.results.files import list_results
from lorat.evaluate.track.engines import graph as engines
from lorat.evaluate.track.predictor import Predictor
from lorat.evaluate.track.settings import TrackerSettings
from lorat.evaluate.track.tracker import Targets
from lorat.shards.base.errors import UserError
from lorat.train.network.deploy import runtimes
from lorat.train.network.deploy.graphs import MARK, export_graphs, graph_parts
from lorat.train.network.deploy.runtimes import open_graph, read_metadata
from tests.evaluate.conftest import moving_box, picture
from tests.evaluate.mistakes import one_line_error

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
_OF_ENGINES = [("lorat", "onnx"), ("spmtrack", "onnx"), ("spmtrack", "openvino"), ("loratv2", "openvino")]


def tracked(predictor: Predictor, frames: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and scores of two objects in one video."""
    targets = Targets(predictor)
    targets.start(picture(0, 0), [moving_box(0, 0), moving_box(0, 3)])
    found = [targets.track(picture(index, 0)) for index in range(1, frames)]
    return np.array([[one[0] for one in both] for both in found]), np.array(
        [[one[1] for one in both] for both in found]
    )


@pytest.mark.parametrize(("method", "engine"), _OF_ENGINES)
def test_a_graph_tracks_as_pytorch_does(method, engine, small, tmp_path):
    pytest.importorskip("onnxruntime" if engine == "onnx" else "openvino")
    own, file = small(method), tmp_path / f"net{SUFFIXES[engine]}"
    export_graphs(file, own.network, own.variant)
    loaded = Predictor.load(TrackerSettings(weights=(file,), dtype="float32"))
    assert loaded.variant == own.variant and loaded.network.fingerprint == own.network.fingerprint
    assert all(parameter.is_meta for parameter in loaded.network.parameters())  # the weights are there once
    for ours, theirs, atol in zip(tracked(own), tracked(loaded), (0.02, 1e-3), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=atol)


def test_weights_are_exported_once_and_results_are_of_their_engine(tiny_weights, got10k_raw, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str):
        fixed = ("--raw", str(got10k_raw), "--dtype=float32", "--no-video", "--datasets=got10k-val")
        return CliRunner().invoke(main, [*fixed, *arguments])

    first = run("--run=run", "--engine=openvino", "--limit=2")
    assert first.exit_code == 0, first.output
    said = json.loads(Path("run/eval/epoch_0010/tracker.json").read_text())
    assert said["engine"] == "openvino" and said["dtype"] == "float32"
    (machine,) = json.loads(Path("run/eval/epoch_0010/speed.json").read_text())["measured_on"]
    assert "openvino float32" in machine
    one_line_error(run("--run=run"), "--engine", "--out")
    (graph,) = (tmp_path / "cache/graphs").glob("*/lorat.xml")
    monkeypatch.setattr(engines, "export_graphs", None)  # it is there
    assert run("--run=run", "--engine=openvino").exit_code == 0
    assert run(f"--weights={graph}", "--out=named", "--limit=1").exit_code == 0
    names = list_results(Path("named/results/got10k-val"))
    for name in names:
        boxes = [Path(out, f"results/got10k-val/{name}.txt").read_text() for out in ("run/eval/epoch_0010", "named")]
        assert boxes[0] == boxes[1]
    assert len(names) == 1
    frames = str(got10k_raw / "GOT-10k/val/GOT-10k_Val_000001")
    seen = CliRunner().invoke(main, ["video", frames, "--box=20,18,22,17", f"--weights={graph}", "--out=own.mp4"])
    assert seen.exit_code == 0 and len(Path("own.csv").read_text().splitlines()) == 6, seen.output
    settled = _settled(TrackerSettings(weights=(tiny_weights,), engine="openvino", dtype="float32"), Path("unused"))
    assert f"--weights={graph}" in _tracker_command(settled)  # of the tracker that VOT's toolkit starts
    weights = graph.with_name("lorat.template.bin")
    weights.write_bytes(weights.read_bytes() + b"0")
    one_line_error(run(f"--weights={graph}", "--out=named", "--limit=1"), "--overwrite")


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory) -> list[Path]:
    """The files of a small tracker's graphs."""
    pytest.importorskip("openvino")
    own, file = small("lorat"), tmp_path_factory.mktemp("graphs") / "lorat.xml"
    export_graphs(file, own.network, own.variant)
    return graph_parts(file)


@pytest.fixture
def exports(exported, monkeypatch) -> list[Path]:
    """The tracking graphs that are exported into the cache; each is a copy, which is quick."""
    done = []

    def export(file: Path, *_, **__):
        done.append(file)
        time.sleep(0.2)
        for part in exported:
            shutil.copy(part, file.parent / f".{part.name}")
            (file.parent / f".{part.name}").replace(file.parent / part.name)

    monkeypatch.setattr(engines, "export_graphs", export)
    return done


@pytest.fixture
def cached(tiny_weights, tmp_path, monkeypatch) -> TrackerSettings:
    """A tracker by OpenVINO, with an empty cache."""
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))
    return TrackerSettings(weights=(tiny_weights,), engine="openvino", dtype="float32")


def test_a_graph_in_the_cache_that_lacks_a_part_or_does_not_open_is_exported_once_more(cached, exports, said):
    for harm in (None, Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:200]), None):
        if harm is not None:
            harm(exports[0].with_name("lorat.template.xml"))
        assert np.isfinite(tracked(Predictor.load(cached), 2)[0]).all()
    assert len(exports) == 3
    assert len([line for line in said.messages if "cannot read it" in line and "done now" in line]) == 1


def test_of_those_who_need_a_graph_at_once_one_exports_it(cached, exports):
    network, variant = cached.load_network()
    with ThreadPoolExecutor(3) as pool:
        files = set(pool.map(lambda _: engines.graph_of("openvino", network, variant, {}, ["one"]), range(3)))
    assert [*files] == exports


def test_a_cache_that_takes_no_files_is_named(cached, exports, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written .*LORAT_CACHE"):
        Predictor.load(cached)


def test_graphs_of_different_weights_do_not_go_together(exported, tmp_path):
    for part in exported:
        shutil.copy(part, tmp_path)
    template, mark = tmp_path / "lorat.template.xml", read_metadata(exported[0])[MARK]
    template.write_text(template.read_text().replace(mark, "xxh3:another"))
    with pytest.raises(UserError, match=r"lorat\.template\.xml: is of other weights than lorat\.xml; export them"):
        Predictor.load(TrackerSettings(weights=(tmp_path / "lorat.xml",), dtype="float32"))


def test_a_graph_is_read_once_for_what_it_says_and_not_compiled_again(exported, monkeypatch):
    reads, read = [], runtimes._openvino_metadata
    monkeypatch.setattr(runtimes, "_openvino_metadata", lambda file, model: reads.append(file) or read(file, model))
    with pytest.raises(UserError, match="compile: is for PyTorch alone"):
        Predictor.load(TrackerSettings(weights=(exported[0],))).compile(1)
    assert reads.count(exported[0]) <= 2  # once, and as it is opened


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--engine=openvino", "--device=cuda"), ("--device cuda", "processor")),
        (("--engine=onnx", "--dtype=bfloat16"), ("--dtype bfloat16", "float32")),
        (("--engine=openvino", "--dtype=float16"), ("--dtype float16", "bfloat16")),
        (("--engine=onnx", "--dtype=float32", "--compile"), ("--compile", "PyTorch")),
    ],
)
def test_what_an_engine_cannot_do_is_one_line(arguments, words, tiny_weights, got10k_raw, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    command = ["--run=run", f"--raw={got10k_raw}", "--no-video", "--limit=1", *arguments]
    one_line_error(CliRunner().invoke(main, command), *words)


@pytest.mark.parametrize(
    ("weights", "settings", "words"),
    [
        ("net.xml", {"engine": "onnx"}, "a graph for openvino"),
        ("net.xml", {"variant": "B-224"}, "--variant: has no meaning"),
        ("net.onnx", {}, "cannot read it"),
        ("net.xml", {}, "cannot read it"),
    ],
)
def test_what_does_not_go_with_a_graph_is_one_line(weights, settings, words, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    (tmp_path / weights).write_text("nothing")
    with pytest.raises(UserError, match=words):
        Predictor.load(TrackerSettings(weights=(tmp_path / weights,), **settings))


@pytest.mark.parametrize("engine", SUFFIXES)
def test_a_missing_package_is_named_with_its_extra(engine, tiny_weights, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    missing = {"onnx": "onnxruntime", "openvino": "openvino"}[engine]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(UserError, match=rf"{missing}: pip install 'lorat\[{engine}\]'"):
        Predictor.load(TrackerSettings(weights=(tiny_weights,), engine=engine, dtype="float32"))


def test_a_graph_of_another_program_is_told(tmp_path):
    openvino = pytest.importorskip("openvino")
    model = openvino.convert_model(torch.nn.Linear(2, 2), example_input=torch.zeros(1, 2))
    openvino.save_model(model, tmp_path / "other.xml")
    with pytest.raises(UserError, match=r"other\.xml: no graph of ours"):
        open_graph(tmp_path / "other.xml", 1)


def test_a_signal_is_heard_after_graphs_were_dropped_in_any_order(small, tmp_path):
    pytest.importorskip("openvino")
    export_graphs(tmp_path / "net.xml", small("lorat").network, small("lorat").variant)
    code = (
        "import os, signal, sys, torch, pathlib; from lorat.train.network.deploy.runtimes import open_graph as load\n"
        "files = sorted(pathlib.Path(sys.argv[1]).glob('*.xml'))\n"
        "graphs = [load(file, 1) for file in files]\n"
        "while graphs: del graphs[0]\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('heard'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)})
    assert done.returncode == 0 and done.stdout == "heard\n", (done.returncode, done.stderr)


def test_importing_openvino_tells_nobody(tmp_path):
    pytest.importorskip("openvino")
    code = "from lorat.train.network.deploy.runtimes import import_openvino as load; load(); import nncf"
    env = {"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
    assert not (tmp_path / "intel").exists()
