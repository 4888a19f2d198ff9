"""TNL2K: ``<sequence>/imgs/*`` (JPEG and PNG, any stems) and ``groundtruth.txt``.

Train and test are separate trees, and released folder names differ from the official list, so a
split is every sequence folder there is, less those that only the other split's list has. Frames are
sorted by name as text. A box without size means that the object is absent.
"""

from __future__ import annotations

from pathlib import Path

from lorat.prep.trees.base.clip import Clip, FrameFiles
from lorat.prep.trees.base.common import annotation_files, cut_clip, image_names
from lorat.prep.trees.base.dataset import Dataset
from lorat.prep.trees.base.official import official_names
from lorat.prep.trees.base.reading import read_each
from lorat.prep.trees.base.text import read_boxes
from lorat.shards.base.errors import UserError

__all__ = ["read"]


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read a split from its own tree, or from a folder that holds the trees of both."""
    other = "train" if split == "test" else "test"
    nested = root / dataset.folder_of(split)
    if nested.is_dir():
        root = nested
    elif (root / dataset.folder_of(other)).is_dir():
        raise UserError(f"{nested}: no such folder; put TNL2K's {split} sequences there")
    foreign = _official(dataset, other) - _official(dataset, split)
    folders = annotation_files(root, "groundtruth.txt")
    found = {folder.name: folder for folder in folders if _plain(folder.name) not in foreign}
    return read_each(found, lambda folder: _clip(dataset, split, folder))


def _clip(dataset: Dataset, split: str, folder: Path) -> Clip:
    images = folder / "imgs"
    frames = FrameFiles(images, image_names(images))
    return cut_clip(dataset, split, folder.name, frames, read_boxes(folder / "groundtruth.txt"))


def _official(dataset: Dataset, split: str) -> set[str]:
    return {_plain(name) for name in official_names(dataset.name, split) or ()}


def _plain(name: str) -> str:
    """Return a name as both the list and the folders have it: without spaces and ampersands."""
    return name.replace(" ", "").replace("&", "")
