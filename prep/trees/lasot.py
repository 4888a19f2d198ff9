"""LaSOT and LaSOT_Extension: ``<class>/<class>-<k>/`` with ``img/%08d.jpg`` from 1.

A sequence's frames are its rows of ``groundtruth.txt``; more images than rows are normal
(monkey-17). Visible: neither flag is set (``full_occlusion.txt``, ``out_of_view.txt``, one line of
0/1 each) and the box has size: many absent frames carry a box. Sequences directly in the root are
found too.
"""

from __future__ import annotations

import re
from pathlib import Path

from lorat.prep.trees.clip import Clip, FrameFiles
from lorat.prep.trees.common import make_track, natural_order, subfolders
from lorat.prep.trees.dataset import Dataset
from lorat.prep.trees.official import official_names
from lorat.prep.trees.text import read_boxes, read_flags, read_names

__all__ = ["read", "read_extension"]

_SPLIT_FILES = {"train": "training_set.txt", "test": "testing_set.txt"}
_SEQUENCE = re.compile(r".+-\d+")


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read LaSOT: the tree's own list of the split, else the official one, cut to what is there."""
    listed = root / _SPLIT_FILES[split]
    names = read_names(listed) if listed.is_file() else official_names("lasot", split) or ()
    found = _sequences(root)
    return [_clip(dataset, split, found[name]) for name in names if name in found]


def read_extension(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read LaSOT_Extension: every sequence there is, since the tree has no list."""
    found = _sequences(root)
    return [_clip(dataset, split, found[name]) for name in natural_order(found)]


def _sequences(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in subfolders(root):
        if _SEQUENCE.fullmatch(name):
            found[name] = root / name
            continue
        nested = (inner for inner in subfolders(root / name) if _SEQUENCE.fullmatch(inner))
        found.update((inner, root / name / inner) for inner in nested)
    return found


def _clip(dataset: Dataset, split: str, folder: Path) -> Clip:
    xywh = read_boxes(folder / "groundtruth.txt")
    count = len(xywh)
    occluded = read_flags(folder / "full_occlusion.txt", count)
    outside = read_flags(folder / "out_of_view.txt", count)
    track = make_track(xywh, count, one_based=dataset.one_based, absent=occluded | outside)
    frames = FrameFiles(folder / "img", range(1, count + 1), "%08d.jpg")
    return Clip(dataset.name, split, folder.name, frames, (track,), count)
