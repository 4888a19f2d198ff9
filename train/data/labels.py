"""What the network is taught on one pair: token mask, positive cells, target box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorat.shards.pixels.geometry import box_mask, clip_boxes

__all__ = ["CropSpec", "Labels", "make_labels"]


@dataclass(frozen=True, slots=True)
class CropSpec:
    """Sides in pixels and in tokens, and area factors, of template and search crops."""

    template_size: int
    search_size: int
    template_grid: int
    search_grid: int
    template_factor: float
    search_factor: float


@dataclass(frozen=True, eq=False, slots=True)
class Labels:
    """Labels of one pair."""

    template_mask: NDArray[np.bool_]
    """(g, g) tokens that the object touches in the template, row-major [y, x]."""
    positive: NDArray[np.bool_]
    """(G, G) cells of the response map that the object touches."""
    box: NDArray[np.float32]
    """(4,) xyxy, cut at the search crop, in units of its side: in [0, 1]."""


def make_labels(
    template_box: NDArray[np.float64], search_box: NDArray[np.float64], spec: CropSpec
) -> Labels:
    """Make the labels of a pair from its boxes in crop pixels, (4,) xyxy each."""
    template_box = clip_boxes(template_box, (spec.template_size, spec.template_size))
    search_box = clip_boxes(search_box, (spec.search_size, spec.search_size))
    return Labels(
        template_mask=box_mask(template_box, spec.template_size, spec.template_grid),
        positive=box_mask(search_box, spec.search_size, spec.search_grid),
        box=(search_box / spec.search_size).astype(np.float32),
    )
