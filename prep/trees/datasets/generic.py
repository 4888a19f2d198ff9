"""A tree of one's own: ``<split>/<sequence>/`` with frames and ``groundtruth.txt``.

Frames are the images of the folder, or of its ``img/``, in natural order. ``groundtruth.txt`` has a line x,y,w,h
(0-based) for each frame, or one line in all where a test set gives no more; ``absent.txt``, if it is there, a 0 or 1
for each line. Any folder name is a split, and the split ``all`` is every split there is.
"""

from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles, make_clip
from lorat.prep.trees.base.folders import annotation_files, image_names, subfolders
from lorat.prep.trees.base.reading import read_each
from lorat.prep.trees.base.text import read_boxes, read_flags
from lorat.shards.base.errors import UserError


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read the sequences of one split folder, or with ``all`` those of every one."""
    splits = subfolders(root)
    if split != "all" and split not in splits:
        there = f"there are: {', '.join(splits) or 'none'}"
        raise UserError(f"{root}: no folder '{split}'; {there}. Sequences lie in <root>/<split>/<sequence>/")
    found: dict[str, Path] = {}
    for part in splits if split == "all" else [split]:
        for folder in annotation_files(root / part, "groundtruth.txt"):
            if (other := found.setdefault(folder.name, folder)) != folder:
                raise UserError(f"{folder}: has the same name as {other}; rename one of them")

    def clip(folder: Path) -> Clip:
        images = folder / "img" if (folder / "img").is_dir() else folder
        frames = FrameFiles(images, image_names(images))
        truth, absent = folder / "groundtruth.txt", folder / "absent.txt"
        if len(xywh := read_boxes(truth)) not in (1, len(frames)):
            what = f"{len(xywh)} boxes for {len(frames)} images in {images}"
            raise UserError(f"{truth}: {what}; write one line a frame, or the first frame's box alone")
        flags = read_flags(absent, len(xywh)) if absent.is_file() else None
        return make_clip(dataset, split, folder.name, frames, xywh, absent=flags)

    return read_each(found, clip)
