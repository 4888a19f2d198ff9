"""How frames come to the network: crops of them cut as the variant says, and brought to its device."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lorat.configs.schema import VariantConfig
from lorat.evaluate.track.engines.base import Engine, TorchEngine
from lorat.evaluate.track.memory.crops import Box, Crop, Frame, crop_around, frame_size, search_scale, template_scale
from lorat.evaluate.track.memory.cutouts import Cutout, Place, Places, cut_out
from lorat.shards.pixels.geometry import CropTransform, box_mask
from lorat.shards.pixels.resample import Stored
from lorat.train.network.blocks.lorat import OneStream

Colour = NDArray[np.float32]  # (3,) RGB on 0 … 255
MIN_OBJECT_SIZE = 10.0  # pixels; a smaller object is searched as if it were this large


class TemplateInput(NamedTuple):
    """A template of one target, ready for the network."""

    crop: Crop
    mask: NDArray[np.bool_]  # (g, g), True on the tokens that the object touches


def search_window(box: ArrayLike) -> Box:
    """Return the box that the search region is cut around: at least 10 px a side, same centre."""
    box = np.asarray(box, dtype=np.float64)
    centre = (box[:2] + box[2:]) * 0.5
    half = np.maximum(box[2:] - box[:2], MIN_OBJECT_SIZE) * 0.5
    return np.concatenate([centre - half, centre + half])


def mean_colour(frame: Frame) -> Colour:
    """Return what fills a crop outside of its frame."""
    # Sums of whole numbers are exact, and quicker than a mean of floats.
    return (np.array(cv2.sumElems(frame)[:3]) / (frame.shape[0] * frame.shape[1])).astype(np.float32)


class Feed:
    """A network on its device, and the way of crops to it."""

    def __init__(
        self,
        network: OneStream,
        variant: VariantConfig,
        device: torch.device,
        dtype: torch.dtype,
        stored: Stored | None = None,
        engine: Engine | None = None,
    ) -> None:
        """Take over a network with matrices in `dtype`; crops are cut as published, or as shards hold them `stored`.
        Where another `engine` than PyTorch computes it, the network is on the meta device and only says its sizes.
        """
        self.network, self.variant, self.stored = network.eval(), variant, stored
        self.device, self.dtype = device, dtype
        self.engine = engine or TorchEngine(network.to(device), variant, device)
        self.memory_dtype = dtype if engine is None else torch.float32  # of what the engine gives out

    def cut_template(self, frame: Frame, box: Box, mean: Colour) -> TemplateInput:
        """Cut a template around a box with a side above 0."""
        side = self.variant.template_size
        scale = template_scale(box, frame_size(frame), self.stored)
        crop, transform = crop_around(frame, box, self.variant.template_factor, side, mean, scale)
        return TemplateInput(crop, box_mask(transform.apply(box), side, self.network.template_grid))

    def cut_search(self, frame: Frame, box: Box, mean: Colour, out: Place | None = None) -> tuple[Place, CropTransform]:
        """Cut the search region around a last box into `out`, if that is given, as `crop_around` and `cut_out` do."""
        factor, side = self.variant.search_factor, self.variant.search_size
        if not isinstance(out, Cutout):
            return self._cut_window(frame, box, factor, side, mean, out)
        box = search_window(box)
        return out, cut_out(frame, box, factor, side, mean, search_scale(box, frame_size(frame), self.stored), out)

    def cut_reference(self, frame: Frame, box: Box, mean: Colour) -> Crop:
        """Cut a reference around a last box."""
        side = self.variant.reference_size
        assert side is not None
        return self._cut_window(frame, box, self.variant.reference_factor, side, mean)[0]

    def _cut_window(
        self, frame: Frame, box: Box, factor: float, side: int, mean: Colour, out: Crop | None = None
    ) -> tuple[Crop, CropTransform]:
        box = search_window(box)
        return crop_around(frame, box, factor, side, mean, search_scale(box, frame_size(frame), self.stored), out)

    def embed(self, templates: Sequence[TemplateInput]) -> Tensor:
        """Turn templates into (B, …) what each leaves in the network."""
        mask = torch.from_numpy(np.stack([template.mask for template in templates])).to(self.device)
        with torch.inference_mode():
            return self.engine.remember(self.images([template.crop for template in templates]), mask)

    def images(self, crops: Sequence[Crop]) -> Tensor:
        """Return crops of one size as (B, S, S, 3) on the device."""
        return self._upload(np.stack(crops))

    def room_for_crops(self, batch: int) -> Places:
        """Return places for search crops: on a processor a (batch, S, S, 3) float32 array; else what they show of their
        frames goes to the device, which resamples it.
        """
        if self.device.type != "cpu":
            return [Cutout() for _ in range(batch)]
        return np.empty((batch, *[self.variant.search_size] * 2, 3), np.float32)

    def _there(self, crops: Places) -> Tensor:
        """Return (B, S, S, 3) crops on the device, where `Cutout`s become them."""
        if isinstance(crops, np.ndarray):
            return self._upload(crops)
        return torch.stack([crop.resample(self._upload(crop.part), self.variant.search_size) for crop in crops])

    def _upload(self, pixels: NDArray[Any]) -> Tensor:
        images = torch.from_numpy(pixels)
        if self.device.type == "cuda":
            images = images.pin_memory()  # or the copy would wait for all that the device has to do
        return images.to(self.device, non_blocking=True)
