"""Pictures of a training: the crops that it sees, with their boxes, and its curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.shards.base.storage import atomic_file
from lorat.train.data.batches import Batch
from lorat.train.logs.log import Entry, read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_batch", "draw_curves"]

_GAP = 6
_BOX = (80, 255, 80)
_CELLS = (255, 200, 60)
_SMOOTH = 60  # running means that a curve is made of, if there are enough records
_NO_SCORES = {"step", "seconds", "val_loss", "val_score", "val_box"}


def draw_batch(batch: Batch, path: Path, columns: int = 4, most: int = 16) -> None:
    """Write a contact sheet of training pairs as PNG.

    Each pair is its template, with the tokens marked as the object, and its search crop, with the
    target box.

    Raises:
        UserError: if the disk refuses.
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
    _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    with atomic_file(path) as file:
        file.write(png.tobytes())


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
    """Draw what a run's log says as ``curves.png``; None for a log without records.

    Losses with those of validation, rate, gradient norm, speed, waiting, and AO and AUC of test
    sets where there are any.

    Raises:
        UserError: if the disk refuses.
    """
    lines = read_log(run / "log.jsonl")
    records = [line for line in lines if "loss" in line]
    if not records:
        return None
    others = [line for line in lines if "loss" not in line]
    names = {name for line in others for name in line} - _NO_SCORES
    scores = sorted(name for name in names if name.endswith(("/ao", "/auc")))
    # Half a second of imports, which no start of a training has to wait for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2 * (3 + bool(scores))), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3 + bool(scores), 2)
    losses = figure.add_subplot(grid[0, :])
    for name, colour in (("loss", "C0"), ("score", "C1"), ("box", "C2")):
        _curve(losses, records, name, name, colour)
    _points(losses, lines, "val_loss", "validation", "C3")
    _limit(losses, [record["loss"] for record in records], 0.0)
    _finish(losses, "loss")
    small = [
        ("rate", "learning rate", 1.0, 0.0),
        ("norm", "gradient norm", 1.0, 0.0),
        ("pairs_per_second", "pairs a second", 1.0, 0.0),
        ("data_wait", "time spent waiting for data, %", 100.0, 10.0),
    ]
    for number, (name, title, factor, least) in enumerate(small):
        axes = figure.add_subplot(grid[1 + number // 2, number % 2])
        _curve(axes, records, name, title, "C0", factor)
        _limit(axes, [factor * record[name] for record in records], least)
        _finish(axes, title, legend=False)
    if scores:
        axes = figure.add_subplot(grid[3, :])
        for number, name in enumerate(scores):
            _points(axes, lines, name, name, f"C{number}")
        _finish(axes, "scores")
    path = run / "curves.png"
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    return path


def _curve(
    axes: Axes, records: list[Entry], name: str, label: str, colour: str, factor: float = 1.0
) -> None:
    """Draw a value of every record, and where there are many their running mean over them."""
    steps = np.array([record["step"] for record in records])
    values = factor * np.array([record[name] for record in records], dtype=np.float64)
    width = len(values) // _SMOOTH
    if width < 2 or name == "rate":
        axes.plot(steps, values, color=colour, label=label, marker="." if len(steps) < 3 else "")
        return
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    ones = np.ones(2 * width + 1)
    mean = np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")
    axes.plot(steps, mean, color=colour, label=label)


def _limit(axes: Axes, values: list[float], least: float) -> None:
    """Show values from 0 on, but not how high the few highest of many reach."""
    most = max(values)
    usual = 1.5 * float(np.quantile(values, 0.97))
    axes.set_ylim(0, 1.05 * max(min(most, usual), least) or 1.0)


def _points(axes: Axes, lines: list[Entry], name: str, label: str, colour: str) -> None:
    """Draw a value that some lines have."""
    found = [(line["step"], line[name]) for line in lines if name in line]
    if found:
        axes.plot(*zip(*found, strict=True), color=colour, label=label, marker="o", markersize=3)


def _finish(axes: Axes, title: str, *, legend: bool = True) -> None:
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.margins(x=0.01)
    if legend:
        axes.legend(loc="upper right", ncols=4)
