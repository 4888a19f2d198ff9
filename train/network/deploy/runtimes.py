"""Graph files at work on the processor: ONNX by onnxruntime, OpenVINO's by its own runtime.

Both are asked to compute in a named number type: left alone, OpenVINO computes in bfloat16 where a processor has it.
"""

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorat.shards.base.disk import explain_reading
from lorat.shards.base.errors import UserError

KEY = "lorat"  # of the metadata in OpenVINO's files
Arrays = dict[str, NDArray[Any]]
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino", "nncf")}
_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


@dataclass(frozen=True, eq=False, slots=True)
class Runtime:
    """A graph that is ready to compute, in one thread at a time."""

    metadata: dict[str, str]
    compute: Callable[[Arrays], list[NDArray[Any]]]

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the graph's outputs, in its order, for inputs on the processor by name."""
        return [torch.from_numpy(out) for out in self.compute({n: t.contiguous().numpy() for n, t in inputs.items()})]


def check_packages(engine: str, *needed: str) -> None:
    """Refuse (``UserError``) an engine of which a package is missing: all of its extra, or those `needed` alone."""
    if missing := [name for name in needed or _PACKAGES[engine] if importlib.util.find_spec(name) is None]:
        title = {"onnx": "ONNX", "openvino": "OpenVINO"}[engine]
        raise UserError(f"{title} needs {', '.join(missing)}: pip install 'lorat[{engine}]'")


def import_openvino() -> ModuleType:
    """Return the package, which then tells nobody that it is used: with openvino-telemetry beside it, as pip installs
    it, importing alone sends an event, unasked.
    """
    check_packages("openvino", "openvino")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def openvino_core() -> Any:
    """Return the process's one `openvino.Core`, which lives as long as it. Each that knows the processor gives its
    thread another stack for signals and, as it goes, the stack that it found. Where the first of two goes first, the
    second gives back one that is no memory any more, and the next signal that Python handles (Ctrl-C, the end of a
    loader's worker) ends the process.
    """
    core = import_openvino().Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # now, before any other, such as nncf's
    return core


def has_bfloat16() -> bool:
    """Return whether OpenVINO computes in bfloat16 on this processor."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def read_metadata(file: Path) -> dict[str, str]:
    """Return what a graph file says of itself, which is read once; a ``UserError`` if it cannot be, or says nothing."""
    with explain_reading(file):
        state = file.stat()
    return dict(_metadata(file.absolute(), state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(8)
def _metadata(file: Path, *state: int) -> dict[str, str]:
    if file.suffix == ".xml":
        return _openvino_metadata(file, _read_openvino(file))
    return _onnx_metadata(file, _onnx_session(file, 1, ready=False))


def open_graph(file: Path, threads: int, dtype: torch.dtype = torch.float32) -> Runtime:
    """Make a graph file ready, with so many threads; ONNX computes in the types of its file. A ``UserError`` tells of a
    missing package, or a file that cannot be read.
    """
    if file.suffix == ".xml":
        return _openvino(file, threads, dtype)
    session = _onnx_session(file, threads)
    return Runtime(_onnx_metadata(file, session), lambda inputs: session.run(None, inputs))


def _openvino(file: Path, threads: int, dtype: torch.dtype) -> Runtime:
    model = _read_openvino(file)
    how = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _TYPES[dtype],
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # the core that a thread is tied to may be another process's
    }
    request = openvino_core().compile_model(model, "CPU", how).create_infer_request()

    def compute(inputs: Arrays) -> list[NDArray[Any]]:
        found = request.infer(inputs, share_inputs=True, share_outputs=False)
        return [np.asarray(found[number]) for number in range(len(found))]

    return Runtime(_openvino_metadata(file, model), compute)


def _read_openvino(file: Path) -> Any:
    try:
        return openvino_core().read_model(file)
    except RuntimeError as error:
        raise UserError(f"{file}: OpenVINO cannot read it ({_short(error)}); export it again") from None


def _openvino_metadata(file: Path, model: Any) -> dict[str, str]:
    if not model.has_rt_info([KEY]):
        raise UserError(f"{file}: no graph of ours; write one with lorat-eval export-weights --openvino")
    known: dict[str, str] = json.loads(model.get_rt_info([KEY]).astype(str))
    return known


def _onnx_session(file: Path, threads: int, *, ready: bool = True) -> Any:
    """Open a file, `ready` to compute as fast as can be, or as fast as can be opened."""
    check_packages("onnx", "onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if not ready:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no type of their own in common
        if type(error).__module__.partition(".")[0] != "onnxruntime":
            raise
        raise UserError(f"{file}: onnxruntime cannot read it ({_short(error)}); export it again") from None


def _onnx_metadata(file: Path, session: Any) -> dict[str, str]:
    known = dict(session.get_modelmeta().custom_metadata_map)
    if "lorat" not in known:
        raise UserError(f"{file}: no graph of ours; write one with lorat-eval export-weights --onnx")
    return known


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
