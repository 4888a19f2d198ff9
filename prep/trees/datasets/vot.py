"""VOT: whatever sequence folders are there, with rectangles or polygons."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles
from lorat.prep.trees.base.folders import annotation_files, numbered_images
from lorat.prep.trees.base.reading import cut_clip, read_each
from lorat.prep.trees.base.text import read_boxes


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read VOT: ``<sequence>/color/%08d.jpg`` (the first challenges: without ``color``) and ``groundtruth.txt``.

    A line has 4 numbers (x, y, width, height) or 8 (a polygon's corners, read as its min/max box).
    """

    def clip(folder: Path) -> Clip:
        boxes = read_boxes(folder / "groundtruth.txt", columns=(4, 8))
        xywh = polygon_boxes(boxes) if boxes.shape[1] == 8 else boxes
        images = folder / "color" if (folder / "color").is_dir() else folder
        return cut_clip(dataset, split, folder.name, FrameFiles(images, numbered_images(images)), xywh)

    return read_each({folder.name: folder for folder in annotation_files(root, "groundtruth.txt")}, clip)


def polygon_boxes(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (N, 4) xywh boxes around polygons of (N, 8) corners x1, y1, …, x4, y4."""
    points = corners.reshape(len(corners), 4, 2)
    low = points.min(axis=1)
    return np.concatenate([low, points.max(axis=1) - low], axis=1)
