"""The network on its device: templates and search crops in, the best box of each out.

Promise: tracking is deterministic, with one upload and one download a batch of frames. Not promised: that bfloat16,
float16 or a compiled graph give float32's boxes to the last digit.
"""

import json
import logging
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorat.configs.schema import VariantConfig
from lorat.evaluate.track.engines.base import Engine
from lorat.evaluate.track.engines.graph import GraphEngine, graph_of, pick_graph_dtype
from lorat.evaluate.track.memory.base import UNKNOWN, Memory
from lorat.evaluate.track.memory.cutouts import Places
from lorat.evaluate.track.memory.feed import Feed, mean_colour
from lorat.evaluate.track.memory.methods import memory_for
from lorat.evaluate.track.settings import TrackerSettings
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import file_digest
from lorat.shards.pixels.resample import SERVED, Stored, serving
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.deploy import RUNTIMES
from lorat.train.network.deploy.devices import compile_whole, pick_device, pick_dtype
from lorat.train.network.deploy.processor import Threads, settle_threads
from lorat.train.network.deploy.runtimes import read_metadata
from lorat.train.network.variants import hold_matrices_in, not_finite
from lorat.train.network.weights.containers import read_tensors

_LOG = logging.getLogger("lorat")


class Choice(NamedTuple):
    """The best cell of each map: boxes (B, 4), scores (B,) without the penalty, cells y · G + x."""

    box: Tensor
    score: Tensor
    cell: Tensor


def penalty_window(grid: int, device: torch.device | None = None) -> Tensor:
    """Return the (G, G) float32 Hann window (not periodic) that favours the crop's middle."""
    hann = torch.hann_window(grid, periodic=False, dtype=torch.float32)
    return torch.outer(hann, hann).to(device)


def select_box(score_map: Tensor, boxes: Tensor, window: Tensor, weight: float) -> Choice:
    """Choose the cell with the highest (1 − weight) · sigmoid(logit) + weight · window (published system), all in
    float32. `score_map` is (B, G, G) logits, `boxes` (B, G, G, 4) xyxy, one a cell, and `window` (G, G) from
    `penalty_window`.
    """
    score = score_map.flatten(1).sigmoid()
    penalised = score * (1.0 - weight) + window.flatten() * weight
    cell = penalised.argmax(dim=1)
    rows = torch.arange(cell.shape[0], device=cell.device)
    return Choice(boxes.flatten(1, 2)[rows, cell], score[rows, cell], cell)


class Found(NamedTuple):
    """What the network says of a batch of search crops."""

    rows: NDArray[np.float64]  # (B, 5): x1, y1, x2, y2 in crop pixels, and the score; the same without the penalty
    state: Tensor | None  # (B, …), for the next frame, of methods that carry one

    def each(self) -> Iterator[tuple[NDArray[np.float64], Tensor | None]]:
        """Yield row and state of each crop."""
        return zip(self.rows, repeat(None) if self.state is None else self.state, strict=False)


def pick_type(settings: TrackerSettings, name: str, network: OneStream) -> torch.dtype:
    """Return the number type of a name for the engine and the device of settings; what an int8 graph keeps from int8 is
    float32 unless another type is named, since the rest is too little to gain by bfloat16.
    """
    device, engine = pick_device(settings.device_name()), settings.chosen_engine()
    if name == "auto" and settings.graph is not None and read_metadata(settings.graph).get("numbers") == "int8":
        name = "float32"
    return pick_dtype(name, device, network) if engine == "torch" else pick_graph_dtype(engine, name, network)


def graph_for(
    settings: TrackerSettings, network: OneStream, variant: VariantConfig, dtype: torch.dtype
) -> tuple[Path, GraphEngine]:
    """Return the tracking graph of settings that have an engine for one, and that engine in a number type: their own
    graph, or else one of their weights, which is exported once more where it does not open.
    """

    def opened(file: Path) -> tuple[Path, GraphEngine]:
        return file, GraphEngine(file, variant, torch.get_num_threads(), dtype)

    if settings.graph is not None:
        return opened(settings.graph)
    digests = [file_digest(path, "check --weights") for path in settings.files()]
    exported = partial(graph_of, settings.chosen_engine(), network, variant, known_shards(settings.file()), digests)
    file = exported()
    try:
        return opened(file)
    except UserError as error:
        _LOG.warning("%s, which is done now", error.message)
        return opened(exported(anew=True))


def known_shards(weights: Path) -> dict[str, str]:
    """Return what a file of weights, or a graph, says of the shards that it was trained on: ``stored``, or nothing."""
    metadata = read_metadata(weights) if weights.suffix in RUNTIMES else read_tensors(weights)[1]
    return {key: value for key, value in metadata.items() if key == "stored"}


