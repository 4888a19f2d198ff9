"""Masks of the objects of a frame: crops out, logits in, masks on the frame.

Promise: an object's mask does not depend on the other objects of the frame, unless views are shared. Memory grows by
one mask an object, and by a few crops.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lorat.evaluate.segment.views import Edges, mask_in_frame, own_views, prompts, shared_views
from lorat.shards.pixels.geometry import adjust, crop_frame

Frame = NDArray[np.uint8]  # (H, W, 3) RGB
Masks = NDArray[np.bool_]  # (N, H, W)


class MaskGenerator(Protocol):
    """A network that finds an object's pixels in a crop, by a box around it."""

    @property
    def side(self) -> int:
        """Pixels a side of its crops."""
        ...

    @property
    def at_once(self) -> int:
        """How many crops it takes together."""
        ...

    def __call__(self, crops: NDArray[np.float32], boxes: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float32]]:
        """Take (C, S, S, 3) RGB crops on 0 … 255 and for each of them (n, 4) xyxy boxes in its pixels. Returns for each
        crop (n, L, L) logits over it, above 0 on the object.
        """
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Segmenter:
    """A mask network, and how its views are cut and its logits laid onto frames."""

    generator: MaskGenerator
    edges: Edges = "interpolated"
    shared: bool = False

    def __call__(self, frame: Frame, boxes: ArrayLike) -> Masks:
        """Return the mask of each object in the frame by its (N, 4) xyxy box, empty for a box without area."""
        boxes, (height, width), side = np.asarray(boxes, np.float64), frame.shape[:2], self.generator.side
        masks = np.zeros((len(boxes), height, width), dtype=np.bool_)
        there = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        views = (shared_views if self.shared else own_views)(boxes[there], side)
        colour = cv2.mean(frame)[:3]  # outside the frame
        for start in range(0, len(views), self.generator.at_once):
            part = views[start : start + self.generator.at_once]
            cuts = [adjust(view.transform, (width, height), (side, side)) for view in part]
            crops = np.stack([crop_frame(frame, cut, (side, side), colour) for cut in cuts])
            asked = [boxes[there[list(view.members)]] for view in part]
            given = [prompts(own, cut.transform, side) for own, cut in zip(asked, cuts, strict=True)]
            for view, cut, logits in zip(part, cuts, self.generator(crops, given), strict=True):
                for member, own in zip(view.members, logits, strict=True):
                    masks[there[member]] = mask_in_frame(own, cut.transform, side, (width, height), self.edges)
        return masks
