"""VastTrack: ``<Class Name>/<Class Name>-<k>/`` with ``imgs/%05d.jpg`` from 1 and a ground truth.

Train and test are separate trees; where one folder holds both, the official test list parts it. The ground truth is
``Groundtruth.txt`` or ``groundtruth.txt``. Boxes are 1-based; a box of zeros means that the object is absent. Names
have spaces. Sequences directly in the root are found too.
"""

import logging
from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles, make_clip
from lorat.prep.trees.base.folders import natural_order, sequence_folders, split_tree
from lorat.prep.trees.base.official import official_names
from lorat.prep.trees.base.reading import note, read_each
from lorat.prep.trees.base.text import read_boxes


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read a split from its own tree, or from a folder that holds the trees of both. The test split is the official
    list cut to what is there; a test tree without any official name is read whole, after a warning. The training split
    is all that is not on that list.
    """
    tree = split_tree(dataset, split, root)
    found = sequence_folders(tree, "imgs")
    names = found.keys() & set(official_names("vasttrack", "test") or ())
    if split == "train":
        names = found.keys() - names
    elif found and not names:
        logging.getLogger("lorat").warning("%s: no sequence of the official test list; it is read whole", tree)
        names = set(found)

    def clip(folder: Path) -> Clip:
        truths = [folder / f"{letter}roundtruth.txt" for letter in "Gg"]
        for truth in truths:
            note(truth)
        xywh = read_boxes(next((truth for truth in truths if truth.is_file()), truths[0]))
        frames = FrameFiles(folder / "imgs", range(1, len(xywh) + 1), "%05d.jpg")
        return make_clip(dataset, split, folder.name, frames, xywh)

    return read_each({name: found[name] for name in natural_order(names)}, clip)
