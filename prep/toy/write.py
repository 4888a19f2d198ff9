"""The toy world: small raw trees in the layouts of the real data sets, with exact boxes.

Promise: the same configuration gives the same bytes (on one installation), whatever the number of
processes. Objects of test splits appear in no training split. Trees are written beside their final
names and renamed when all of them are whole, so an interrupted run leaves nothing half written; a
finished world of the same configuration is left as it is, and one of another configuration is
replaced. A tree that the toy world did not write is never touched.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lorat.prep.pool import LocalEngine, Tell
from lorat.prep.toy.scene import POOLS, Pool
from lorat.prep.toy.trees import FOLDERS, Job, run_job, write_lists
from lorat.prep.trees.base.official import got10k_name, official_names
from lorat.shards.base.errors import UserError
from lorat.shards.rng import Draws

__all__ = ["Progress", "ToyWorldConfig", "plan_jobs", "write_toyworld"]

Progress = Callable[[str, int, int], None]
"""Called with a tree's name, the number of its sequences (COCO: images) done, and their count."""

_VERSION = 1  # of the renderer: raise it when the same configuration gives other bytes
_MARKER = "toyworld.json"
_OWNED = ".toyworld"  # stands in each tree; only trees that hold it are ever replaced
_STAGING = ".toyworld-unfinished"
_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_LEAST_SIDE = 96
_LEAST_LENGTH = 2


@dataclass(frozen=True)
class ToyWorldConfig:
    """What a toy world holds: numbers of sequences (COCO: images) a split, sizes, lengths.

    A length is the mean of a data set's sequences, which vary by a quarter of it either way.
    """

    seed: int = 0
    width: int = 320
    height: int = 240
    lasot_train: int = 40
    lasot_test: int = 10
    lasot_ext: int = 4
    lasot_length: int = 80
    got10k_train: int = 90
    got10k_val: int = 10
    got10k_test: int = 8
    got10k_length: int = 40
    trackingnet_train: int = 48
    trackingnet_test: int = 6
    trackingnet_length: int = 40
    coco_train: int = 480
    coco_val: int = 24
    tnl2k_train: int = 6
    tnl2k_test: int = 4
    tnl2k_length: int = 60

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least, most = _bounds(field.name)
            if not least <= value <= most:
                raise UserError(
                    f"toy world: {field.name} is {value}; choose a number from {least} to {most}"
                )


def plan_jobs(config: ToyWorldConfig) -> list[Job]:
    """Return everything a toy world writes, in the order of `FOLDERS`."""
    return [job for row in _plan(config) for job in _jobs(config, *row)]


def write_toyworld(
    raw: Path, config: ToyWorldConfig, progress: Progress | None = None, workers: int = 2
) -> None:
    """Write a toy world's trees into `raw`.

    Args:
        raw: the folder that holds the trees of all data sets; created where it is missing.
        config: what to write.
        progress: told of every finished sequence.
        workers: processes that render; 1 renders in this one.

    Raises:
        UserError: if a tree is in the way that the toy world did not write, or a file cannot be
            written.
    """
    try:
        _refuse_foreign(raw)
        jobs = plan_jobs(config)
        if _is_finished(raw, config, jobs):
            return
        staging = raw / _STAGING
        if staging.exists():
            shutil.rmtree(staging)
        for folder in _folders(jobs):
            (staging / folder).mkdir(parents=True)
            (staging / folder / _OWNED).write_text("Written by lorat-prep toyworld.\n", "utf-8")
        results: list[dict[str, Any]] = [{}] * len(jobs)
        done, total = Counter[str](), Counter(job.folder for job in jobs)

        def hear(rendered: tuple[int, dict[str, Any]]) -> None:
            number, results[number] = rendered
            folder = jobs[number].folder
            done[folder] += 1
            if progress is not None:
                progress(folder, done[folder], total[folder])

        LocalEngine(workers).run(_render, (staging, jobs), range(len(jobs)), hear)
        write_lists(staging, jobs, results)
        _put_in_place(raw, staging, config)
    except OSError as error:
        raise UserError(
            f"{error.filename or raw}: cannot be written ({error.strerror}); "
            "choose a folder that is writable and has room"
        ) from None


def _bounds(field: str) -> tuple[int, int]:
    if field == "seed":
        return 0, 2**63
    if field in ("width", "height"):
        return _LEAST_SIDE, 8192
    if field.endswith("_length"):
        return _LEAST_LENGTH, 99_999
    return 0, _official_count(field)


def _official_count(field: str) -> int:
    """Return how many sequences a split can have, because names come from its official list."""
    dataset, _, split = field.rpartition("_")
    if field == "lasot_ext":
        dataset, split = "lasot_ext", "test"
    names = official_names(dataset, split)
    return 99_999 if names is None else len(names)


