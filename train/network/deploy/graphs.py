"""The network as files that run without this project: ONNX, OpenVINO's, and PyTorch's own export.

Two graphs. The template's runs once for each sequence, or where its templates change, and gives tokens (LoRATv2: a
memory of keys and values); the tracking graph runs once for each frame, on what the first gave and a search crop, and
SPMTrack's on the state that it gave itself a frame before (zeros at first). LoRATv2's second phase has a third, which
puts a reference into the memory. All take crops as they are cut, float32 RGB on 0 … 255 with channels last, and
normalise them. The batch axis is free, all other sizes are fixed. A file of ONNX or OpenVINO is written only after its
runtime gave the network's own boxes to 1e-3. Axes: B batch, T template tokens, D channels; g and G are the sides of the
two grids.
"""

import copy
import json
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from lorat.configs.schema import VariantConfig
from lorat.shards.base.disk import check_apart, check_can_write, enduring, explain_disk
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import remove_file
from lorat.train.network.blocks.lora import Streams
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.blocks.loratv2 import LoRATv2
from lorat.train.network.blocks.spmtrack import SPMTrack
from lorat.train.network.deploy import RUNTIMES
from lorat.train.network.deploy.operators import NEWEST, export_options, lower
from lorat.train.network.deploy.runtimes import KEY, check_packages, import_openvino, open_graph
from lorat.train.network.weights.containers import fingerprint

_ONE_FILE = 2**31 - 2**26  # protobuf's limit, less some room for the graph
_TOLERANCE = 1e-3
MARK = "weights_fingerprint"  # in the metadata: the same in graphs that belong together
_LAYOUT = "float32 RGB on 0...255, (batch, height, width, 3); the graph normalises it"


