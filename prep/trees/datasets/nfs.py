"""NFS (Need for Speed), at 30 or 240 frames a second, in the official layout or pytracking's.

Official: ``<sequence>/<rate>/<sequence>/*.jpg`` and ``<sequence>/<rate>/<sequence>.txt``, a VATIC
row a frame: id xmin ymin xmax ymax frame lost occluded generated "label". Boxes are corners. The
files of 30 frames a second still count 240: every 8th row belongs to an image. An object that is
lost or occluded is not visible. pytracking's (30 only): ``sequences/<sequence>/%05d.jpg`` and
``anno/nfs_<sequence>.txt`` with x, y, width, height.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.clip import Clip, FrameFiles
from lorat.prep.trees.base.common import (
    annotation_files,
    cut_clip,
    file_names,
    make_track,
    natural_order,
    numbered_images,
    subfolders,
)
from lorat.prep.trees.base.dataset import Dataset
from lorat.prep.trees.base.reading import read_each, report_fault
from lorat.prep.trees.base.text import read_boxes, read_text
from lorat.shards.base.errors import UserError

__all__ = ["read_30", "read_240"]

_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_ROW = re.compile(rf'(\d+)((?:\s+{_NUMBER}){{4}})\s+(\d+)\s+([01])\s+([01])\s+[01](?:\s+".*)?')
_RATE = 240
# Frames, counted at 240 a second, from which on a sequence's rows are not used: published readers
# leave them out.
_USED_ROWS = {"pingpong_2": 263}


def read_30(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read every sequence at 30 frames a second, in either layout."""
    if (root / "anno").is_dir() and (root / "sequences").is_dir():
        return _read_pytracking(dataset, split, root)
    return _read_official(dataset, split, root, 30)


def read_240(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read every sequence at 240 frames a second."""
    if (root / "anno").is_dir() and (root / "sequences").is_dir():
        raise UserError(
            f"{root}: is pytracking's tree, which holds 30 frames a second; read it as nfs30, or "
            "give the official tree with --root nfs240=DIR"
        )
    return _read_official(dataset, split, root, _RATE)


def _read_pytracking(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    there = set(subfolders(root / "sequences"))
    files = {file.removesuffix(".txt"): file for file in file_names(root / "anno", ".txt")}
    named = {stem.removeprefix("nfs_"): file for stem, file in files.items()}
    found = {
        name: (root / "sequences" / name, root / "anno" / named[name])
        for name in natural_order(named.keys() & there)
    }

    def clip(place: tuple[Path, Path]) -> Clip:
        images, annotation = place
        frames = FrameFiles(images, numbered_images(images))
        return cut_clip(dataset, split, images.name, frames, read_boxes(annotation))

    return read_each(found, clip)


def _read_official(dataset: Dataset, split: str, root: Path, rate: int) -> list[Clip]:
    files = annotation_files(root, f"{rate}/*.txt")
    found = {folder.name: folder / str(rate) / f"{folder.name}.txt" for folder in files}
    return read_each(found, lambda file: _clip(dataset, split, file, _RATE // rate))


@dataclass(frozen=True, eq=False, slots=True)
class _Rows:
    """The R rows of one VATIC file."""

    frame: NDArray[np.int64]
    """(R,) from 0, as the file counts."""
    boxes: NDArray[np.float64]
    """(R, 4) xyxy."""
    hidden: NDArray[np.bool_]
    """(R,) lost or occluded."""


def _clip(dataset: Dataset, split: str, annotation: Path, step: int) -> Clip:
    """Read one sequence; `step` is how many frames at 240 a second make one image."""
    name = annotation.stem
    folder = annotation.parent / name
    frames = FrameFiles(folder, numbered_images(folder))
    rows = _read_rows(annotation)
    index = _image_indices(rows.frame, len(frames), step, _USED_ROWS.get(name))
    last = int(index.max()) + 1
    if abs(last - len(frames)) > 1 and name not in _USED_ROWS:
        report_fault(
            name,
            f"{annotation}: rows for {last} images, but {len(frames)} in {folder}; what lies "
            "beyond the shorter of them is not used",
            damage=len(frames) < last,
        )
    count = min(last, len(frames))
    used = (index >= 0) & (index < count)
    corners = np.full((count, 4), np.nan)
    corners[index[used]] = rows.boxes[used]
    hidden = np.zeros(count, np.bool_)
    hidden[index[used]] = rows.hidden[used]
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    track = make_track(xywh, len(frames), one_based=dataset.one_based, absent=hidden)
    return Clip(dataset.name, split, name, frames, (track,), count)


def _image_indices(
    frame: NDArray[np.int64], images: int, step: int, limit: int | None
) -> NDArray[np.int64]:
    """Return the image that each row belongs to, or -1.

    Args:
        frame: (R,) the rows' frames, from 0.
        images: how many images there are.
        step: frames at 240 a second for one image.
        limit: rows from this frame at 240 a second on are not used.
    """
    # Some copies of the slow files have been thinned out: they count images.
    counted = 1 if frame.max() <= images else step
    index = np.where(frame % counted == 0, frame // counted, -1)
    if limit is not None:
        index[frame * (step // counted) >= limit] = -1
    return index


def _read_rows(path: Path) -> _Rows:
    frames, boxes, hidden, tracks = [], [], [], set()
    for number, line in enumerate(read_text(path).rstrip().splitlines(), start=1):
        match = _ROW.fullmatch(line.strip())
        if match is None:
            raise UserError(
                f"{path}: line {number}: expected id, 4 corners, frame, lost, occluded, generated, "
                f"found {line.strip()[:60]!r}; restore the file from the data set's archive"
            )
        tracks.add(match[1])
        boxes.append([float(field) for field in match[2].split()])
        frames.append(int(match[3]))
        hidden.append("1" in (match[4], match[5]))
    if len(tracks) != 1:
        raise UserError(
            f"{path}: rows of {len(tracks)} objects, not of one; restore the file from the data "
            "set's archive"
        )
    frame = np.array(frames, np.int64)
    # VATIC counts from 0, most of these files from 1.
    start = 0 if frame.min() == 0 else 1
    return _Rows(frame - start, np.array(boxes, np.float64), np.array(hidden, np.bool_))
