"""OTB, TempleColor128 and VOT: whatever sequence folders are there, each with its images, its boxes beside them."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles
from lorat.prep.trees.base.folders import annotation_files, file_names, frame_number, numbered_images
from lorat.prep.trees.base.reading import cut_clip, read_each
from lorat.prep.trees.base.text import RESTORE, RESTORE_FILE, read_boxes, read_text, shorten
from lorat.shards.base.errors import UserError

# Some of OTB's sequences are annotated over a part of their frames only; Tiger1 is scored without its first five.
_OTB_FIRST = {"David": 300, "BlurCar1": 247, "BlurCar3": 3, "BlurCar4": 18}
_OTB_LAST = {"Football1": 74, "Freeman3": 460, "Freeman4": 283, "Diving": 215}
_OTB_SKIPPED = {"Tiger1": 5}


def read_otb(dataset: Dataset, split: str, root: Path) -> list[Clip]:
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
        names = numbered_images(images)
        if len(names) != len(xywh):  # as many frames as rows need no table
            first, last = _OTB_FIRST.get(folder.name, 0), _OTB_LAST.get(folder.name, frame_number(names[-1]))
            names = tuple(image for image in names if first <= frame_number(image) <= last)
        skip = _OTB_SKIPPED.get(folder.name, 0)
        return cut_clip(dataset, split, name(file), FrameFiles(images, names[skip:]), xywh[skip:])

    found = annotation_files(root, "groundtruth_rect*.txt").values()
    objects = [file for files in found for file in files if len(files) == 1 or read_text(file).strip()]
    return read_each({name(file): file for file in objects}, clip)


def read_tc128(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read TempleColor128: ``<sequence>/img/%04d.jpg``, ``<sequence>_gt.txt``, ``<sequence>_frames.txt``.

    The last holds "first,last", the frames (from 1, both included) of the rows; its name may be in lower case. A
    sequence is called as its ground truth file, so pytracking's tree (folders ``tpl_<sequence>``) gives the same names.
    """

    def clip(file: Path) -> Clip:
        name, folder, xywh = file.name.removesuffix("_gt.txt"), file.parent / "img", read_boxes(file)
        wanted = f"{name}_frames.txt"
        spans = [text for text in file_names(file.parent, ".txt") if text.lower() == wanted.lower()]
        if spans:
            frames = FrameFiles(folder, _span(file.with_name(spans[0])), "%04d.jpg")
        else:
            frames = FrameFiles(folder, numbered_images(folder))
            if len(frames) != len(xywh):
                what = f"says which of the {len(frames)} images the {len(xywh)} boxes belong to"
                raise UserError(f"{file.parent}: no file {wanted} {what}; {RESTORE}")
        return cut_clip(dataset, split, name, frames, xywh)

    files = [file for files in annotation_files(root, "*_gt.txt").values() for file in files]
    return read_each({file.name.removesuffix("_gt.txt"): file for file in files}, clip)


def _span(path: Path) -> range:
    text = read_text(path).strip()
    match = re.fullmatch(r"(\d+)\s*[,\s]\s*(\d+)", text)
    if match is None or not 0 < int(match[1]) <= int(match[2]):
        what = f"line 1: expected first,last frame, found {shorten(text)}"
        raise UserError(f"{path}: {what}; {RESTORE_FILE}")
    return range(int(match[1]), int(match[2]) + 1)


def read_vot(dataset: Dataset, split: str, root: Path) -> list[Clip]:
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
