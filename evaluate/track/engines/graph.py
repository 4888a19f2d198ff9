"""Exported graphs as an engine, and the file of one for weights that are no graph.

A graph of weights is exported once, in float32, and kept in the user's cache until nothing asked for it for a month.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from lorat.configs.schema import VariantConfig
from lorat.evaluate.track.engines.base import Engine
from lorat.shards.base.disk import check_can_write, explain_disk
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import cache_folder, remove_old
from lorat.shards.base.waiting import POLL
from lorat.shards.cache.folder import locked
from lorat.train.network.blocks.lorat import OneStream, Prediction, Tracked
from lorat.train.network.blocks.plan import Plan
from lorat.train.network.deploy import RUNTIMES
from lorat.train.network.deploy.graphs import MARK, export_graphs, graph_parts, graphs_of
from lorat.train.network.deploy.processor import Product, fast_dtype
from lorat.train.network.deploy.runtimes import check_packages, has_bfloat16, open_graph, read_metadata
from lorat.train.network.variants import empty_network, hold_matrices_in

_UNUSED, _LONGEST = 30 * 86400.0, 3600.0  # seconds without use; of another process's export
_LOG = logging.getLogger("lorat")


class GraphEngine(Engine):
    """Exported graphs, computed on the processor by their runtime."""

    def __init__(self, file: Path, variant: VariantConfig, threads: int, dtype: torch.dtype) -> None:
        """Open the tracking graph `file` and what lies beside it. A template is looked at once in a sequence, or now
        and then, and always in float32, as PyTorch does it.
        """
        self.variant = variant
        files = graphs_of(file, variant)
        types = (dtype, *[torch.float32] * (len(files) - 1))
        graphs = [open_graph(each, threads, of) for each, of in zip(files, types, strict=True)]
        for other, graph in zip(files, graphs, strict=True):
            if graph.metadata.get(MARK) != graphs[0].metadata.get(MARK):
                raise UserError(f"{other}: is of other weights than {file.name}; export them together again")
        self._track, self._template, *self._reference = graphs

    def remember(self, template: Tensor, mask: Tensor) -> Tensor:
        """Return what each template leaves."""
        count, together = len(template), self.variant.templates
        if together == 1:
            return self._template({"template": template, "template_mask": mask})[0]
        # SPMTrack's graph takes three at once, which do not see each other.
        lacking = -count % together
        rows = {
            name: torch.cat([part, part[-1:].expand(lacking, *part.shape[1:])]).unflatten(0, (-1, together))
            for name, part in (("template", template), ("template_mask", mask))
        }
        tokens = self._template(rows)[0]
        return tokens.reshape(count + lacking, -1, tokens.shape[2])[:count]

    def remember_reference(self, memory: Tensor, reference: Tensor) -> Tensor:
        """Return the whole memories."""
        (graph,) = self._reference
        return graph({"template_memory": memory, "reference": reference})[0]

    def follow(self, memory: Tensor, search: Tensor, state: Tensor | None = None) -> Tracked:
        """Find the objects."""
        score_map, boxes, *after = self._track(track_inputs(self.variant, memory, search, state))
        return Tracked(Prediction(score_map, boxes), after[0] if after else None)


def track_inputs(variant: VariantConfig, memory: Tensor, search: Tensor, state: Tensor | None) -> dict[str, Tensor]:
    """Return what `Engine.follow` takes by the names of a tracking graph's inputs."""
    inputs = {"memory" if variant.method == "loratv2" else "template_tokens": memory, "search": search}
    return inputs if state is None else inputs | {"state": state}


def described(file: Path) -> tuple[OneStream, VariantConfig]:
    """Return the network of a graph file, on the meta device, and its variant; a `UserError` where it does not say."""
    known = read_metadata(file)
    if "plan" not in known:
        raise UserError(f"{file}: was exported by an older version; export it again")
    variant = VariantConfig.model_validate_json(known["configuration"])
    plan = Plan.model_validate_json(known["plan"])
    network = empty_network(variant.model_copy(update={"lora": None}), plan=plan)
    network.fingerprint = known["backbone_fingerprint"]
    return network, variant


def pick_graph_dtype(engine: str, name: str, network: OneStream) -> torch.dtype:
    """Return the number type called ``auto``, ``float32`` or ``bfloat16`` that an engine of graphs computes in, where
    they are not of whole numbers: OpenVINO's ``auto`` is what is measured to be fast here, as PyTorch's. A `UserError`
    if it cannot.
    """
    known = ("auto", "float32") if engine == "onnx" else ("auto", "float32", "bfloat16")
    if name not in known:
        raise UserError(f"--dtype {name}: --engine {engine} computes in {', '.join(known[1:])}; leave --dtype out")
    if engine == "onnx":
        return torch.float32
    if name == "bfloat16" and not has_bfloat16():
        raise UserError("--dtype bfloat16: OpenVINO does not compute in it on this processor; use float32")
    if name == "auto":
        return fast_dtype(Product.of(network)) if has_bfloat16() else torch.float32
    return torch.float32 if name == "float32" else torch.bfloat16


def graph_of(
    engine: str,
    network: OneStream,
    variant: VariantConfig,
    known: Mapping[str, str],
    digests: Sequence[str],
    *,
    anew: bool = False,
) -> Path:
    """Return the file of the tracking graph of a network of weights with these `digests`, with what is `known` of it;
    exported now, which takes half a minute, unless that was done before, and not to be done `anew`. Of several
    processes one exports; a `UserError` if another takes longer than an hour, or the cache takes no files.
    """
    check_packages(engine)
    packages = ("torch", "lorat", "onnxscript") if engine == "onnx" else ("torch", "lorat", "openvino")
    said = (*digests, network.fingerprint, variant.model_dump_json(), *sorted(known.items()))
    key = repr((engine, said, *map(version, packages)))
    folder = cache_folder() / "graphs" / hashlib.sha256(key.encode()).hexdigest()[:16]
    suffix = next(suffix for suffix, name in RUNTIMES.items() if name == engine)
    file = folder / f"lorat{suffix}"
    before = _state(file)
    if anew or not _whole(file, variant):
        with _alone(folder):
            if (_state(file) == before) if anew else not _whole(file, variant):  # else another process has, meanwhile
                remove_old(folder.parent.glob("*/lorat.*"), _UNUSED)
                _LOG.info("exporting the network for %s, once", engine)
                hold_matrices_in(network, torch.float32)  # of merged files of another type
                export_graphs(file, network, variant, known=known)
    for part in graph_parts(file):
        with suppress(OSError):  # another user's
            part.touch()
    return file


def _whole(file: Path, variant: VariantConfig) -> bool:
    """Return whether a graph is there with all that belongs to it."""
    return {*graphs_of(file, variant)} <= {*graph_parts(file)}


def _state(file: Path) -> int | None:
    """Return what changes as a file is written anew; None where there is none."""
    with suppress(OSError):
        return file.stat().st_ino
    return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time export into a folder of the cache, which is made."""
    try:
        check_can_write(folder)
        with explain_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except UserError as error:
        raise UserError(f"{error.message}; $LORAT_CACHE names the folder for graphs") from None
    deadline = time.monotonic() + _LONGEST

    def wait() -> None:
        time.sleep(POLL)
        if time.monotonic() > deadline:
            raise UserError(f"{folder}: another process has exported into it for {_LONGEST / 60:g} minutes; end it")

    with locked(folder / "lock", wait=wait):
        yield
