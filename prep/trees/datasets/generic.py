"""A tree of one's own: ``<split>/<sequence>/`` with frames and ``groundtruth.txt``.

Frames are the images of the folder, or of its ``img/``, in natural order. ``groundtruth.txt`` has a line x,y,w,h
(0-based) for each frame, or one line in all where a test set gives no more; ``absent.txt``, if it is there, a 0 or 1
for each line. Any folder name is a split, and the split ``all`` is every split there is.
"""

from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles, make_clip
from lorat.prep.trees.base.folders import annotation_files, image_names, subfolders
from lorat.prep.trees.base.reading import cut_clip, read_each
from lorat.prep.trees.base.text import read_boxes, read_flags
from lorat.shards.base.errors import UserError


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read the sequences of one split folder, or with ``all`` those of every one."""
    found: dict[str, Path] = {}
    for part in (name for name in subfolders(root) if split in (name, "all")):
        for folder in annotation_files(root / part, "groundtruth.txt"):
            if (other := found.setdefault(folder.name, folder)) != folder:
                raise UserError(f"{folder}: has the same name as {other}; rename one of them")

    def clip(folder: Path) -> Clip:
        images = folder / "img" if (folder / "img").is_dir() else folder
        frames = FrameFiles(images, image_names(images))
        xywh, absent = read_boxes(folder / "groundtruth.txt"), folder / "absent.txt"
        flags = read_flags(absent, len(xywh)) if absent.is_file() else None
        make = make_clip if len(xywh) == 1 and split != dataset.prep_split else cut_clip
        return make(dataset, split, folder.name, frames, xywh, absent=flags)

    return read_each(found, clip)
