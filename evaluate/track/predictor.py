"""The network on its device: templates and search crops in, the best box of each out.

Promise: tracking is deterministic, with one upload and one download a batch of frames. Not promised: that bfloat16,
float16 or a compiled graph give float32's boxes to the last digit.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorat.configs.schema import VariantConfig
from lorat.evaluate.track.crops import Crop
from lorat.evaluate.track.settings import TrackerSettings
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.resample import SERVED, Stored, serving
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.deploy.devices import compile_whole, pick_device, pick_dtype
from lorat.train.network.deploy.processor import Threads, settle_threads
from lorat.train.network.variants import hold_matrices_in, not_finite
from lorat.train.network.weights.containers import read_tensors

_LOG = logging.getLogger("lorat")
WINDOW_WEIGHT = 0.45  # of the penalty window in the ranking of cells (published system)


class Choice(NamedTuple):
    """The best cell of each map: boxes (B, 4), scores (B,) without the penalty, cells y · G + x."""

    box: Tensor
    score: Tensor
    cell: Tensor


class TemplateInput(NamedTuple):
    """The template of one target, ready for the network."""

    crop: Crop
    mask: NDArray[np.bool_]  # (g, g), True on the tokens that the object touches
    mean: NDArray[np.float32]  # (3,) mean colour of the template's frame, 0 … 255; pads every search crop of the target


def penalty_window(grid: int, device: torch.device | None = None) -> Tensor:
    """Return the (G, G) float32 Hann window (not periodic) that favours the crop's middle."""
    hann = torch.hann_window(grid, periodic=False, dtype=torch.float32)
    return torch.outer(hann, hann).to(device)


def select_box(score_map: Tensor, boxes: Tensor, window: Tensor) -> Choice:
    """Choose the cell with the highest 0.55 · sigmoid(logit) + 0.45 · window (published system), all in float32.
    `score_map` is (B, G, G) logits, `boxes` (B, G, G, 4) xyxy, one a cell, and `window` (G, G) from `penalty_window`.
    """
    score = score_map.flatten(1).sigmoid()
    penalised = score * (1.0 - WINDOW_WEIGHT) + window.flatten() * WINDOW_WEIGHT
    cell = penalised.argmax(dim=1)
    rows = torch.arange(cell.shape[0], device=cell.device)
    return Choice(boxes.flatten(1, 2)[rows, cell], score[rows, cell], cell)


def _stored(weights: Path, search_size: int) -> Stored:
    """Return how the shards hold frames that weights were trained on: training took it from the shards' manifest."""
    if said := read_tensors(weights)[1].get("stored"):
        return Stored(*json.loads(said))
    size = serving(search_size)
    _LOG.warning("%s: names no shards; --resize shards takes those of lorat-prep build --serve %d", weights, size)
    return SERVED[size]


