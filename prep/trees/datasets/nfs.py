"""NFS (Need for Speed), at 30 or 240 frames a second, in the official layout or pytracking's.

Official: ``<sequence>/<rate>/<sequence>/*.jpg`` and ``<sequence>/<rate>/<sequence>.txt``, a VATIC row a frame: id xmin
ymin xmax ymax frame lost occluded generated "label". Boxes are corners. The files of 30 frames a second still count
240: every 8th row belongs to an image. An object that is lost or occluded is not visible. pytracking's (30 only):
``sequences/<sequence>/%05d.jpg`` and ``anno/nfs_<sequence>.txt`` with x, y, width, height.
"""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles, make_clip
from lorat.prep.trees.base.folders import annotation_files, file_names, natural_order, numbered_images, subfolders
from lorat.prep.trees.base.reading import cut_clip, read_each, report_fault, report_lack, report_lengths
from lorat.prep.trees.base.text import RESTORE_FILE, read_boxes, read_text, shorten
from lorat.shards.base.errors import UserError

_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_ROW = re.compile(rf'(\d+)((?:\s+{_NUMBER}){{4}})\s+(\d+)\s+([01])\s+([01])\s+[01](?:\s+".*)?')
_RATE = 240
_PYTRACKINGS = (
    "is pytracking's tree, whose boxes, and all results made on it, count the last pixel in: a pixel wider and higher "
    "than the official tree's corners, which published LoRAT reads; compare only what was scored on the same tree"
)
# Frames, counted at 240 a second, from which on a sequence's rows are not used: published readers leave them out.
_USED_ROWS = {"pingpong_2": 263}


def read(rate: int, dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read every sequence at 30 frames a second, in either layout, or at 240."""
    anno, sequences = root / "anno", root / "sequences"
    if not (anno.is_dir() and sequences.is_dir()):
        folders = annotation_files(root, f"{rate}/*.txt")
        files = {folder.name: folder / str(rate) / f"{folder.name}.txt" for folder in folders}
        return read_each(files, lambda file: _clip(dataset, split, file, _RATE // rate))
    if rate != 30:
        what = "is pytracking's tree, which holds 30 frames a second"
        raise UserError(f"{root}: {what}; read it as nfs30, or give the official tree with --root nfs240=DIR")

    def clip(file: Path) -> Clip:
        name = file.stem.removeprefix("nfs_")
        if _ROW.fullmatch((line := read_text(file).partition("\n")[0]).strip()):
            where = f"{name}/30/{name}.txt, with its images in {name}/30/{name}"
            raise UserError(f"{file}: line 1: {shorten(line)} is a row of the official tree; lay it out as {where}")
        frames = FrameFiles(sequences / name, numbered_images(sequences / name))
        return cut_clip(dataset, split, name, frames, read_boxes(file))

    there = set(subfolders(sequences))
    files = {file.removesuffix(".txt").removeprefix("nfs_"): anno / file for file in file_names(anno, ".txt")}
    report_lack(anno, f"the {{}} in {sequences}", "annotated sequence", natural_order(files), there)
    report_fault(root.name, f"{root}: {_PYTRACKINGS}")
    return read_each({name: files[name] for name in natural_order(files.keys() & there)}, clip)


def _clip(dataset: Dataset, split: str, annotation: Path, step: int) -> Clip:
    """Read one sequence; `step` is how many frames at 240 a second make one image."""
    name, folder = annotation.stem, annotation.with_suffix("")
    whole = numbered_images(folder)
    frame, corners, hidden = _read_rows(annotation)
    # Some copies of the slow files have been thinned out: they count images.
    counted = 1 if frame.max() <= len(whole) else step
    image = np.where(frame % counted == 0, frame // counted, -1)
    image[frame * (step // counted) >= _USED_ROWS.get(name, np.inf)] = -1
    last = int(image.max()) + 1
    if abs(last - len(whole)) > 1 and name not in _USED_ROWS:
        what = f"{annotation}: rows for {last} images, but {len(whole)} in {folder}"
        report_lengths(dataset, split, name, last, len(whole), what)
    count = min(last, len(whole))
    frames = FrameFiles(folder, whole if name in _USED_ROWS else whole[:count])
    used = (image >= 0) & (image < count)
    xywh, absent = np.full((count, 4), np.nan), np.zeros(count, np.bool_)
    xywh[image[used]] = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])[used]
    absent[image[used]] = hidden[used]
    return make_clip(dataset, split, name, frames, xywh, whole, absent=absent)


def _read_rows(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return the frames (R,) from 0, the corners (R, 4) and what is lost or occluded (R,)."""
    frames, corners, hidden, objects = [], [], [], set()
    for number, line in enumerate(read_text(path).rstrip().splitlines(), start=1):
        if (match := _ROW.fullmatch(line.strip())) is None:
            wanted = "id, 4 corners, frame, lost, occluded, generated"
            raise UserError(f"{path}: line {number}: expected {wanted}, found {shorten(line)}; {RESTORE_FILE}")
        objects.add(match[1])
        corners.append([float(field) for field in match[2].split()])
        frames.append(int(match[3]))
        hidden.append("1" in (match[4], match[5]))
    if len(objects) != 1:
        raise UserError(f"{path}: rows of {len(objects)} objects, not of one; {RESTORE_FILE}")
    frame = np.array(frames, np.int64)
    # VATIC counts from 0, most of these files from 1.
    return frame - (frame.min() != 0), np.array(corners, np.float64), np.array(hidden, np.bool_)
