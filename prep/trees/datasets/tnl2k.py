"""TNL2K: ``<sequence>/imgs/*`` (JPEG and PNG, any stems) and ``groundtruth.txt``.

Train and test are separate trees, and released folder names differ from the official list, so a split is every sequence
folder there is, less those that only the other split's list has. Frames are in natural order. A box without size
means that the object is absent.
"""

from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles
from lorat.prep.trees.base.folders import annotation_files, image_names, split_tree
from lorat.prep.trees.base.official import official_names
from lorat.prep.trees.base.reading import cut_clip, read_each
from lorat.prep.trees.base.text import read_boxes


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read a split from its own tree, or from a folder that holds the trees of both."""
    folders = annotation_files(split_tree(dataset, split, root), "groundtruth.txt")
    train, test = ({_plain(name) for name in official_names(dataset.name, each) or ()} for each in ("train", "test"))
    foreign = train - test if split == "test" else test - train

    def clip(folder: Path) -> Clip:
        frames = FrameFiles(folder / "imgs", image_names(folder / "imgs"))
        return cut_clip(dataset, split, folder.name, frames, read_boxes(folder / "groundtruth.txt"))

    return read_each({folder.name: folder for folder in folders if _plain(folder.name) not in foreign}, clip)


def _plain(name: str) -> str:
    """Return a name as both the list and the folders have it: without spaces and ampersands."""
    return name.replace(" ", "").replace("&", "")
