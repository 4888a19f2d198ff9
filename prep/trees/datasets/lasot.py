"""LaSOT and LaSOT_Extension: ``<class>/<class>-<k>/`` with ``img/%08d.jpg`` from 1.

A sequence's frames are its rows of ``groundtruth.txt``; more images than rows are normal (monkey-17). Visible: neither
flag is set (``full_occlusion.txt``, ``out_of_view.txt``, one line of 0/1 each) and the box has size: many absent frames
carry a box. Sequences directly in the root are found too.
"""

import logging
from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles, make_clip
from lorat.prep.trees.base.folders import natural_order, sequence_folders
from lorat.prep.trees.base.official import official_names
from lorat.prep.trees.base.reading import read_each, report_lack
from lorat.prep.trees.base.text import read_boxes, read_flags, read_names
from lorat.shards.base.errors import counted

_LOG = logging.getLogger("lorat")


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read LaSOT: the tree's own list of the split, else the official one, cut to what is there."""
    found = sequence_folders(root)
    names = official_names("lasot", split) or ()
    listed = root / ("training_set.txt" if split == "train" else "testing_set.txt")
    if listed.is_file():
        official, names = found.keys() & set(names), read_names(listed)
        report_lack(listed, f"the {{}} of {listed.name}", "sequence", names, found)
        chosen = found.keys() & set(names)
        added, missing = sorted(chosen - official), sorted(official - chosen)
        if official and (added or missing):  # without any official sequence it is someone's own tree
            what = f"{counted(len(added), 'sequence')} more and {len(missing)} fewer, the first {(added + missing)[0]}"
            remedy = "read as it says, delete it to read the official split"
            _LOG.warning("%s: differs from the official list: %s; %s", listed, what, remedy)
    return _read(dataset, split, {name: found[name] for name in names if name in found})


def read_extension(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read LaSOT_Extension: every sequence there is, since the tree has no list."""
    found = sequence_folders(root)
    return _read(dataset, split, {name: found[name] for name in natural_order(found)})


def _read(dataset: Dataset, split: str, folders: dict[str, Path]) -> list[Clip]:
    def clip(folder: Path) -> Clip:
        count = len(xywh := read_boxes(folder / "groundtruth.txt"))
        occluded, outside = (read_flags(folder / f"{flag}.txt", count) for flag in ("full_occlusion", "out_of_view"))
        frames = FrameFiles(folder / "img", range(1, count + 1), "%08d.jpg")
        return make_clip(dataset, split, folder.name, frames, xywh, absent=occluded | outside)

    return read_each(folders, clip)