def _plan(config: ToyWorldConfig) -> Iterator[tuple[str, Pool, list[str], int]]:
    """Yield (tree, split, names, mean length) of every split."""
    lasot, got10k = config.lasot_length, config.got10k_length
    tracking, tnl2k = config.trackingnet_length, config.tnl2k_length
    yield "LaSOT", "train", _by_class("lasot", "train", config.lasot_train), lasot
    yield "LaSOT", "test", _by_class("lasot", "test", config.lasot_test), lasot
    yield "LaSOT_Extension", "test", _by_class("lasot_ext", "test", config.lasot_ext), lasot
    for split in POOLS:
        count = getattr(config, f"got10k_{split}")
        yield "GOT-10k", split, [got10k_name(split, n + 1) for n in range(count)], got10k
    videos = [_video_name(config.seed, k) for k in range(config.trackingnet_train)]
    yield "TrackingNet", "train", videos, tracking
    yield "TrackingNet", "test", _first("trackingnet", "test", config.trackingnet_test), tracking
    yield "COCO", "train", [str(9 + 5 * k) for k in range(config.coco_train)], 1
    yield "COCO", "val", [str(600_139 + 3 * k) for k in range(config.coco_val)], 1
    yield "TNL2K_TRAIN", "train", _first("tnl2k", "train", config.tnl2k_train), tnl2k
    yield "TNL2K_TEST", "test", _first("tnl2k", "test", config.tnl2k_test), tnl2k


def _jobs(
    config: ToyWorldConfig, folder: str, split: Pool, names: list[str], mean: int
) -> Iterator[Job]:
    size = (config.width, config.height)
    spread = mean // 4
    for index, name in enumerate(names):
        draws = Draws("toy length", config.seed, folder, split, index)
        length = max(mean - spread + draws.below(2 * spread + 1), 1)
        yield Job(folder, split, index, name, config.seed, size, length)


def _first(dataset: str, split: str, count: int) -> list[str]:
    return list(official_names(dataset, split) or ())[:count]


def _by_class(dataset: str, split: str, count: int) -> list[str]:
    """Return official names, the first of each class before the second of any."""
    seen: dict[str, int] = {}
    ranked = []
    for name in official_names(dataset, split) or ():
        kind = name.rpartition("-")[0]
        ranked.append((seen.get(kind, 0), name))
        seen[kind] = seen.get(kind, 0) + 1
    return [name for _, name in sorted(ranked, key=lambda entry: entry[0])][:count]


def _video_name(seed: int, index: int) -> str:
    """Return a name like TrackingNet's: a video's id of 11 letters, which may start with - or _."""
    draws = Draws("toy video", seed, index)
    letters = [_ID_LETTERS[draws.below(len(_ID_LETTERS))] for _ in range(11)]
    letters[0] = {1: "-", 2: "_"}.get(index, letters[0])
    return f"{''.join(letters)}_{index % 4}"


def _render(shared: tuple[Path, list[Job]], number: int, tell: Tell) -> None:
    """Write one job's files; runs in a worker process."""
    trees, jobs = shared
    tell((number, run_job(trees, jobs[number])))


def _folders(jobs: list[Job]) -> list[str]:
    return [folder for folder in FOLDERS if any(job.folder == folder for job in jobs)]


def _refuse_foreign(raw: Path) -> None:
    """Raise if a tree's place is taken by something that the toy world did not write."""
    if raw.exists() and not raw.is_dir():
        raise UserError(f"{raw}: is a file; name a folder for the toy world's trees")
    for folder in FOLDERS:
        tree = raw / folder
        ours = not tree.is_symlink() and (tree / _OWNED).is_file()
        empty = not tree.is_symlink() and tree.is_dir() and not any(tree.iterdir())
        if (tree.exists() or tree.is_symlink()) and not ours and not empty:
            raise UserError(
                f"{tree}: exists and was not written by the toy world, so it is left alone; "
                "name another folder for the toy world"
            )


def _marker(config: ToyWorldConfig) -> dict[str, Any]:
    return {"version": _VERSION, "config": asdict(config)}


def _is_finished(raw: Path, config: ToyWorldConfig, jobs: list[Job]) -> bool:
    try:
        found = json.loads((raw / _MARKER).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    whole = all((raw / folder / _OWNED).is_file() for folder in _folders(jobs))
    return whole and found == _marker(config)


def _put_in_place(raw: Path, staging: Path, config: ToyWorldConfig) -> None:
    """Replace the trees of an earlier toy world; the marker goes first and comes back last."""
    _refuse_foreign(raw)
    (raw / _MARKER).unlink(missing_ok=True)
    for folder in FOLDERS:
        if (raw / folder).exists():
            shutil.rmtree(raw / folder)
        if (staging / folder).exists():
            (staging / folder).rename(raw / folder)
    staging.rmdir()
    unfinished = raw / f"{_MARKER}.part"
    unfinished.write_text(json.dumps(_marker(config), indent=1) + "\n", "utf-8")
    unfinished.replace(raw / _MARKER)