def _stored(weights: Path, search_size: int) -> Stored:
    """Return how the shards hold frames that weights were trained on: training took it from the shards' manifest."""
    if said := known_shards(weights).get("stored"):
        return Stored(*json.loads(said))
    size = serving(search_size)
    _LOG.warning("%s: names no shards; --resize shards takes those of lorat-prep build --serve %d", weights, size)
    return SERVED[size]


class Predictor(Feed):
    """A network on its device, with one upload and one download a batch of frames."""

    def __init__(
        self,
        network: OneStream,
        variant: VariantConfig,
        device: torch.device,
        dtype: torch.dtype,
        stored: Stored | None = None,
        engine: Engine | None = None,
    ) -> None:
        """Take over a network as `Feed` does."""
        super().__init__(network, variant, device, dtype, stored, engine)
        self._window = penalty_window(network.search_grid, device)
        self._side = float(variant.search_size)
        self._rows, self._locate = 0, self._locate_rows  # rows that the compiled graph is for
        self._threads = Threads()
        self.seeks = False  # a lost object elsewhere than around its last box

    @classmethod
    def load(cls, settings: TrackerSettings) -> "Predictor":
        """Load a network; a `UserError` if a file does not fit, or the machine lacks the device."""
        network, variant = settings.load_network(dtype=None)
        return cls.around(network, variant, settings, pick_type(settings, settings.dtype, network))

    @classmethod
    def around(
        cls, network: OneStream, variant: VariantConfig, settings: TrackerSettings, dtype: torch.dtype, samples: int = 1
    ) -> "Predictor":
        """Take over a network as it was loaded, to compute in `dtype`, with the threads that are good for so many
        targets at once.
        """
        device, engine = pick_device(settings.device_name()), settings.chosen_engine()
        stored = None if settings.resize == "published" else _stored(settings.file(), variant.search_size)
        threads = settle_threads(network, samples) if device.type == "cpu" else Threads()
        if engine != "torch":
            _, graphs = graph_for(settings, network, variant, dtype)
            predictor = cls(network.to("meta"), variant, device, dtype, stored, graphs)
        else:
            hold_matrices_in(network, dtype)
            if settings.dtype == "float32":
                torch.backends.cudnn.allow_tf32 = False  # the patch convolution too is to be exact
            predictor = cls(network, variant, device, dtype, stored)
            predictor._threads = threads
        predictor.seeks = bool(settings.redetect)
        return predictor

    def compile(self, batch: int) -> None:
        """Compile the work of a frame, not of a template, into one graph, which takes a minute or so. Batches of fewer
        than `batch` targets are padded to serve it. A `UserError` if nothing can be compiled.
        """
        if isinstance(self.engine, GraphEngine):
            raise UserError("compile: is for PyTorch alone; an exported graph is compiled by its own engine")
        self._locate, self._rows = compile_whole(self._locate_rows, self.device), batch
        self._threads = Threads()  # a graph is for one number of them
        side, memory = self.variant.search_size, self.memory(1)
        frame, box = np.zeros((side, side, 3), dtype=np.uint8), np.array([0.0, 0.0, side, side])
        recalled = memory.recall([memory.begin(frame, box, mean_colour(frame), UNKNOWN)])
        self.predict(recalled.memory, np.zeros((1, side, side, 3), dtype=np.float32), recalled.state)

    def memory(self, room: int) -> Memory[Any]:
        """Return an empty memory of up to so many targets."""
        return memory_for(self, room)

    def predict(self, memory: Tensor, crops: Places, state: Tensor | None = None) -> Found:
        """Find one target in each search region, of values 0 … 255, with what its memory recalled: memory (B, …) and
        state (B, …) or none. A `UserError` if a number is not finite.
        """
        with self._threads.following(), torch.inference_mode():
            padded = None if state is None else self._padded(state)
            located, state = self._locate(self._padded(memory), self._padded(self._there(crops)), padded)
            rows = located[: len(crops)].cpu().numpy()
        if not np.isfinite(rows).all():
            raise UserError(f"the network gives numbers that are {not_finite(self.dtype)}")
        return Found(rows.astype(np.float64), None if state is None else state[: len(crops)])

    def _locate_rows(self, memory: Tensor, crops: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return (B, 5) float32, boxes in crop pixels and scores, or (B, 10) as `Found` has them; and the state."""
        prediction, state = self.engine.follow(memory, crops, state)
        weights = (self.variant.window_weight, 0.0) if self.seeks else (self.variant.window_weight,)
        choices = [select_box(prediction.score_map, prediction.boxes, self._window, weight) for weight in weights]
        return torch.cat([part for c in choices for part in (c.box * self._side, c.score[:, None])], dim=1), state

    def _padded(self, rows: Tensor) -> Tensor:
        """Repeat the last row up to the number that a graph is for."""
        if not self._rows:
            return rows
        # A graph is also for one layout, and for tensors made in inference mode or outside it: a full batch is copied.
        return torch.cat([rows, rows[-1:].expand(max(self._rows - len(rows), 0), *rows.shape[1:])])
