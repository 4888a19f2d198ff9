"""Draws docs/masks-edges.png: the same logits laid onto a frame interpolated, and as published.

python tools/mask_edges.py OUT.png

The logits are those of a known shape, the distance to its outline at each of 256 x 256 cells of a crop; a network's own
errors would hide what the edges do. Prints the overlap of both masks with the shape.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.segment.views import mask_in_frame, own_views
from lorat.shards.pixels.geometry import adjust

SIZE, SIDE, CELLS = (960, 720), 1024, 256
PART = (slice(190, 350), slice(470, 680))  # rows and columns that are shown
ZOOM = 3
SPILLED, MISSED = (255, 214, 10), (40, 110, 255)


def star() -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return the (H, W) pixels of a star whose points have notches, and the (4,) xyxy box around it."""
    turn = np.linspace(0, 2 * np.pi, 1440, endpoint=False)
    radius = 150 + 75 * np.cos(7 * turn) + 14 * np.cos(63 * turn)
    points = np.stack([480 + radius * np.cos(turn), 360 + radius * np.sin(turn)], axis=1)
    filled = np.zeros(SIZE[::-1], np.uint8)
    cv2.fillPoly(filled, [np.rint(points * 16).astype(np.int32)], 1, shift=4)
    rows, columns = np.nonzero(filled)
    return filled > 0, np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float64)


def logits_of(shape: NDArray[np.bool_], box: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the (L, L) logits of a shape in the crop around its box: pixels to its outline, above 0 inside."""
    inside, outside = (cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5) for part in (shape, ~shape))
    distance = np.where(shape, inside - 0.5, 0.5 - outside).astype(np.float32)
    (view,) = own_views(box[None], SIDE)
    centres = np.stack([(np.arange(CELLS) + 0.5) * SIDE / CELLS] * 2, axis=1)
    places = (centres - view.transform.translation) / view.transform.scale - 0.5
    columns, rows = np.meshgrid(*places.T.astype(np.float32))
    return cv2.remap(distance, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def drawn(shape: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Draw the part of the frame that is shown: the shape, what a mask has beyond it, and what it lacks."""
    picture = np.where(shape[..., None], (90, 150, 90), (52, 52, 58)).astype(np.uint8)
    picture[mask & ~shape], picture[shape & ~mask] = SPILLED, MISSED
    part = picture[PART]
    return cv2.resize(part, (part.shape[1] * ZOOM, part.shape[0] * ZOOM), interpolation=cv2.INTER_NEAREST)


def main() -> None:
    """Draw, write and say the overlaps."""
    shape, box = star()
    (view,) = own_views(box[None], SIDE)
    transform = adjust(view.transform, SIZE, (SIDE, SIDE)).transform
    panels = []
    for edges in ("interpolated", "published"):
        mask = mask_in_frame(logits_of(shape, box), transform, SIDE, SIZE, edges)
        overlap = (mask & shape).sum() / (mask | shape).sum()
        print(f"{edges}: overlap {overlap:.3f}, area {mask.sum() / shape.sum():.3f}")
        panels.append(drawn(shape, mask))
    gap = np.full((panels[0].shape[0], 12, 3), 255, np.uint8)
    picture = np.hstack([panels[0], gap, panels[1]])
    Path(sys.argv[1]).write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())


main()
