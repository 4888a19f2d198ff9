"""Pictures of a training: the crops that it sees, with their boxes, and its curves."""

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lorat.shards.base.storage import atomic_file
from lorat.train.data.batches import Batch
from lorat.train.logs.log import Entry, read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS, _MOST = 4, 16  # of a contact sheet of pairs, and its samples
_GAP, _SIDE = 6, 224
_BOX, _CELLS = (80, 255, 80), (255, 200, 60)
_SMOOTH = 60  # running means that a curve is made of, if there are enough records
_PANELS = {
    "loss": "loss",
    "rate": "learning rate",
    "norm": "gradient norm",
    "pairs_per_second": "pairs a second",
    "data_wait": "time spent waiting for data, %",
    "scores": "scores",
}


def draw_batch(batch: Batch, path: Path) -> None:
    """Write training samples as a PNG contact sheet: templates with the object's tokens, the reference where there is
    one, search crops with the box.
    """
    tiles = [_sample(batch, i) for i in range(min(_MOST, len(batch)))]
    columns = min(max(1, _COLUMNS * 2 * _SIDE // tiles[0].shape[1]), len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    sheet = cv2.vconcat([cv2.hconcat(tiles[first : first + columns]) for first in range(0, len(tiles), columns)])
    sheet = cv2.copyMakeBorder(sheet, _GAP, 0, _GAP, 0, cv2.BORDER_CONSTANT, value=(255,) * 3)
    _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    with atomic_file(path) as file:
        file.write(png.tobytes())


def _sample(batch: Batch, index: int) -> NDArray[np.uint8]:
    """Return the crops of one sample side by side, white at their right and below, whatever their sizes."""
    templates, searches = (_shown(crops[index]) for crops in (batch.template, batch.search))
    reference = [] if batch.reference is None else _shown(batch.reference[index : index + 1])
    for picture, mask in zip(templates, batch.template_mask[index].numpy().astype(np.uint8), strict=True):
        tokens = cv2.resize(mask, (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(tokens, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(picture, outlines, -1, _CELLS, 2)
    for picture, box in zip(searches, batch.box[index].numpy(), strict=True):
        x1, y1, x2, y2 = (box * _SIDE).round().astype(int).tolist()
        cv2.rectangle(picture, (x1, y1), (x2, y2), _BOX, 2)
    white = (255,) * 3
    beside = (
        cv2.copyMakeBorder(p, 0, _GAP, 0, 2, cv2.BORDER_CONSTANT, value=white) for p in templates + reference + searches
    )
    return cv2.copyMakeBorder(cv2.hconcat(list(beside)), 0, 0, 0, _GAP - 2, cv2.BORDER_CONSTANT, value=white)


def _shown(crops: Tensor) -> list[NDArray[np.uint8]]:
    """Return (n, 3, H, W) crops as pictures of one size."""
    images = crops.permute(0, 2, 3, 1).numpy()
    return [cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR) for image in images]


def draw_curves(run: Path) -> Path | None:
    """Draw a run's log as ``curves.png``, with AO and AUC of test sets if any; None for a log without records."""
    lines = read_log(run / "log.jsonl")
    records = [line for line in lines if "loss" in line]
    if not records:
        return None
    scores = sorted({name for line in lines for name in line if name.endswith(("/ao", "/auc"))})
    # Half a second of imports, which no start of a training has to wait for.
    from matplotlib.figure import Figure

    rows = [["loss"] * 2, ["rate", "norm"], ["pairs_per_second", "data_wait"], *([["scores"] * 2] if scores else [])]
    figure = Figure(figsize=(11, 3.2 * len(rows)), layout="constrained")
    panels: dict[str, Axes] = figure.subplot_mosaic(rows)
    for name, axes in panels.items():
        if name != "scores":
            percent = name == "data_wait"
            values = _curve(axes, records, name, "C0", 100.0 if percent else 1.0)
            # From 0 on, but not as high as the few highest of many reach.
            top = min(values.max(), 1.5 * np.quantile(values, 0.97))
            axes.set_ylim(0, 1.05 * max(top, 10.0 if percent else 0.0) or 1.0)
        axes.set_title(_PANELS[name], loc="left", fontsize="medium")
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.margins(x=0.01)
    for colour, name in (("C1", "score"), ("C2", "box")):
        _curve(panels["loss"], records, name, colour)
    points = {name: (panels["scores"], name, f"C{number}") for number, name in enumerate(scores)}
    for name, (axes, label, colour) in {"val_loss": (panels["loss"], "validation", "C3"), **points}.items():
        if found := [(line["step"], line[name]) for line in lines if name in line]:
            axes.plot(*zip(*found, strict=True), color=colour, label=label, marker="o", markersize=3)
        axes.legend(loc="upper right", ncols=4)
    path = run / "curves.png"
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    return path


def _curve(axes: "Axes", records: list[Entry], name: str, colour: str, factor: float = 1.0) -> NDArray[np.float64]:
    """Draw a value of every record, and where there are many their running mean over them; return all values."""
    steps = np.array([record["step"] for record in records])
    values = factor * np.array([record[name] for record in records], dtype=np.float64)
    width = len(values) // _SMOOTH
    if width < 2 or name == "rate":
        axes.plot(steps, values, color=colour, label=name, marker="." if len(steps) < 3 else "")
        return values
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    ones = np.ones(2 * width + 1)
    mean = np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")
    axes.plot(steps, mean, color=colour, label=name)
    return values
