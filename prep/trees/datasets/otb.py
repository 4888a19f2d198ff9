"""OTB: whatever sequence folders are there, with an annotation file for each of their objects."""

from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles
from lorat.prep.trees.base.folders import annotation_files, frame_number, numbered_images
from lorat.prep.trees.base.reading import cut_clip, read_each
from lorat.prep.trees.base.text import read_boxes, read_text

# Some sequences are annotated over a part of their frames only; Tiger1 is scored without its first five.
_FIRST = {"David": 300, "BlurCar1": 247, "BlurCar3": 3, "BlurCar4": 18}
_LAST = {"Football1": 74, "Freeman3": 460, "Freeman4": 283, "Diving": 215}
_SKIPPED = {"Tiger1": 5}


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read OTB: ``<Name>/img/%04d.jpg`` and ``<Name>/groundtruth_rect.txt``.

    A folder with several objects has one annotation file each and gives one clip each: ``Jogging_1`` from
    ``Jogging/groundtruth_rect.1.txt``. An empty one of several is no object (Human4's first).
    """

    def name(file: Path) -> str:
        which = file.name.removeprefix("groundtruth_rect").removesuffix(".txt").strip(".")
        return f"{file.parent.name}_{which}" if which else file.parent.name

    def clip(file: Path) -> Clip:
        folder, xywh = file.parent, read_boxes(file)
        # One mirror has KiteSurf's frames in jpg/ instead.
        images = folder / ("img" if (folder / "img").is_dir() else "jpg")
        names = whole = numbered_images(images)
        if len(names) != len(xywh):  # as many frames as rows need no table
            first, last = _FIRST.get(folder.name, 0), _LAST.get(folder.name, frame_number(names[-1]))
            names = tuple(image for image in names if first <= frame_number(image) <= last)
        skip = _SKIPPED.get(folder.name, 0)
        return cut_clip(dataset, split, name(file), FrameFiles(images, names[skip:]), xywh[skip:], whole)

    found = annotation_files(root, "groundtruth_rect*.txt").values()
    objects = [file for files in found for file in files if len(files) == 1 or read_text(file).strip()]
    return read_each({name(file): file for file in objects}, clip)
