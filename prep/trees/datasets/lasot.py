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
from lorat.prep.trees.base.reading import read_each
from lorat.prep.trees.base.text import read_boxes, read_flags, read_names

_LOG = logging.getLogger("lorat")
_SPLIT_FILES = {"train": "training_set.txt", "test": "testing_set.txt"}


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read LaSOT: the tree's own list of the split, else the official one, cut to what is there."""
    listed = root / _SPLIT_FILES[split]
    found = sequence_folders(root)
    names = official = official_names("lasot", split) or ()
    if listed.is_file():
        names = read_names(listed)
        _compare(listed, found.keys() & set(names), found.keys() & set(official))
    there = {name: found[name] for name in names if name in found}
    return read_each(there, lambda folder: _clip(dataset, split, folder))


def read_extension(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read LaSOT_Extension: every sequence there is, since the tree has no list."""
    found = sequence_folders(root)
    ordered = {name: found[name] for name in natural_order(found)}
    return read_each(ordered, lambda folder: _clip(dataset, split, folder))


def _compare(listed: Path, names: set[str], official: set[str]) -> None:
    """Warn where the tree's own list chooses otherwise from what is there than the official one."""
    added, missing = sorted(names - official), sorted(official - names)
    if official and (added or missing):  # without any official sequence it is someone's own tree
        _LOG.warning(
            "%s: differs from the official list: %d sequences more and %d fewer, the first %s; "
            "read as it says, delete it to read the official split",
            *(listed, len(added), len(missing), (added + missing)[0]),
        )


def _clip(dataset: Dataset, split: str, folder: Path) -> Clip:
    xywh = read_boxes(folder / "groundtruth.txt")
    count = len(xywh)
    occluded = read_flags(folder / "full_occlusion.txt", count)
    outside = read_flags(folder / "out_of_view.txt", count)
    frames = FrameFiles(folder / "img", range(1, count + 1), "%08d.jpg")
    return make_clip(dataset, split, folder.name, frames, xywh, absent=occluded | outside)
