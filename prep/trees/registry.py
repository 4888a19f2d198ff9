"""The table of data sets: what each is called, where it lies, and which file reads it.

To add one: a reader in ``datasets/`` with ``read(dataset, split, root)``, a row in `DATASETS`; a user's own file does
the same through ``--tree`` (`plugin.add_trees`), with `lorat.prep.trees`. Reading opens annotation files and lists
folders; it opens no image, and lists frames only where their names or their number are nowhere else.
"""

import re
from functools import partial
from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset
from lorat.prep.trees.base.folders import held
from lorat.prep.trees.base.reading import CURRENT
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

# name, folder, splits, read, prep_split, eval_split, one_based
_ROWS = (
    Dataset("lasot", "LaSOT", _BOTH, lasot.read, "train", "test", True),
    Dataset("lasot_ext", "LaSOT_Extension", ("test",), lasot.read_extension, None, "test"),
    Dataset("got10k", "GOT-10k", _GOT10K, got10k.read, "vot", "test"),
    Dataset("trackingnet", "TrackingNet", _BOTH, trackingnet.read, "train", "test"),
    Dataset("coco", "COCO", ("train", "val"), coco.read, "train", None),
    Dataset("tnl2k", _TNL2K, _BOTH, tnl2k.read, "train", "test"),
    Dataset("vasttrack", _VASTTRACK, _BOTH, vasttrack.read, "train", "test", True),
    Dataset("uav123", "UAV123", _ALL, partial(uav.read, "UAV123"), None, "all"),
    Dataset("uav20l", "UAV123", _ALL, partial(uav.read, "UAV20L"), None, "all"),
    Dataset("uav123_10fps", "UAV123_10fps", _ALL, partial(uav.read, "UAV123_10fps"), None, "all"),
    Dataset("otb", "OTB", ("all", "50", "2013"), otb.read, None, "all"),
    Dataset("nfs30", "NFS", _ALL, partial(nfs.read, 30), None, "all"),
    Dataset("nfs240", "NFS", _ALL, partial(nfs.read, 240), None, "all"),
    Dataset("tc128", "TempleColor128", _ALL, tc128.read, None, "all"),
    Dataset("vot", "VOT", _ALL, vot.read, None, "all"),
    Dataset("didi", "DiDi", _ALL, vot.read, None, "all"),
    Dataset("avist", "AVisT", _ALL, partial(flat.read, flat.AVIST), None, "all"),
    Dataset("lagot", "LaGOT", _ALL, lagot.read, None, "all"),
    Dataset("dtb70", "DTB70", _ALL, partial(flat.read, flat.DTB70), None, "all"),
    Dataset("uavdt", "UAVDT", _ALL, partial(flat.read, flat.UAVDT), None, "all"),
    Dataset("visdrone", "VisDrone2019-SOT-test-dev", ("test",), partial(flat.read, flat.VISDRONE), None, "test"),
    Dataset("generic", "generic", (), generic.read, "train", "all"),
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


def read_clips(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read the clips of a split that are on disk under `root`, in a fixed order. A `UserError` for an unknown split, a
    file that is missing or does not parse, or no sequence that is not skipped.
    """
    _check_split(dataset, split)
    if clips := dataset.read(dataset, split, root):
        return clips
    name, how = f"{dataset.name}-{split}", CURRENT.get()
    if damage := next((fault.message for fault in how.faults or () if fault.damage), None):
        raise UserError(f"{damage} (and no other sequence can be read)")
    if how.skip:
        what = f"all sequences of {name} that are there are excluded"
        raise UserError(f"{root}: {what}; mend the tree and run lorat-prep check again, or name other --datasets")
    raise UserError(holds_none(dataset, split, root))


def holds_none(dataset: Dataset, split: str, root: Path) -> str:
    """Return the line about a tree in which a reader found no sequence of a split."""
    remedy = f"check that this is the data set's own folder and give another with --root {dataset.name}=DIR"
    return f"{root}: holds no sequence of {dataset.name}-{split}; {held(root)}; {remedy}"


def _check_split(dataset: Dataset, split: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]*", split):
        raise UserError(f"split '{split}': use letters, digits, - and _ only; rename the folder")
    if not split or (dataset.splits and split not in dataset.splits):
        known = [f"{dataset.name}-{known}" for known in dataset.splits or ("train", "test", "all")]
        raise unknown("split", f"{dataset.name}-{split}", known)
