"""What several tree readers share: listing folders, cutting to what is there, building tracks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.prep.trees.base.dataset import Dataset
from lorat.prep.trees.base.reading import report_fault
from lorat.prep.trees.base.watch import note
from lorat.shards.base.errors import UserError

__all__ = [
    "annotation_files",
    "counted_images",
    "cut_clip",
    "file_names",
    "frame_number",
    "image_names",
    "make_track",
    "natural_order",
    "numbered_images",
    "sequence_folders",
    "subfolders",
]

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
_SEQUENCE = re.compile(r".+-\d+")


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


def sequence_folders(root: Path, images: str = "") -> dict[str, Path]:
    """Return the folders ``<class>/<class>-<k>``, and ``<class>-<k>`` in the root itself, by name.

    Args:
        root: the tree.
        images: the folder that only a sequence has, where a class may be called like one.

    Raises:
        UserError: if `root` is missing.
    """
    found: dict[str, Path] = {}
    for name in subfolders(root):
        if _SEQUENCE.fullmatch(name) and (root / name / images).is_dir():
            found[name] = root / name
            continue
        nested = (inner for inner in subfolders(root / name) if _SEQUENCE.fullmatch(inner))
        found.update((inner, root / name / inner) for inner in nested)
    return found


def file_names(folder: Path, suffix: str) -> list[str]:
    """Return the names in `folder` that end in `suffix`, sorted; hidden files are left out.

    Raises:
        UserError: if `folder` is missing.
    """
    return sorted(entry.name for entry in _entries(folder) if entry.name.endswith(suffix))


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


def counted_images(folder: Path, first: int) -> tuple[str, ...]:
    """Return the images of a folder, which alone tells how many frames its sequence has.

    A number that is missing between `first` and the last shifts all frames behind it: a fault.

    Args:
        folder: the sequence's own, called as the sequence.
        first: the number of the data set's first frames.

    Raises:
        UserError: as `numbered_images`.
    """
    names = numbered_images(folder)
    numbers = [frame_number(name) for name in names]
    missing = sorted(set(range(first, numbers[-1])).difference(numbers))
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        message = f"{folder}: image number {missing[0]}{more} missing; restore the frames"
        report_fault(folder.name, message, damage=True)
    return names


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
        note((root / name / pattern).parent)
        files = sorted((root / name).glob(pattern))
        if files:
            found[root / name] = files
        else:
            report_fault(name, f"{root / name}: no {pattern}, so it is not read as a sequence")
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
        report_fault(
            name,
            f"{frames.folder}: {len(frames)} images but {len(xywh)} boxes of {name}; only the "
            f"first {count} frames are used",
            damage=len(frames) < len(xywh),
        )
    kept = FrameFiles(frames.folder, frames.names[:count], frames.pattern)
    track = make_track(xywh[:count], count, one_based=dataset.one_based)
    return Clip(dataset.name, split, name, kept, (track,), count)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    note(folder)
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be listed ({error.strerror}); restore it from the data set's archive"
        ) from None