class Predictor:
    """A network on its device, with one upload and one download a batch of frames."""

    def __init__(
        self,
        network: OneStream,
        variant: VariantConfig,
        device: torch.device,
        dtype: torch.dtype,
        stored: Stored | None = None,
    ) -> None:
        """Take over a network with matrices in `dtype`; crops are cut as published, or as shards hold them `stored`."""
        self.network, self.variant, self.stored = network.to(device).eval(), variant, stored
        self.device, self.dtype = device, dtype
        mean, std = (torch.tensor(v, dtype=torch.float32) for v in (variant.mean, variant.std))
        self._factor = (1.0 / (255.0 * std)).view(1, 3, 1, 1).to(device)
        self._shift = (-mean / std).view(1, 3, 1, 1).to(device)
        self._window = penalty_window(network.search_grid, device)
        self._side = float(variant.search_size)
        self._rows, self._locate = 0, self._locate_rows  # rows that the compiled graph is for
        self._threads = Threads()

    @classmethod
    def load(cls, settings: TrackerSettings) -> "Predictor":
        """Load a network; a `UserError` if a file does not fit, or the machine lacks the device."""
        device = pick_device(settings.device)
        network, variant = settings.load_network(dtype=None)
        return cls.around(network, variant, settings, pick_dtype(settings.dtype, device, network))

    @classmethod
    def around(
        cls, network: OneStream, variant: VariantConfig, settings: TrackerSettings, dtype: torch.dtype, samples: int = 1
    ) -> "Predictor":
        """Take over a network as it was loaded, to compute in `dtype`, with the threads that are good for so many
        targets at once.
        """
        if variant.method != "lorat":
            raise UserError(f"variant {variant.name}: method {variant.method} is trained, not tracked with")
        hold_matrices_in(network, dtype)
        if settings.dtype == "float32":
            torch.backends.cudnn.allow_tf32 = False  # the patch convolution too is to be exact
        stored = None if settings.resize == "published" else _stored(settings.file(), variant.search_size)
        predictor = cls(network, variant, pick_device(settings.device), dtype, stored)
        if predictor.device.type == "cpu":
            predictor._threads = settle_threads(network, samples)
        return predictor

    def compile(self, batch: int) -> None:
        """Compile the work of a frame, not of a template, into one graph, which takes a minute or so. Batches of fewer
        than `batch` targets are padded to serve it. A `UserError` if nothing can be compiled.
        """
        self._locate, self._rows = compile_whole(self._locate_rows, self.device), batch
        self._threads = Threads()  # a graph is for one number of them
        side, width = self.variant.search_size, self.network.token_type_embed.shape[1]
        tokens = torch.zeros(1, self.network.template_length, width, device=self.device)
        self.predict(tokens, np.zeros((1, side, side, 3), dtype=np.float32))

    def embed(self, templates: Sequence[TemplateInput]) -> Tensor:
        """Turn templates into the (B, T, D) tokens that stand before every search region."""
        crops = np.stack([template.crop for template in templates])
        mask = torch.from_numpy(np.stack([template.mask for template in templates]))
        with torch.inference_mode():
            return self.network.remember(self._normalise(self._upload(crops))[:, None], mask.to(self.device)[:, None])

    def predict(self, tokens: Tensor, crops: NDArray[np.float32]) -> NDArray[np.float64]:
        """Find one target in each search region: (B, T, D) from `embed`, (B, S, S, 3) 0 … 255. Returns (B, 5) float64:
        x1, y1, x2, y2 in crop pixels, and the score. A `UserError` if a number is not finite.
        """
        with self._threads.following(), torch.inference_mode():
            found = self._locate(self._padded(tokens), self._padded(self._upload(crops)))[: len(crops)].cpu().numpy()
        if not np.isfinite(found).all():
            raise UserError(f"the network gives numbers that are {not_finite(self.dtype)}")
        return found.astype(np.float64)

    def _locate_rows(self, tokens: Tensor, crops: Tensor) -> Tensor:
        """Return (B, 5) float32: boxes in crop pixels and scores."""
        prediction = self.network.follow(tokens, self._normalise(crops)).prediction
        choice = select_box(prediction.score_map, prediction.boxes, self._window)
        return torch.cat([choice.box * self._side, choice.score[:, None]], dim=1)

    def _padded(self, rows: Tensor) -> Tensor:
        """Repeat the last row up to the number that a graph is for."""
        if not self._rows:
            return rows
        # A graph is also for one layout, and for tensors made in inference mode or outside it: a full batch is copied.
        return torch.cat([rows, rows[-1:].expand(max(self._rows - len(rows), 0), *rows.shape[1:])])

    def room_for_crops(self, batch: int) -> NDArray[np.float32]:
        """Return a (batch, S, S, 3) float32 array for search crops that is quick to upload."""
        side = self.variant.search_size
        return torch.empty(batch, side, side, 3, pin_memory=self.device.type == "cuda").numpy()

    def _upload(self, crops: NDArray[np.float32]) -> Tensor:
        images = torch.from_numpy(crops)
        if self.device.type == "cuda":
            images = images.pin_memory()  # what is pinned already is taken as it is
        return images.to(self.device, non_blocking=True)

    def _normalise(self, images: Tensor) -> Tensor:
        """Turn (B, H, W, 3) values on 0 … 255 into (B, 3, H, W) float32: (x / 255 − mean) / std."""
        # Planes first, then in place: a third of the time that four passes over pixels take.
        planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return planes.mul_(self._factor).add_(self._shift)
