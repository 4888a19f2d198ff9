"""TrackingNet: ``<chunk>/anno/<name>.txt`` and ``<chunk>/frames/<name>/%d.jpg`` from 0.

The training split is the chunks TRAIN_0 to TRAIN_11 that are there, and in each the sequences that
have annotations and frames. TEST gives the first box only: frames are counted on disk. There are no
visibility flags, only boxes without size or outside the frame.
"""

from __future__ import annotations

from pathlib import Path

from lorat.prep.trees.clip import Clip, FrameFiles
from lorat.prep.trees.common import make_track, numbered_images, subfolders
from lorat.prep.trees.dataset import Dataset
from lorat.prep.trees.text import read_boxes
from lorat.shards.errors import UserError

__all__ = ["read"]

_CHUNKS = {"train": tuple(f"TRAIN_{k}" for k in range(12)), "test": ("TEST",)}


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read the chunks of a split that are on disk."""
    chunks = [root / chunk for chunk in _CHUNKS[split] if (root / chunk).is_dir()]
    if not chunks:
        raise UserError(
            f"{root}: holds none of the folders {_CHUNKS[split][0]} … of TrackingNet's {split} "
            "split; extract at least one of them there"
        )
    return [clip for chunk in chunks for clip in _chunk(dataset, split, chunk)]


def _chunk(dataset: Dataset, split: str, chunk: Path) -> list[Clip]:
    if not (chunk / "frames").is_dir():
        raise UserError(f"{chunk}: no folder frames; extract each file of zips/ to frames/<name>/")
    there = set(subfolders(chunk / "frames"))
    files = sorted(file for file in (chunk / "anno").glob("*.txt") if file.stem in there)
    return [_clip(dataset, split, chunk / "frames" / file.stem, file) for file in files]


def _clip(dataset: Dataset, split: str, folder: Path, annotation: Path) -> Clip:
    xywh = read_boxes(annotation)
    if split == "test":
        frames = FrameFiles(folder, numbered_images(folder))
        xywh = xywh[: len(frames)]
    else:
        frames = FrameFiles(folder, range(len(xywh)), "%d.jpg")
    track = make_track(xywh, len(frames), one_based=dataset.one_based)
    return Clip(dataset.name, split, folder.name, frames, (track,), len(xywh))
