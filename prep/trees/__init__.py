"""Raw data set trees: one file a data set, each of which yields `Clip`s.

To add a data set: one reader file with ``read(dataset, split, root)``, and one row in `DATASETS`.
Reading opens annotation files and lists folders; it opens no image, and lists frames only where
their names or their number are nowhere else.
"""

from __future__ import annotations

import re
from pathlib import Path

from lorat.prep.trees import coco, generic, got10k, lasot, otb, tnl2k, trackingnet, vot
from lorat.prep.trees.clip import Clip, FrameFiles, Track
from lorat.prep.trees.dataset import Dataset
from lorat.prep.trees.official import official_names
from lorat.shards.errors import UserError, unknown

__all__ = [
    "DATASETS",
    "Clip",
    "Dataset",
    "FrameFiles",
    "Track",
    "official_names",
    "parse_name",
    "read_clips",
]

_TNL2K = {"train": "TNL2K_TRAIN", "test": "TNL2K_TEST"}
_GOT10K = ("train", "vot", "vot_clean", "val", "test")
_BOTH = ("train", "test")

# name, folder, splits, prep_split, eval_split, one_based, read
_ROWS = (
    Dataset("lasot", "LaSOT", _BOTH, "train", "test", True, lasot.read),
    Dataset("lasot_ext", "LaSOT_Extension", ("test",), None, "test", False, lasot.read_extension),
    Dataset("got10k", "GOT-10k", _GOT10K, "vot", "test", False, got10k.read),
    Dataset("trackingnet", "TrackingNet", _BOTH, "train", "test", False, trackingnet.read),
    Dataset("coco", "COCO", ("train", "val"), "train", None, False, coco.read),
    Dataset("tnl2k", _TNL2K, _BOTH, "train", "test", False, tnl2k.read),
    Dataset("otb", "OTB", ("all",), None, "all", False, otb.read),
    Dataset("vot", "VOT", ("all",), None, "all", False, vot.read),
    Dataset("generic", "generic", (), "train", "all", False, generic.read),
)

DATASETS: dict[str, Dataset] = {row.name: row for row in _ROWS}
"""Every data set that can be read, by name."""


def parse_name(text: str) -> tuple[Dataset, str | None]:
    """Split ``name`` or ``name-split``; the split is None where only a name is given.

    Raises:
        UserError: if the data set or its split is unknown.
    """
    name, dash, split = text.partition("-")
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    dataset = DATASETS[name]
    if dash:
        _check_split(dataset, split)
    return dataset, split if dash else None


def read_clips(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read the clips of a split that are on disk, in a fixed order.

    Args:
        dataset: a row of `DATASETS`.
        split: one of its splits.
        root: the data set's folder.

    Raises:
        UserError: if the split is unknown, an annotation file is missing or does not parse, or
            there is no sequence at all.
    """
    _check_split(dataset, split)
    clips = dataset.read(dataset, split, root)
    if not clips:
        raise UserError(
            f"{root}: holds no sequence of {dataset.name}-{split}; check that this is the data "
            f"set's own folder and give another with --root {dataset.name}=DIR"
        )
    return clips


def _check_split(dataset: Dataset, split: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]*", split):
        raise UserError(f"split '{split}': use letters, digits, - and _ only; rename the folder")
    if not split or (dataset.splits and split not in dataset.splits):
        known = [f"{dataset.name}-{known}" for known in dataset.splits or ("train", "test", "all")]
        raise unknown("split", f"{dataset.name}-{split}", known)
