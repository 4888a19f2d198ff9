"""What several tree readers share: listing folders, cutting to what is there, building tracks."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.clip import Clip, FrameFiles, Track
from lorat.prep.trees.dataset import Dataset
from lorat.shards.errors import UserError

__all__ = [
    "annotation_files",
    "cut_clip",
    "frame_number",
    "image_names",
    "make_track",
    "natural_order",
    "numbered_images",
    "subfolders",
]

_LOG = logging.getLogger("lorat")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names with the numbers in them compared as numbers: a-2 before a-10."""
    return sorted(names, key=lambda name: (_number_key(name), name))


def _number_key(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name)
    # Odd positions are digits; leading text compares first, so each key alternates text, number.
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)]


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in `folder`, sorted; hidden ones are left out.

    Raises:
        UserError: if `folder` is missing.
    """
    return sorted(entry.name for entry in _entries(folder) if entry.is_dir())


def image_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the images in `folder`, sorted as text; hidden files are left out.

    Raises:
        UserError: if `folder` is missing or holds no image.
    """
    names = (entry.name for entry in _entries(folder))
    images = tuple(sorted(name for name in names if name.lower().endswith(_IMAGE_SUFFIXES)))
    if not images:
        raise UserError(f"{folder}: holds no images; restore them from the data set's archive")
    return images


def numbered_images(folder: Path) -> tuple[str, ...]:
    """Return the names of the images whose stem is a number, sorted by that number.

    Raises:
        UserError: if `folder` is missing or holds no such image.
    """
    names = [name for name in image_names(folder) if frame_number(name) >= 0]
    if not names:
        raise UserError(f"{folder}: no image is named by its frame number; restore the frames")
    return tuple(sorted(names, key=frame_number))


def frame_number(name: str) -> int:
    """Return the number that an image is named by, or -1."""
    stem = name.rpartition(".")[0]
    return int(stem) if stem.isdecimal() else -1


def annotation_files(root: Path, pattern: str) -> dict[Path, list[Path]]:
    """Return the sequence folders of `root` with their annotation files, in natural order.

    A folder without a file that matches `pattern` is left out with a warning.
    """
    found: dict[Path, list[Path]] = {}
    for name in natural_order(subfolders(root)):
        files = sorted((root / name).glob(pattern))
        if files:
            found[root / name] = files
        else:
            _LOG.warning("%s: no %s, so it is not read as a sequence", root / name, pattern)
    return found


def make_track(
    xywh: NDArray[np.float64],
    frames: int,
    *,
    one_based: bool = False,
    absent: NDArray | None = None,
    cover: NDArray[np.int64] | None = None,
) -> Track:
    """Build a track from the boxes of a tree.

    Args:
        xywh: (R, 4) as written, R <= frames.
        frames: N, the sequence's frames; rows R … N - 1 have no annotation.
        one_based: subtract 1 from x and y.
        absent: (R,) non-zero where the tree says that the object is not visible.
        cover: (R,) GOT-10k's share of the object that is visible.
    """
    rows = len(xywh)
    boxes = np.full((frames, 4), np.nan)
    boxes[:rows, :2] = xywh[:, :2] - (1.0 if one_based else 0.0)
    boxes[:rows, 2:] = boxes[:rows, :2] + xywh[:, 2:]
    visible = np.zeros(frames, dtype=np.bool_)
    visible[:rows] = np.isfinite(xywh).all(axis=1) & (xywh[:, 2] > 0) & (xywh[:, 3] > 0)
    if absent is not None:
        visible[:rows] &= absent == 0
    if cover is not None:
        cover = np.concatenate([cover, np.zeros(frames - rows, dtype=np.int64)])
    return Track(boxes, visible, cover)


def cut_clip(
    dataset: Dataset, split: str, name: str, frames: FrameFiles, xywh: NDArray[np.float64]
) -> Clip:
    """Build a clip of one track; frames without a box, or boxes without a frame, are cut.

    Args:
        dataset: the data set.
        split: its split.
        name: the clip's name.
        frames: the sequence's frames in order.
        xywh: (R, 4) boxes of frames 0 … R - 1, as written.
    """
    count = min(len(frames), len(xywh))
    if len(frames) != len(xywh):
        _LOG.warning(
            "%s: %d images but %d boxes of %s; only the first %d frames are used",
            *(frames.folder, len(frames), len(xywh), name, count),
        )
    kept = FrameFiles(frames.folder, frames.names[:count], frames.pattern)
    track = make_track(xywh[:count], count, one_based=dataset.one_based)
    return Clip(dataset.name, split, name, kept, (track,), count)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be listed ({error.strerror}); restore it from the data set's archive"
        ) from None
