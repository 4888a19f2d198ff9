"""The table of data sets: what each is called, where it lies, and which file reads it.

To add one: a reader in ``datasets/`` with ``read(dataset, split, root)``, a row in `DATASETS`; a user's own file does
the same through ``--tree`` (`plugin.add_trees`), with `lorat.prep.trees`. Reading opens annotation files and lists
folders; it opens no image, and lists frames only where their names or their number are nowhere else.
"""

import re
from functools import partial
from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset
from lorat.prep.trees.base.folders import where_else
from lorat.prep.trees.base.reading import CURRENT, NothingThere
from lorat.prep.trees.datasets import (
    coco,
    flat,
    generic,
    got10k,
    lagot,
    lasot,
    nfs,
    otb,
    tc128,
    tnl2k,
    trackingnet,
    uav,
    vasttrack,
    vot,
)
from lorat.shards.base.errors import UserError, unknown

_TNL2K = {"train": "TNL2K_TRAIN", "test": "TNL2K_TEST"}
_VASTTRACK = {"train": "VastTrack_TRAIN", "test": "VastTrack_TEST"}
_GOT10K = ("train", "vot", "vot_clean", "val", "test")
_BOTH, _ALL = ("train", "test"), ("all",)

_LASOT = "*/*-*/full_occlusion.txt"
_PART = {split: "train" if split in ("train", "vot", "vot_clean") else split for split in _GOT10K}
_GOT10K_LOOKS = {split: f"{part}/GOT-10k_{part.capitalize()}_*/groundtruth.txt" for split, part in _PART.items()}
_TRACKINGNET = {"train": "TRAIN_*/anno/*.txt", "test": "TEST/anno/*.txt"}
_VOT = "*/groundtruth*.txt or sequences/*/groundtruth*.txt"
_UAVDT = "UAV-benchmark-SOT_v1.0/anno/*_gt.txt or anno/*_gt.txt or annotations/*_gt.txt or */*_gt.txt"

# name, folder, splits, read, prep_split, eval_split, one_based, looks
_ROWS = (
    Dataset("lasot", "LaSOT", _BOTH, lasot.read, "train", "test", True, looks=_LASOT),
    Dataset("lasot_ext", "LaSOT_Extension", ("test",), lasot.read_extension, None, "test", looks=_LASOT),
    Dataset("got10k", "GOT-10k", _GOT10K, got10k.read, "vot", "test", looks=_GOT10K_LOOKS),
    Dataset("trackingnet", "TrackingNet", _BOTH, trackingnet.read, "train", "test", looks=_TRACKINGNET),
    Dataset("coco", "COCO", ("train", "val"), coco.read, "train", None, looks="annotations/instances_{split}2017.json"),
    Dataset("tnl2k", _TNL2K, _BOTH, tnl2k.read, "train", "test", looks="*/groundtruth.txt"),
    Dataset("vasttrack", _VASTTRACK, _BOTH, vasttrack.read, "train", "test", True, looks="*/*-*/?roundtruth.txt"),
    Dataset("uav123", "UAV123", _ALL, partial(uav.read, "UAV123"), None, "all", looks="anno/UAV123/*.txt"),
    Dataset("uav20l", "UAV123", _ALL, partial(uav.read, "UAV20L"), None, "all", looks="anno/UAV20L/*.txt"),
    Dataset(
        "uav123_10fps",
        "UAV123_10fps",
        _ALL,
        partial(uav.read, "UAV123_10fps"),
        None,
        "all",
        looks="anno/UAV123_10fps/*.txt",
    ),
    Dataset("otb", "OTB", ("all", "50", "2013"), otb.read, None, "all", looks="*/groundtruth_rect*.txt"),
    Dataset("nfs30", "NFS", _ALL, partial(nfs.read, 30), None, "all", looks="*/30/*.txt or anno/nfs_*.txt"),
    Dataset("nfs240", "NFS", _ALL, partial(nfs.read, 240), None, "all", looks="*/240/*.txt"),
    Dataset("tc128", "TempleColor128", _ALL, tc128.read, None, "all", looks="*/*_gt.txt"),
    Dataset("vot", "VOT", _ALL, vot.read, None, "all", looks=_VOT),
    Dataset("didi", "DiDi", _ALL, vot.read, None, "all", looks=_VOT),
    Dataset("avist", "AVisT", _ALL, partial(flat.read, flat.AVIST), None, "all", looks="anno/*.txt"),
    Dataset("lagot", "LaGOT", _ALL, lagot.read, None, "all", looks="LaGOT_*_annotations_final.json"),
    Dataset("dtb70", "DTB70", _ALL, partial(flat.read, flat.DTB70), None, "all", looks="*/groundtruth_rect.txt"),
    Dataset("uavdt", "UAVDT", _ALL, partial(flat.read, flat.UAVDT), None, "all", looks=_UAVDT),
    Dataset(
        "visdrone",
        "VisDrone2019-SOT-test-dev",
        ("test",),
        partial(flat.read, flat.VISDRONE),
        None,
        "test",
        looks="annotations/*.txt",
    ),
    Dataset("generic", "generic", (), generic.read, "train", "all", looks="{split}/*/groundtruth.txt"),
)

DATASETS: dict[str, Dataset] = {row.name: row for row in _ROWS}
"""Every data set that can be read, by name."""


def parse_name(text: str) -> tuple[Dataset, str | None]:
    """Split ``name`` or ``name-split`` (a lone name: None); a `UserError` where one is unknown."""
    name, dash, split = text.partition("-")
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    if dash:
        _check_split(DATASETS[name], split)
    return DATASETS[name], split if dash else None


def look(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read the clips of a split that are on disk under `root`, in a fixed order; maybe none, where what is there is
    skipped or damaged. `NothingThere` says what was looked for where nothing is. Other errors are the reader's.
    """
    _check_split(dataset, split)
    how, what, named = CURRENT.get(), f"{root}: holds no sequence of {dataset.name}-{split}", False
    try:
        clips = dataset.read(dataset, split, root)
        if clips or how.skip or any(fault.damage for fault in how.faults or ()):
            return clips
    except NothingThere as error:
        what, named = error.message, True
    raise NothingThere(f"{what}; {where_else(dataset, split, root, named=named)}")


def read_clips(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read what `look` does, at least one clip. A `UserError` for an unknown split, a file that is missing or does not
    parse, or no sequence that is not skipped.
    """
    if clips := look(dataset, split, root):
        return clips
    how = CURRENT.get()
    if damage := next((fault.message for fault in how.faults or () if fault.damage), None):
        raise UserError(f"{damage} (and no other sequence can be read)")
    what = f"all sequences of {dataset.name}-{split} that are there are excluded"
    raise UserError(f"{root}: {what}; mend the tree and run lorat-prep check again, or name other --datasets")


def _check_split(dataset: Dataset, split: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]*", split):
        raise UserError(f"split '{split}': use letters, digits, - and _ only; rename the folder")
    if not split or (dataset.splits and split not in dataset.splits):
        known = [f"{dataset.name}-{known}" for known in dataset.splits or ("train", "test", "all")]
        raise unknown("split", f"{dataset.name}-{split}", known)
