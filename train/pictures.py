"""Pictures of a training: the crops that it sees, with their boxes, and its curves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lorat.train.batches import Batch
from lorat.train.log import read_log

__all__ = ["draw_batch", "draw_curves"]

_GAP = 6
_BOX = (80, 255, 80)
_CELLS = (255, 200, 60)


def draw_batch(batch: Batch, path: Path, columns: int = 4, most: int = 16) -> None:
    """Write a contact sheet of training pairs as PNG.

    Each pair is its template, with the tokens marked as the object, and its search crop, with the
    target box.
    """
    tiles = [_pair(batch, i) for i in range(min(most, len(batch)))]
    height, width = tiles[0].shape[:2]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    shape = (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3)
    sheet = np.full(shape, 255, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        y, x = divmod(number, columns)
        top, left = _GAP + y * (height + _GAP), _GAP + x * (width + _GAP)
        sheet[top : top + height, left : left + width] = tile
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


def _pair(batch: Batch, index: int) -> NDArray[np.uint8]:
    """Return one pair side by side, (224, 448 + gap, 3), whatever the crops' sizes."""
    side = 224
    template = batch.template[index].permute(1, 2, 0).numpy()
    search = batch.search[index].permute(1, 2, 0).numpy()
    left = cv2.resize(template, (side, side), interpolation=cv2.INTER_LINEAR)
    right = cv2.resize(search, (side, side), interpolation=cv2.INTER_LINEAR)
    mask = batch.template_mask[index].numpy().astype(np.uint8)
    mask = cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(left, outlines, -1, _CELLS, 2)
    x1, y1, x2, y2 = (batch.box[index].numpy() * side).round().astype(int).tolist()
    cv2.rectangle(right, (x1, y1), (x2, y2), _BOX, 2)
    gap = np.full((side, 2, 3), 255, dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def draw_curves(run: Path) -> Path | None:
    """Draw loss and rate over the steps of a run as ``curves.png``; None for an empty log."""
    records = read_log(run / "log.jsonl")
    if not records:
        return None
    steps = [record["step"] for record in records]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    losses = figure.add_subplot()
    for name, colour in (("loss", "C0"), ("score", "C1"), ("box", "C2")):
        losses.plot(steps, [record[name] for record in records], color=colour, label=name)
    losses.set_xlabel("step")
    losses.set_ylabel("loss")
    losses.set_ylim(bottom=0)
    losses.grid(alpha=0.3)
    rates = losses.twinx()
    rates.plot(steps, [record["rate"] for record in records], "--", color="0.6", label="rate")
    rates.set_ylabel("learning rate")
    rates.set_ylim(bottom=0)
    handles = losses.get_lines() + rates.get_lines()
    losses.legend(handles, [str(line.get_label()) for line in handles], loc="upper right")
    path = run / "curves.png"
    figure.savefig(path, dpi=120)
    return path
