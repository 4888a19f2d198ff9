"""UAV123, UAV20L and UAV123@10fps: ``data_seq/<tree>/<folder>/%06d.jpg`` and ``anno/<set>/<sequence>.txt``.

UAV123 and UAV20L read the same images; UAV123_10fps is a tree of its own, of every third image. Several sequences of
UAV123 are spans of one folder; their first frames are a table here, their lengths the rows of the annotation. A row of
NaN means that the object is absent.
"""

from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles, make_clip
from lorat.prep.trees.base.folders import file_names, natural_order, subfolders
from lorat.prep.trees.base.reading import note, read_each, report_lack
from lorat.prep.trees.base.text import read_boxes

# Folder → the frames that its sequences <folder>_1, <folder>_2, … begin with, as the data set's own toolkit lists them.
# Neighbours share a frame, apart from bird1's and uav1's gaps.
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

_SPANS = {f"{name}_{k}": (name, first) for name, firsts in _FIRST_FRAMES.items() for k, first in enumerate(firsts, 1)}


def read(part: str, dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read the sequences of UAV123, of UAV20L (whole folders of it), or of UAV123_10fps, whose images are there."""
    spans = _SPANS if part != "UAV20L" else {}
    step = 3 if part == "UAV123_10fps" else 1
    folder, images = root / "anno" / part, root / "data_seq" / ("UAV123" if step == 1 else part)
    if not folder.is_dir():
        note(folder)
        return []

    def clip(name: str) -> Clip:
        source, first = spans.get(name, (name, 1))
        first, xywh = (first - 1) // step + 1, read_boxes(folder / f"{name}.txt")
        frames = FrameFiles(images / source, range(first, first + len(xywh)), "%06d.jpg")
        whole = file_names(images / source, ".jpg") if name in spans else ()
        return make_clip(dataset, split, name, frames, xywh, whole)

    there = set(subfolders(images))
    names = natural_order(Path(file).stem for file in file_names(folder, ".txt"))
    named = sorted({spans.get(name, (name, 1))[0] for name in names})
    report_lack(folder, f"the {{}} in {images}", "annotated folder", named, there)
    return read_each({name: name for name in names if spans.get(name, (name, 1))[0] in there}, clip)
