"""OTB: ``<Name>/img/%04d.jpg`` and ``<Name>/groundtruth_rect.txt``, whatever sequences are there.

A folder with several objects has one annotation file each and gives one clip each: ``Jogging_1`` from
``Jogging/groundtruth_rect.1.txt``. An empty one of several is no object (Human4's first). Some sequences are annotated
over a part of their frames only; Tiger1 is scored without its first five.
"""

from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles
from lorat.prep.trees.base.folders import annotation_files, frame_number, numbered_images
from lorat.prep.trees.base.reading import cut_clip, read_each
from lorat.prep.trees.base.text import read_boxes, read_text

_FIRST_FRAME = {"David": 300, "BlurCar1": 247, "BlurCar3": 3, "BlurCar4": 18}
_LAST_FRAME = {"Football1": 74, "Freeman3": 460, "Freeman4": 283, "Diving": 215}
_ROWS_SKIPPED = {"Tiger1": 5}


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read every sequence folder of `root`."""
    found = {
        _name(file): file
        for files in annotation_files(root, "groundtruth_rect*.txt").values()
        for file in files
        if len(files) == 1 or read_text(file).strip()
    }
    return read_each(found, lambda file: _clip(dataset, split, file))


def _name(annotation: Path) -> str:
    which = annotation.name.removeprefix("groundtruth_rect").removesuffix(".txt").strip(".")
    return f"{annotation.parent.name}_{which}" if which else annotation.parent.name


def _clip(dataset: Dataset, split: str, annotation: Path) -> Clip:
    folder = annotation.parent
    xywh = read_boxes(annotation)
    # One mirror has KiteSurf's frames in jpg/ instead.
    images = folder / ("img" if (folder / "img").is_dir() else "jpg")
    names = numbered_images(images)
    if len(names) != len(xywh):  # as many frames as rows need no table
        first = _FIRST_FRAME.get(folder.name, 0)
        last = _LAST_FRAME.get(folder.name, frame_number(names[-1]))
        names = tuple(name for name in names if first <= frame_number(name) <= last)
    skip = _ROWS_SKIPPED.get(folder.name, 0)
    frames = FrameFiles(images, names[skip:])
    return cut_clip(dataset, split, _name(annotation), frames, xywh[skip:])
