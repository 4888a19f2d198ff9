"""TempleColor128: ``<sequence>/img/%04d.jpg``, ``<sequence>_gt.txt``, ``<sequence>_frames.txt``.

The second file holds "first,last", the frames (from 1, both included) that the rows of the first
belong to; its name may be in lower case. A sequence is called as its ground truth file, so the tree
that pytracking asks for (folders ``tpl_<sequence>``) gives the same names.
"""

from __future__ import annotations

import re
from pathlib import Path

from lorat.prep.trees.base.clip import Clip, FrameFiles
from lorat.prep.trees.base.common import annotation_files, cut_clip, file_names, numbered_images
from lorat.prep.trees.base.dataset import Dataset
from lorat.prep.trees.base.reading import read_each
from lorat.prep.trees.base.text import read_boxes, read_text
from lorat.shards.base.errors import UserError

__all__ = ["read"]

_SUFFIX = "_gt.txt"


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read every sequence folder of `root`."""
    found = {
        file.name.removesuffix(_SUFFIX): file
        for files in annotation_files(root, f"*{_SUFFIX}").values()
        for file in files
    }
    return read_each(found, lambda file: _clip(dataset, split, file))


def _clip(dataset: Dataset, split: str, annotation: Path) -> Clip:
    name = annotation.name.removesuffix(_SUFFIX)
    xywh = read_boxes(annotation)
    frames = _frames(annotation.parent, name, len(xywh))
    return cut_clip(dataset, split, name, frames, xywh)


def _frames(folder: Path, name: str, rows: int) -> FrameFiles:
    """Return the annotated frames."""
    images = folder / "img"
    wanted = f"{name}_frames.txt".lower()
    for file in file_names(folder, ".txt"):
        if file.lower() == wanted:
            return FrameFiles(images, _span(folder / file), "%04d.jpg")
    names = numbered_images(images)
    if len(names) != rows:
        raise UserError(
            f"{folder}: no file {name}_frames.txt says which of the {len(names)} images the {rows} "
            "boxes belong to; restore it from the data set's archive"
        )
    return FrameFiles(images, names)


def _span(path: Path) -> range:
    text = read_text(path).strip()
    match = re.fullmatch(r"(\d+)\s*[,\s]\s*(\d+)", text)
    if match is None or not 0 < int(match[1]) <= int(match[2]):
        raise UserError(
            f"{path}: line 1: expected first,last frame, found {text[:60]!r}; restore "
            "the file from the data set's archive"
        )
    return range(int(match[1]), int(match[2]) + 1)
