"""OTB: whatever sequence folders are there, with an annotation file for each of their objects."""

from math import inf
from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles
from lorat.prep.trees.base.folders import annotation_files, frame_number, numbered_images
from lorat.prep.trees.base.official import official_names
from lorat.prep.trees.base.reading import cut_clip, read_each, report_fault
from lorat.prep.trees.base.text import read_boxes, read_text
from lorat.shards.base.errors import some

# Some sequences are annotated over a part of their frames only; Tiger1 is scored without its first five.
_FIRST = {"David": 300, "BlurCar1": 247, "BlurCar3": 3, "BlurCar4": 18, "Tiger1": 6}
_CUT = ("Tiger1",)  # though its rows may begin with the first image
_LAST = {"Football1": 74, "Freeman3": 460, "Freeman4": 283, "Diving": 215}


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read OTB: ``<Name>/img/%04d.jpg`` and ``<Name>/groundtruth_rect.txt``; the splits 50 and 2013 are parts of it. A
    folder with several objects has one annotation file each and gives one clip each: ``Jogging_1`` from
    ``Jogging/groundtruth_rect.1.txt``. An empty one of several is no object (Human4's first). A folder ``Jogging-1``
    with that file, or one file alone, is that one object, as pysot asks for: left out where it is there already.
    """
    chosen = None if split == "all" else set(official_names("otb", split) or ())
    known = official_names("otb", "all") or ()
    objects, copies = dict[str, Path](), list[str]()
    folders = annotation_files(root, "groundtruth_rect*.txt")  # Jogging before Jogging-1
    for folder, files in folders.items():
        base, _, which = folder.name.rpartition("-")
        own, whole = folder / f"groundtruth_rect.{which}.txt", folder / "groundtruth_rect.txt"
        if base and own in files:
            files = [own]
        named = {_name(file): file for file in files}
        if files == [whole] and base and (root / base in folders or f"{base}_{which}" in known):
            named = {f"{base}_{which}": whole}
        for name, file in named.items():
            filled = len(files) == 1 or read_text(file).strip()
            if filled and (chosen is None or name in chosen) and objects.setdefault(name, file) != file:
                copies.append(folder.name)
    if copies:
        what = f"{some(copies)}: holds an object that is read from another folder already, so it is left out"
        report_fault(copies[0], f"{root}: {what}")

    def clip(name: str) -> Clip:
        folder, xywh = objects[name].parent, read_boxes(objects[name])
        # One mirror has KiteSurf's frames in jpg/ instead.
        images = folder / ("img" if (folder / "img").is_dir() else "jpg")
        whole = numbered_images(images)
        first, last = _FIRST.get(folder.name, 0), _LAST.get(folder.name, inf)
        names = tuple(image for image in whole if first <= frame_number(image) <= last)
        if len(whole) == len(xywh):  # a row an image needs no table
            names, xywh = (names, xywh[len(whole) - len(names) :]) if folder.name in _CUT else (whole, xywh)
        return cut_clip(dataset, split, name, FrameFiles(images, names), xywh, whole)

    return read_each({name: name for name in objects}, clip)


def _name(file: Path) -> str:
    """Return the name of an annotation file's object."""
    which = file.name.removeprefix("groundtruth_rect").removesuffix(".txt").strip(".")
    return f"{file.parent.name.removesuffix(f'-{which}')}_{which}" if which else file.parent.name
