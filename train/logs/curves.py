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

_GAP, _SIDE = 6, 224
_BOX = (80, 255, 80)
_CELLS = (255, 200, 60)
_SMOOTH = 60  # running means that a curve is made of, if there are enough records


def draw_batch(batch: Batch, path: Path, columns: int = 4, most: int = 16) -> None:
    """Write a contact sheet of training pairs as PNG.

    Each pair is its template, with the tokens marked as the object, and its search crop, with the target box. A disk
    that refuses is a `UserError`.
    """
    tiles = [_pair(batch, i) for i in range(min(most, len(batch)))]
    columns = min(columns, len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    bands = [np.concatenate(tiles[first : first + columns], axis=1) for first in range(0, len(tiles), columns)]
    sheet = np.concatenate(bands)
    sheet = cv2.copyMakeBorder(sheet, _GAP, 0, _GAP, 0, cv2.BORDER_CONSTANT, value=(255,) * 3)
    _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    with atomic_file(path) as file:
        file.write(png.tobytes())


def _pair(batch: Batch, index: int) -> NDArray[np.uint8]:
    """Return one pair side by side, white at its right and below, whatever the crops' sizes."""
    images = (crops[index].permute(1, 2, 0).numpy() for crops in (batch.template, batch.search))
    left, right = (cv2.resize(i, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR) for i in images)
    mask = batch.template_mask[index].numpy().astype(np.uint8)
    mask = cv2.resize(mask, (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(left, outlines, -1, _CELLS, 2)
    x1, y1, x2, y2 = (batch.box[index].numpy() * _SIDE).round().astype(int).tolist()
    cv2.rectangle(right, (x1, y1), (x2, y2), _BOX, 2)
    tile = np.full((_SIDE + _GAP, 2 * _SIDE + 2 + _GAP, 3), 255, dtype=np.uint8)
    tile[:_SIDE, :_SIDE], tile[:_SIDE, _SIDE + 2 : -_GAP] = left, right
    return tile


def draw_curves(run: Path) -> Path | None:
    """Draw what a run's log says as ``curves.png``; None for a log without records.

    Losses with those of validation, rate, gradient norm, speed, waiting, and AO and AUC of test sets where there are
    any. A disk that refuses is a `UserError`.
    """
    lines = read_log(run / "log.jsonl")
    records = [line for line in lines if "loss" in line]
    if not records:
        return None
    names = {name for line in lines for name in line if name.endswith(("/ao", "/auc"))}
    # Half a second of imports, which no start of a training has to wait for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = 3 + bool(names)
    figure = Figure(figsize=(11, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, 2)
    losses = figure.add_subplot(grid[0, :])
    for number, name in enumerate(("loss", "score", "box")):
        _curve(losses, records, name, name, f"C{number}")
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
    if names:
        axes = figure.add_subplot(grid[3, :])
        for number, name in enumerate(sorted(names)):
            _points(axes, lines, name, name, f"C{number}")
        _finish(axes, "scores")
    path = run / "curves.png"
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    return path


def _curve(axes: Axes, records: list[Entry], name: str, label: str, colour: str, factor: float = 1.0) -> None:
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
    usual = 1.5 * float(np.quantile(values, 0.97))
    axes.set_ylim(0, 1.05 * max(min(max(values), usual), least) or 1.0)


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
