"""UAV123 and UAV20L: ``data_seq/UAV123/<folder>/%06d.jpg`` and ``anno/<set>/<sequence>.txt``.

Both sets read the same images. Several sequences of UAV123 are spans of one folder; their first
frames are a table here, their lengths the rows of the annotation. A row of NaN means that the
object is absent.
"""

from __future__ import annotations

from pathlib import Path

from lorat.prep.trees.base.clip import Clip, FrameFiles
from lorat.prep.trees.base.common import file_names, make_track, natural_order, subfolders
from lorat.prep.trees.base.dataset import Dataset
from lorat.prep.trees.base.reading import read_each
from lorat.prep.trees.base.text import read_boxes
from lorat.prep.trees.base.watch import note

__all__ = ["read_long", "read_short"]

# Folder → the frames that its sequences <folder>_1, <folder>_2, … begin with, as the data set's own
# toolkit lists them. Neighbours share a frame, apart from bird1's and uav1's gaps.
_FIRST_FRAMES = {
    "bird1": (1, 775, 1573),
    "car1": (1, 751, 1627),
    "car6": (1, 487, 1807, 2953, 3925),
    "car8": (1, 1357),
    "car16": (1, 415),
    "group1": (1, 1333, 2515, 3925),
    "group2": (1, 907, 1771),
    "group3": (1, 1567, 2827, 4369),
    "person2": (1, 1189),
    "person4": (1, 1501),
    "person5": (1, 877),
    "person7": (1, 1249),
    "person8": (1, 1075),
    "person12": (1, 601),
    "person14": (1, 847, 1813),
    "person17": (1, 1501),
    "person19": (1, 1243, 2791),
    "truck4": (1, 577),
    "uav1": (1, 1555, 2473),
}

_SPANS = {
    f"{folder}_{k}": (folder, first)
    for folder, firsts in _FIRST_FRAMES.items()
    for k, first in enumerate(firsts, start=1)
}


def read_short(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read the sequences of UAV123 whose images are there."""
    return _read(dataset, split, root, "UAV123", _SPANS)


def read_long(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read the sequences of UAV20L whose images are there: whole folders of UAV123."""
    return _read(dataset, split, root, "UAV20L", {})


def _read(
    dataset: Dataset, split: str, root: Path, part: str, spans: dict[str, tuple[str, int]]
) -> list[Clip]:
    images = root / "data_seq" / "UAV123"
    folder = root / "anno" / part
    if not folder.is_dir():
        note(folder)
        return []
    there = set(subfolders(images))
    found = {}
    for name in natural_order(Path(file).stem for file in file_names(folder, ".txt")):
        source, first = spans.get(name, (name, 1))
        if source in there:
            found[name] = (folder / f"{name}.txt", images / source, first)
    return read_each(found, lambda place: _clip(dataset, split, *place))


def _clip(dataset: Dataset, split: str, annotation: Path, images: Path, first: int) -> Clip:
    xywh = read_boxes(annotation)
    count = len(xywh)
    frames = FrameFiles(images, range(first, first + count), "%06d.jpg")
    track = make_track(xywh, count, one_based=dataset.one_based)
    return Clip(dataset.name, split, annotation.stem, frames, (track,), count)
