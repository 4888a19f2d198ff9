"""A tree of one's own: ``<split>/<sequence>/`` with frames and ``groundtruth.txt``.

Frames are the images of the folder, or of its ``img/``, sorted by name as text. ``groundtruth.txt``
has a line x,y,w,h (0-based) for each frame, or one line in all where a test set gives no more;
``absent.txt``, if it is there, a 0 or 1 for each line. Any folder name is a split, and the split
``all`` is every split there is.
"""

from __future__ import annotations

from pathlib import Path

from lorat.prep.trees.base.clip import Clip, FrameFiles
from lorat.prep.trees.base.common import annotation_files, image_names, make_track, subfolders
from lorat.prep.trees.base.dataset import Dataset
from lorat.prep.trees.base.reading import read_each
from lorat.prep.trees.base.text import read_boxes, read_flags
from lorat.shards.base.errors import UserError

__all__ = ["read"]


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read the sequences of one split folder, or with ``all`` those of every one."""
    splits = subfolders(root)
    if split != "all" and split not in splits:
        raise UserError(
            f"{root}: no folder '{split}'; there are: {', '.join(splits) or 'none'}. Sequences "
            "lie in <root>/<split>/<sequence>/"
        )
    found: dict[str, Path] = {}
    for part in splits if split == "all" else [split]:
        for folder in annotation_files(root / part, "groundtruth.txt"):
            if folder.name in found:
                raise UserError(
                    f"{folder}: has the same name as {found[folder.name]}; rename one of them"
                )
            found[folder.name] = folder
    return read_each(found, lambda folder: _clip(dataset, split, folder))


def _clip(dataset: Dataset, split: str, folder: Path) -> Clip:
    images = folder / "img" if (folder / "img").is_dir() else folder
    frames = FrameFiles(images, image_names(images))
    truth = folder / "groundtruth.txt"
    xywh = read_boxes(truth)
    rows = len(xywh)
    if rows not in (1, len(frames)):
        raise UserError(
            f"{truth}: {rows} boxes for {len(frames)} images in {images}; write one line a frame, "
            "or the first frame's box alone"
        )
    absent = folder / "absent.txt"
    flags = read_flags(absent, rows) if absent.is_file() else None
    track = make_track(xywh, len(frames), one_based=dataset.one_based, absent=flags)
    return Clip(dataset.name, split, folder.name, frames, (track,), rows)
