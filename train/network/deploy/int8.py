"""Tracking graphs in int8.

OpenVINO: matrices, and what comes into their products, scaled by examples of real inputs. onnxruntime: matrices; what
comes in is scaled anew in every frame. The patches' product, the head, norms, softmax, the residual stream and the
graphs of templates stay as they are; docs/deploy.md says what was tried.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from torch import Tensor

from lorat.train.network.deploy.runtimes import KEY, check_packages, import_openvino, openvino_core, read_metadata

INT8 = {"numbers": "int8"}
"""In the metadata of such graphs."""

_HEAD = 6  # layers, whose products are a graph's last: they decide the box, at 2 % of the work
_PRODUCTS = ["MatMul", "Gemm"]  # of ONNX
Examples = Sequence[Mapping[str, Tensor]]
"""Inputs of a tracking graph by name, of one crop each."""


def quantise_openvino(file: Path, examples: Examples, known: Mapping[str, str]) -> None:
    """Bring a tracking graph to int8 in its place, scaled by examples; what is `known` goes into its metadata."""
    openvino = import_openvino()
    check_packages("openvino")
    import nncf

    nncf.set_log_level(logging.ERROR)
    metadata = read_metadata(file) | INT8 | dict(known)
    arrays = [{name: tensor.numpy() for name, tensor in example.items()} for example in examples]
    model = openvino_core().read_model(file, config={"ENABLE_MMAP": False})  # the file is written over
    named = [(op.get_type_name(), op.get_friendly_name()) for op in model.get_ordered_ops()]
    exact = [name for kind, name in named if kind == "MatMul"][-_HEAD:]
    exact += [name for kind, name in named if kind == "Convolution"]
    how = {"model_type": nncf.ModelType.TRANSFORMER, "ignored_scope": nncf.IgnoredScope(names=exact)}
    with redirect_stdout(sys.stderr):  # where it shows how far it is
        model = nncf.quantize(model, nncf.Dataset(arrays), subset_size=len(arrays), **how)
    model.set_rt_info(json.dumps(metadata), [KEY])
    openvino.save_model(model, file, compress_to_fp16=False)


def quantise_onnx(file: Path, known: Mapping[str, str]) -> None:
    """Bring a tracking graph to int8 in its place; what is `known` goes into its metadata."""
    check_packages("onnx")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    metadata, beside = read_metadata(file) | INT8 | dict(known), Path(f"{file}.data").exists()
    how: dict[str, Any] = {"weight_type": QuantType.QInt8, "per_channel": True, "use_external_data_format": beside}
    model = onnx.load(file)
    products = [node.name for node in model.graph.node if node.op_type in _PRODUCTS]
    quantize_dynamic(model, file, op_types_to_quantize=_PRODUCTS, nodes_to_exclude=products[-_HEAD:], **how)
    model = onnx.load(file, load_external_data=False)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, file)