class _Normalise(nn.Module):
    """Crops as they are cut become what the network takes."""

    scale: Tensor
    shift: Tensor

    def __init__(self, variant: VariantConfig) -> None:
        super().__init__()
        mean, std = torch.tensor(variant.mean), torch.tensor(variant.std)
        self.register_buffer("scale", 1.0 / (255.0 * std), persistent=False)
        self.register_buffer("shift", mean / std, persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        """Return (…, 3, H, W) for (…, H, W, 3) on 0 … 255."""
        return (crops * self.scale - self.shift).movedim(-1, -3)


class _TemplateGraph(nn.Module):
    def __init__(self, network: OneStream, variant: VariantConfig) -> None:
        super().__init__()
        self.network, self.normalise, self.several = copy.copy(network), _Normalise(variant), variant.templates > 1
        if isinstance(network, LoRATv2):
            self.network = _with_stream(network, 0)
        else:
            # A torch.export file holds every tensor of its module, used or not.
            used = {name: part for name, part in network.named_children() if name not in ("blocks", "norm", "head")}
            self.network.__dict__["_modules"] = used

    def forward(self, template: Tensor, template_mask: Tensor) -> Tensor:
        """Return what a sequence is to be tracked with (B, …), for a (B, h, w, 3) crop and a (B, g, g) bool mask, or
        for N of both, (B, N, h, w, 3) and (B, N, g, g).
        """
        template = self.normalise(template)
        if self.several:
            return self.network.remember(template, template_mask)
        return self.network.remember(template[:, None], template_mask[:, None])


class _ReferenceGraph(nn.Module):
    def __init__(self, network: LoRATv2, variant: VariantConfig) -> None:
        super().__init__()
        self.network, self.normalise = _with_stream(network, 1), _Normalise(variant)

    def forward(self, template_memory: Tensor, reference: Tensor) -> Tensor:
        """Return the whole memory (B, L, 2, H, M, d), for a template's and a (B, r, r, 3) crop."""
        return self.network.remember_reference(template_memory, self.normalise(reference))


class _TrackGraph(nn.Module):
    def __init__(self, network: OneStream, variant: VariantConfig) -> None:
        super().__init__()
        self.network, self.normalise = network, _Normalise(variant)
        if isinstance(network, LoRATv2):
            self.network = _with_stream(network, variant.streams - 1)

    def forward(self, template_tokens: Tensor, search: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return score logits (B, G, G), boxes (B, G, G, 4) and, where there is a state, the next one, for what the
        other graphs give and (B, H, W, 3).
        """
        prediction, after = self.network.follow(template_tokens, self.normalise(search), state)
        return (*prediction,) if after is None else (*prediction, after)


class _MemoryGraph(_TrackGraph):
    def forward(self, memory: Tensor, search: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return what `_TrackGraph` does, for a memory (B, L, 2, H, M, d); its inputs are called as they are."""
        return super().forward(memory, search)


def _with_stream(network: LoRATv2, stream: int) -> LoRATv2:
    """Return a network that has the layers of one stream alone, its tensors the network's own."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    own = copy.deepcopy(network, memo)
    for layer in own.modules():
        if isinstance(layer, Streams):
            for other in range(len(layer)):
                layer[other] = layer[other] if other == stream else nn.Identity()
    return own


@dataclass(frozen=True, eq=False, slots=True)
class _Graph:
    """One file: what is computed, on which examples (a batch of two), and what the results are called."""

    file: Path
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    metadata: dict[str, str]

    def result(self) -> Tensor:
        """Return what the module gives for the example, where that is one tensor."""
        with torch.inference_mode():
            result: Tensor = self.module(**self.inputs)
        return result.clone()

    @property
    def free(self) -> dict[str, dict[int, torch.export.Dim]]:
        """The batch axis of every input."""
        batch = torch.export.Dim("batch")
        return {name: {0: batch} for name in self.inputs}


def template_file(file: Path) -> Path:
    """Return where the template's graph lies beside the tracking graph: lorat.template.onnx."""
    return file.with_name(f"{file.stem}.template{file.suffix}")


def reference_file(file: Path) -> Path:
    """Return where the graph of LoRATv2's references lies beside the tracking graph."""
    return file.with_name(f"{file.stem}.reference{file.suffix}")


def graph_parts(file: Path) -> list[Path]:
    """Return the files that are there of the graph of which `file` is the tracking graph, with their weights."""
    return [part for part in _names(file) if part.is_file()]


def graphs_of(file: Path, variant: VariantConfig) -> list[Path]:
    """Return the graphs of a variant, of which `file` is the tracking graph and comes first."""
    others = [template_file(file), *([reference_file(file)] if variant.reference_size is not None else [])]
    return [file, *others]


def _names(file: Path) -> list[Path]:
    """Return the graphs that may belong to the tracking graph `file`, and the files of their weights."""
    graphs = [file, template_file(file), reference_file(file)]
    beside = {".xml": lambda graph: graph.with_suffix(".bin"), ".onnx": lambda graph: Path(f"{graph}.data")}
    return graphs + [beside[file.suffix](graph) for graph in graphs if file.suffix in beside]


def graph_metadata(variant: VariantConfig, network: OneStream) -> dict[str, str]:
    """Return what a user of the files has to know: plain strings, lists and numbers as JSON."""
    grids = {"template_grid": network.template_grid, "search_grid": network.search_grid}
    of_variant = {"template_size", "search_size", "template_factor", "search_factor", "mean", "std"}
    if variant.method != "lorat":
        of_variant |= {"method", "templates", "window_weight"}
    if variant.reference_size is not None:
        of_variant |= {"reference_size", "reference_factor", "reference_threshold"}
    known = variant.model_dump(include=of_variant) | grids
    return {
        "variant": variant.name,
        "configuration": variant.model_dump_json(),
        "plan": network.plan.model_dump_json(),
        **{name: json.dumps(value) for name, value in known.items()},
        "crops": _LAYOUT,
        "score_map": "logits, one a cell",
        "boxes": "x1, y1, x2, y2 in units of the search crop, one a cell",
        "backbone": variant.backbone.timm,
        "backbone_fingerprint": network.fingerprint,
        "lorat": version("lorat"),
    }


def check_target(file: Path, suffix: str, *, overwrite: bool, sources: Collection[Path] = ()) -> None:
    """See that graphs can be written to `file`, the tracking graph's, and beside it; a ``UserError`` tells of another
    suffix, of files that exist and are not to be replaced, or are never, since they are `sources` of the graphs, of a
    disk that takes none, and of packages that are missing.
    """
    if file.suffix != suffix:
        raise UserError(f"{file}: the name of such a graph ends in {suffix}")
    for path in _names(file):
        check_apart(path, sources)
        if path.exists() and not overwrite:
            raise UserError(f"{path}: exists; give another --out, or --overwrite")
    if suffix in RUNTIMES:
        check_packages(RUNTIMES[suffix])
    check_can_write(file)


def export_graphs(
    file: Path,
    network: OneStream,
    variant: VariantConfig,
    opset: int = NEWEST,
    known: Mapping[str, str] = MappingProxyType({}),
    quantise: Callable[[Path], None] = lambda file: None,
) -> list[Path]:
    """Write the tracking graph to `file` and the others beside it, and return all names in that order. The network
    is as `load_network` returns it in float32: merged and frozen, on the CPU; what is `known` goes into the metadata
    too. ONNX networks are in operators of the set `opset`, and above 2 GB have their weights in a second file each,
    ``<file>.data``; OpenVINO's (``.xml``) always have, a ``.bin``. Programs of ``torch.export`` (``.pt2``) hold the
    metadata as ``metadata.json``. `quantise` may change the tracking graph's file once it is found right. A
    ``UserError`` tells as in `check_target`, and where a runtime computes other boxes.
    """
    writers: dict[str, Callable[[_Graph, Path], None]] = {
        ".onnx": partial(_write_onnx, opset=opset),
        ".xml": _write_openvino,
        ".pt2": _write_torch,
    }
    if file.suffix not in writers:
        raise UserError(f"{file}: the name of a graph ends in {' or '.join(writers)}")
    check_target(file, file.suffix, overwrite=True)
    folder, graphs = file.parent, _graphs(file, network, variant, known)
    beside: dict[str, Any] = {"dir": folder, "prefix": ".export-", "ignore_cleanup_errors": True}
    written = set[Path]()
    for graph in reversed(graphs):  # the tracking graph last: where it is, all are
        with explain_disk(graph.file):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(**beside) as place:
                writers[file.suffix](graph, Path(place) / graph.file.name)
                if graph is graphs[0]:
                    quantise(Path(place) / graph.file.name)
                # The weights, where they have a file of their own, come before the graph that names them.
                for part in sorted(Path(place).iterdir(), key=lambda path: path.name == graph.file.name):
                    part.replace(folder / part.name)
                    written.add(folder / part.name)
    for stale in {*graph_parts(file)} - written:  # of what stood here before
        remove_file(stale)
    return [graph.file for graph in graphs]


def _graphs(file: Path, network: OneStream, variant: VariantConfig, known: Mapping[str, str]) -> list[_Graph]:
    """Return the tracking graph and those of what it needs, with seeded examples."""
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in network.parameters()):
        raise ValueError("networks are exported in float32 and on the CPU")
    draw, grid = torch.Generator().manual_seed(0), network.template_grid

    def crops(side: int, *count: int) -> Tensor:
        return torch.rand(2, *count, side, side, 3, generator=draw) * 255.0

    count = (variant.templates,) if variant.templates > 1 else ()
    mask = torch.zeros(2, *count, grid, grid, dtype=torch.bool)
    mask[..., grid // 4 : grid - grid // 4, grid // 4 : grid - grid // 4] = True
    about = graph_metadata(variant, network) | dict(known) | {MARK: fingerprint(network.state_dict())}
    name = "memory" if isinstance(network, LoRATv2) else "template_tokens"
    first = "template_memory" if variant.reference_size else name
    embed = {"template": crops(variant.template_size, *count), "template_mask": mask}
    module: nn.Module = _TemplateGraph(network, variant).eval()
    graphs = [_Graph(template_file(file), module, embed, (first,), about | {"graph": "template"})]
    if isinstance(network, LoRATv2) and variant.reference_size is not None:
        refer = {first: graphs[0].result(), "reference": crops(variant.reference_size)}
        module = _ReferenceGraph(network, variant).eval()
        graphs.append(_Graph(reference_file(file), module, refer, (name,), about | {"graph": "reference"}))
    outputs: tuple[str, ...] = ("score_map", "boxes")
    track = {name: graphs[-1].result(), "search": crops(variant.search_size)}
    if isinstance(network, SPMTrack):
        track["state"], outputs = torch.zeros(2, 1, network.plan.width), (*outputs, "next_state")
    tracking = (_MemoryGraph if name == "memory" else _TrackGraph)(network, variant).eval()
    return [_Graph(file, tracking, track, outputs, about | {"graph": "track"}), *graphs]


def _program(graph: _Graph) -> torch.export.ExportedProgram:
    return torch.export.export(graph.module, (), kwargs=graph.inputs, dynamic_shapes=graph.free, strict=False)


def _write_torch(graph: _Graph, file: Path) -> None:
    with file.open("wb") as opened, enduring(opened) as taking:
        torch.export.save(_program(graph), taking, extra_files={"metadata.json": json.dumps(graph.metadata)})


def _write_openvino(graph: _Graph, file: Path) -> None:
    openvino = import_openvino()
    model = openvino.convert_model(_program(graph))
    named = [*zip(model.inputs, graph.inputs, strict=True), *zip(model.outputs, graph.outputs, strict=True)]
    for port, name in named:
        port.get_tensor().set_names({name})
    model.reshape({name: openvino.PartialShape([-1, *example.shape[1:]]) for name, example in graph.inputs.items()})
    model.set_rt_info(json.dumps(graph.metadata), [KEY])
    openvino.save_model(model, file, compress_to_fp16=False)
    _check(graph, file)


def _write_onnx(graph: _Graph, file: Path, opset: int) -> None:
    with warnings.catch_warnings():
        # That both inputs have one batch axis is meant.
        warnings.filterwarnings("ignore", message="# The axis name")
        names: dict[str, Any] = {"input_names": list(graph.inputs), "output_names": list(graph.outputs)}
        how: dict[str, Any] = export_options(opset) | {"dynamo": True, "verbose": False}
        program = torch.onnx.export(graph.module, (), kwargs=graph.inputs, dynamic_shapes=graph.free, **names, **how)
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    lower(program.model, opset)
    program.model.metadata_props.update(graph.metadata)
    size = sum(t.nbytes for t in graph.module.state_dict().values())
    program.save(file, external_data=size > _ONE_FILE)
    _check(graph, file)


def _check(graph: _Graph, file: Path) -> None:
    """Refuse an output of a file's runtime that is not the network's to 1e-3, on a batch of two and on one alone."""
    run = open_graph(file, 1)
    for count in (2, 1):
        inputs = {name: example[:count] for name, example in graph.inputs.items()}
        with torch.inference_mode():
            own = graph.module(**inputs)
        own = own if isinstance(own, tuple) else (own,)
        for name, ours, theirs in zip(graph.outputs, own, run(inputs), strict=True):
            away = (ours - theirs).abs().max().item()
            if not away <= _TOLERANCE * max(1.0, ours.abs().max().item()):
                package = "openvino" if file.suffix == ".xml" else "onnxruntime"
                what = f"{package} {version(package)} gives another {name} (off by {away:.2g})"
                raise UserError(f"{graph.file}: {what}; nothing was written, try another release of it")
