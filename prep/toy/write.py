"""The toy world: small raw trees in the layouts of the real data sets, with exact boxes.

Promise: the same configuration gives the same bytes (on one installation) from any number of processes. Trees are
written beside their final names and renamed when all are whole. A finished world of the same configuration is left as
it is, one of another is replaced; a tree that the toy world did not write is never touched.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lorat.prep.pool import LocalEngine
from lorat.prep.toy.scene import Pool
from lorat.prep.toy.trees import FOLDERS, Job, run_job, write_lists
from lorat.prep.trees.base.official import official_names
from lorat.shards.base.disk import check_can_write, explain_disk
from lorat.shards.base.errors import UserError
from lorat.shards.base.options import option
from lorat.shards.base.storage import atomic_file
from lorat.shards.rng import Draws

_VERSION = 1  # of the renderer: raise it when the same configuration gives other bytes
_MARKER = "toyworld.json"
_OWNED = ".toyworld"  # stands in each tree; only trees that hold it are ever replaced
_STAGING = ".toyworld-unfinished"
_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_SPLITS: dict[str, tuple[str, tuple[Pool, ...]]] = {
    "lasot": ("LaSOT", ("train", "test")),
    "lasot_ext": ("LaSOT_Extension", ("test",)),
    "got10k": ("GOT-10k", ("train", "val", "test")),
    "trackingnet": ("TrackingNet", ("train", "test")),
    "coco": ("COCO", ("train", "val")),
    "tnl2k": ("TNL2K", ("train", "test")),  # a tree a split
}
"""Data set → its folder and splits, in the order of `FOLDERS`."""


def _count(default: int, most: int = 99_999, help: str = "Sequences.") -> int:
    return option(default, least=0, most=most, help=help)


def _length(default: int) -> int:
    return option(default, least=2, most=99_999, help="Frames of a sequence, on average.")


@dataclass(frozen=True)
class ToyWorldConfig:
    """What a toy world holds: sequences (COCO: images) a split, sizes, lengths, which vary by a quarter either way.
    Where names come from an official list, there are at most as many. A `UserError` for a number out of its range.
    """

    seed: int = option(0, least=0, most=2**63, help="Another seed gives another world.")
    width: int = option(320, least=96, most=8192, help="Of a frame, pixels.")
    height: int = option(240, least=96, most=8192, help="Of a frame, pixels.")
    leaving: float = option(0.1, least=0, most=1, help="Share of objects that leave the frame for a while.")
    lasot_train: int = _count(40, 1120)
    lasot_test: int = _count(10, 280)
    lasot_ext: int = _count(4, 150)
    lasot_length: int = _length(80)
    got10k_train: int = _count(90, 9335)
    got10k_val: int = _count(10, 180)
    got10k_test: int = _count(8, 180)
    got10k_length: int = _length(40)
    trackingnet_train: int = _count(48)
    trackingnet_test: int = _count(6, 511)
    trackingnet_length: int = _length(40)
    coco_train: int = _count(480, help="Images.")
    coco_val: int = _count(24, help="Images.")
    tnl2k_train: int = _count(6, 1300)
    tnl2k_test: int = _count(4, 700)
    tnl2k_length: int = _length(60)

    def __post_init__(self) -> None:
        for name, about in ((field.name, field.metadata["option"]) for field in fields(self)):
            if not about.least <= (value := getattr(self, name)) <= about.most:
                raise UserError(f"toy world: {name} is {value}; choose a number from {about.least} to {about.most}")


def plan_jobs(config: ToyWorldConfig) -> list[Job]:
    """Return everything a toy world writes, in the order of `FOLDERS`."""
    seed, size = config.seed, (config.width, config.height)
    jobs = []
    for dataset, split in ((name, split) for name in _SPLITS for split in _SPLITS[name][1]):
        folder = _SPLITS[dataset][0] + (f"_{split.upper()}" if dataset == "tnl2k" else "")
        field = dataset if dataset == "lasot_ext" else f"{dataset}_{split}"
        names = _names(dataset, split, getattr(config, field), seed)
        mean = getattr(config, f"{dataset.removesuffix('_ext')}_length", 1)
        for index, name in enumerate(names):
            draws = Draws("toy length", seed, folder, split, index)
            length = max(mean - mean // 4 + draws.below(2 * (mean // 4) + 1), 1)
            jobs.append(Job(folder, split, index, name, seed, size, length, config.leaving))
    return jobs


def write_toyworld(
    raw: Path, config: ToyWorldConfig, progress: Callable[[int, int], None] | None = None, workers: int = 2
) -> None:
    """Write a toy world's trees into `raw`; `progress` is called with (done, in all) sequences, or images of COCO.
    A `UserError` if a tree is in the way that the toy world did not write, or a file cannot be written.
    """
    marker = (json.dumps({"version": _VERSION, "config": asdict(config)}, indent=1) + "\n").encode()
    jobs = plan_jobs(config)
    folders = {job.folder for job in jobs}
    results: dict[int, Any] = {}

    def hear(rendered: tuple[int, Any]) -> None:
        results.update([rendered])
        if progress is not None:
            progress(len(results), len(jobs))

    with explain_disk(raw / _MARKER):
        _refuse_foreign(raw)
        whole = all((raw / folder / _OWNED).is_file() for folder in folders)
        if whole and (raw / _MARKER).is_file() and (raw / _MARKER).read_bytes() == marker:
            return
        check_can_write(raw)
        with _staging(raw) as staging:
            for folder in folders:
                (staging / folder).mkdir(parents=True)
                (staging / folder / _OWNED).write_text("Written by lorat-prep toyworld.\n", "utf-8")
            LocalEngine(workers).run(run_job, (staging, jobs), range(len(jobs)), hear)
            write_lists(staging, jobs, results)
            _refuse_foreign(raw)
            (raw / _MARKER).unlink(missing_ok=True)  # it goes first and comes back last
            for folder in FOLDERS:
                if (raw / folder).exists():
                    shutil.rmtree(raw / folder)
                if folder in folders:
                    (staging / folder).rename(raw / folder)
        with atomic_file(raw / _MARKER) as file:
            file.write(marker)


@contextmanager
def _staging(raw: Path) -> Iterator[Path]:
    """Give the folder that trees are written in before they get their places; it goes whatever happens."""
    staging = raw / _STAGING
    if staging.exists():
        shutil.rmtree(staging)  # of a process that was killed
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_foreign(raw: Path) -> None:
    """Raise if a tree's place is taken by something that the toy world did not write."""
    if raw.exists() and not raw.is_dir():
        raise UserError(f"{raw}: is a file; name a folder for the toy world's trees")
    for tree in (raw / folder for folder in FOLDERS):
        ours = (tree / _OWNED).is_file() or (tree.is_dir() and not any(tree.iterdir()))
        if tree.is_symlink() or (tree.exists() and not ours):
            raise UserError(
                f"{tree}: exists and was not written by the toy world; name another folder for the toy world"
            )


def _names(dataset: str, split: Pool, count: int, seed: int) -> list[str]:
    if dataset == "coco":
        return [str(9 + 5 * k if split == "train" else 600_139 + 3 * k) for k in range(count)]
    if (dataset, split) == ("trackingnet", "train"):  # a video's id of 11 letters, which may start with - or _
        first = {1: "-", 2: "_"}
        videos = [Draws("toy video", seed, k) for k in range(count)]
        ids = ["".join(_ID_LETTERS[draws.below(64)] for _ in range(11)) for draws in videos]
        return [f"{first.get(k, name[0])}{name[1:]}_{k % 4}" for k, name in enumerate(ids)]
    names = list(official_names(dataset, split) or ())
    if dataset in ("lasot", "lasot_ext"):  # the first of each class before the second of any
        kinds = [name.rpartition("-")[0] for name in names]
        ranks = {name: kinds[:k].count(kinds[k]) for k, name in enumerate(names)}
        names.sort(key=ranks.__getitem__)
    return names[:count]
