"""GOT-10k: ``<split>/GOT-10k_<Split>_%06d/%08d.jpg`` from 1, listed in ``<split>/list.txt``.

Splits: train, val and test as the tree lists them; ``vot`` and ``vot_clean`` are parts of train. ``vot`` is the
published index list, used unchanged (index i is Train_{i + 1}); that list was drawn up off by one, so it keeps most
sequences that VOT prohibits. ``vot_clean`` leaves out exactly the prohibited names. Test gives the first box only:
frames are counted on disk. Visible: absence is 0 and the box has size; the cover label is kept for stricter rules.
"""

import logging
from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles, make_clip
from lorat.prep.trees.base.folders import counted_images, held, listed_sequences, subfolders
from lorat.prep.trees.base.official import official_names
from lorat.prep.trees.base.reading import read_each
from lorat.prep.trees.base.text import read_boxes, read_flags
from lorat.shards.base.errors import UserError

_LOG = logging.getLogger("lorat")


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read a split in the order of its ``list.txt``, cut to what is there."""
    part = split in ("vot", "vot_clean")
    tree = root / ("train" if part else split)
    if not tree.is_dir():
        return []
    names = subfolders(tree)
    if (listed := tree / "list.txt").is_file():
        names = listed_sequences(listed, names)
    else:
        _LOG.warning("%s: missing; the sequences are the folders beside it", listed)
    chosen = set(official_names("got10k", split) or ()) if part else set(names)

    def clip(folder: Path) -> Clip:
        if not (folder / "groundtruth.txt").is_file() and subfolders(folder):
            where = f"sequences lie directly in {tree}"
            raise UserError(f"{folder}: is no sequence: it has no groundtruth.txt; {held(folder)}; {where}")
        xywh = read_boxes(folder / "groundtruth.txt")
        if split == "test":
            frames = FrameFiles(folder, counted_images(folder, 1))
            return make_clip(dataset, split, folder.name, frames, xywh[: len(frames)])
        absent = read_flags(folder / "absence.label", count := len(xywh))
        cover = read_flags(folder / "cover.label", count, highest=8)
        frames = FrameFiles(folder, range(1, count + 1), "%08d.jpg")
        return make_clip(dataset, split, folder.name, frames, xywh, absent=absent, cover=cover)

    return read_each({name: tree / name for name in names if name in chosen}, clip)
