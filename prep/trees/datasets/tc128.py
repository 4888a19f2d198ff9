"""TempleColor128: whatever sequence folders are there, each with the span of frames that its boxes belong to."""

import re
from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles
from lorat.prep.trees.base.folders import annotation_files, file_names, numbered_images
from lorat.prep.trees.base.reading import cut_clip, read_each
from lorat.prep.trees.base.text import RESTORE, RESTORE_FILE, read_boxes, read_text, shorten
from lorat.shards.base.errors import UserError


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read TempleColor128: ``<sequence>/img/%04d.jpg``, ``<sequence>_gt.txt``, ``<sequence>_frames.txt``. The last
    holds "first,last", the frames (from 1, both included) of the rows; its name may be in lower case. A sequence is
    called as its ground truth file, so pytracking's tree (folders ``tpl_<sequence>``) gives the same names.
    """

    def clip(file: Path) -> Clip:
        name, folder, xywh = file.name.removesuffix("_gt.txt"), file.parent / "img", read_boxes(file)
        wanted = f"{name}_frames.txt"
        spans = [text for text in file_names(file.parent, ".txt") if text.lower() == wanted.lower()]
        whole: tuple[str, ...] = ()
        if spans:
            whole = numbered_images(folder) if folder.is_dir() else ()
            frames = FrameFiles(folder, _span(file.with_name(spans[0])), "%04d.jpg")
        else:
            frames = FrameFiles(folder, numbered_images(folder))
            if len(frames) != len(xywh):
                what = f"says which of the {len(frames)} images the {len(xywh)} boxes belong to"
                raise UserError(f"{file.parent}: no file {wanted} {what}; {RESTORE}")
        return cut_clip(dataset, split, name, frames, xywh, whole)

    files = [file for files in annotation_files(root, "*_gt.txt").values() for file in files]
    return read_each({file.name.removesuffix("_gt.txt"): file for file in files}, clip)


def _span(path: Path) -> range:
    text = read_text(path).strip()
    match = re.fullmatch(r"(\d+)\s*[,\s]\s*(\d+)", text)
    if match is None or not 0 < int(match[1]) <= int(match[2]):
        raise UserError(f"{path}: line 1: expected first,last frame, found {shorten(text)}; {RESTORE_FILE}")
    return range(int(match[1]), int(match[2]) + 1)
