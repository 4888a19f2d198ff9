"""TempleColor128: ``<sequence>/img/%04d.jpg``, ``<sequence>_gt.txt``, ``<sequence>_frames.txt``.

The second file holds "first,last", the frames (from 1, both included) that the rows of the first belong to; its name
may be in lower case. A sequence is called as its ground truth file, so the tree that pytracking asks for (folders
``tpl_<sequence>``) gives the same names.
"""

import re
from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles
from lorat.prep.trees.base.folders import annotation_files, file_names, numbered_images
from lorat.prep.trees.base.reading import cut_clip, read_each
from lorat.prep.trees.base.text import RESTORE, RESTORE_FILE, read_boxes, read_text, shorten
from lorat.shards.base.errors import UserError

_SUFFIX = "_gt.txt"


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read every sequence folder of `root`."""
    files = [file for files in annotation_files(root, f"*{_SUFFIX}").values() for file in files]
    found = {file.name.removesuffix(_SUFFIX): file for file in files}

    def clip(file: Path) -> Clip:
        name, xywh = file.name.removesuffix(_SUFFIX), read_boxes(file)
        return cut_clip(dataset, split, name, _frames(file.parent, name, len(xywh)), xywh)

    return read_each(found, clip)


def _frames(folder: Path, name: str, rows: int) -> FrameFiles:
    """Return the annotated frames."""
    wanted = f"{name}_frames.txt"
    for file in file_names(folder, ".txt"):
        if file.lower() == wanted.lower():
            return FrameFiles(folder / "img", _span(folder / file), "%04d.jpg")
    names = numbered_images(folder / "img")
    if len(names) == rows:
        return FrameFiles(folder / "img", names)
    raise UserError(
        f"{folder}: no file {wanted} says which of the {len(names)} images the {rows} boxes belong to; {RESTORE}"
    )


def _span(path: Path) -> range:
    text = read_text(path).strip()
    match = re.fullmatch(r"(\d+)\s*[,\s]\s*(\d+)", text)
    if match is None or not 0 < int(match[1]) <= int(match[2]):
        what = f"line 1: expected first,last frame, found {shorten(text)}"
        raise UserError(f"{path}: {what}; {RESTORE_FILE}")
    return range(int(match[1]), int(match[2]) + 1)
