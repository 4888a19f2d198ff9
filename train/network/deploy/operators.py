"""ONNX graphs in the operators of an older set.

PyTorch writes sets from 18 on. What the two before it lack is written here: 17 has a mean's axes as an attribute, 16
has no LayerNormalization.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lorat.shards.base.errors import UserError

if TYPE_CHECKING:
    import onnx_ir

NEWEST = 20  # the first with a GELU of its own
_WRITTEN = 18  # the oldest that PyTorch writes
_LAYER_NORM = 17  # the first with a LayerNormalization of its own


def export_options(opset: int) -> dict[str, Any]:
    """Return what `torch.onnx.export` is to be told for a set of operators that `lower` then makes of its own."""
    own = {torch.ops.aten.layer_norm.default: _layer_norm()} if opset < _LAYER_NORM else None
    return {"opset_version": max(opset, _WRITTEN), "custom_translation_table": own}


def lower(model: "onnx_ir.Model", opset: int) -> None:
    """Bring a model into a set of operators, and the file's form to what came with it; a `UserError` names an operator
    that the set lacks.
    """
    import onnx
    import onnx_ir

    for node in model.graph.all_nodes():
        if onnx.defs.get_schema(node.op_type, max(opset, _WRITTEN), node.domain).since_version <= opset:
            continue
        second = node.inputs[1] if len(node.inputs) > 1 else None
        axes = None if second is None else onnx_ir.convenience.get_const_tensor(second)
        if node.op_type == "ReduceMean" and axes is not None:
            node.resize_inputs(1)
            node.attributes.pop("noop_with_empty_axes", None)
            node.attributes["axes"] = onnx_ir.AttrInt64s("axes", axes.numpy().tolist())
        elif node.op_type != "Split" or "num_outputs" in node.attributes:
            raise UserError(f"--opset {opset}: has no {node.op_type} as this network needs it; give a newer one")
    model.opset_imports[""] = opset
    model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])


def _layer_norm() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def translate(
        x: Any, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enable: bool = True
    ) -> Any:
        """Write ``aten.layer_norm`` in parts."""
        axes: Any = op.Constant(value_ints=[*range(-len(shape), 0)])
        away = op.Sub(x, op.ReduceMean(x, axes))
        spread = op.Sqrt(op.Add(op.ReduceMean(op.Mul(away, away), axes), op.Constant(value_float=eps)))
        normal = op.Div(away, spread)
        scaled = normal if weight is None else op.Mul(normal, weight)
        return scaled if bias is None else op.Add(scaled, bias)

    return translate
