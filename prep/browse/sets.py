"""Which shard sets a command line asks for, and rows spread over one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorat.prep.trees.sources import split_names
from lorat.shards.base.errors import UserError, unknown
from lorat.shards.base.storage import Location, children, file_size
from lorat.shards.manifest import MANIFEST, Manifest, load_manifest

__all__ = ["ShardSets", "find_sets", "load_sets", "spread_rows"]

_SPREAD = 16  # shards that a sample of rows is taken from, so that few files are opened


@dataclass(frozen=True, slots=True)
class ShardSets:
    """The folders under one place that hold shards."""

    folders: tuple[Location, ...]
    """With a manifest."""
    unfinished: tuple[Location, ...]
    """With files of a shard set, but without a manifest."""


def find_sets(shards: Location, datasets: str | None = None) -> ShardSets:
    """Return the shard sets under a folder, or the one that the folder itself is.

    Args:
        shards: what ``lorat-prep build --shards`` was given, or one data set's folder in it.
        datasets: names separated by commas, ``lasot-train``, or ``lasot`` for all its splits.

    Raises:
        UserError: if no shards are there, or a name fits none of them.
    """
    if file_size(shards / MANIFEST) is not None:
        return _named(shards, ShardSets((shards,), ()), datasets)
    with_manifest, without = [], []
    for folder in children(shards):
        inside = {path.name for path in children(folder)} if _is_folder(folder) else set()
        if MANIFEST in inside:
            with_manifest.append(folder)
        elif any(name.startswith(f"{folder.name}-") for name in inside):
            without.append(folder)
    if not with_manifest:
        what = "only unfinished builds" if without else "no shards"
        raise UserError(
            f"{shards}: {what} here; build them with lorat-prep build --shards {shards} …, or name "
            "the folder that they are in"
        )
    return _named(shards, ShardSets(tuple(with_manifest), tuple(without)), datasets)


def load_sets(shards: Location, datasets: str | None = None) -> list[Manifest]:
    """Return the manifests that `find_sets` finds.

    Raises:
        UserError: as `find_sets`, and where a manifest cannot be read.
    """
    return [load_manifest(folder) for folder in find_sets(shards, datasets).folders]


def spread_rows(manifest: Manifest, most: int) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield (shard number, its rows) for at most `most` rows, spread evenly; all where they fit.

    Pairs are drawn independently of each other, so rows at even distances from some of the shards
    are a random sample of the set.
    """
    rows = [receipt.rows for receipt in manifest.shards]
    if manifest.rows <= most:
        yield from ((number, range(count)) for number, count in enumerate(rows) if count)
        return
    filled = [number for number, count in enumerate(rows) if count]
    taken = min(_SPREAD, len(filled), most)
    for turn in range(taken):
        number = filled[turn * len(filled) // taken]
        share = (turn + 1) * most // taken - turn * most // taken
        count = min(share, rows[number])
        yield number, [k * rows[number] // count for k in range(count)]


def _is_folder(place: Location) -> bool:
    return place.is_dir() if isinstance(place, Path) else "." not in place.name


def _named(shards: Location, sets: ShardSets, datasets: str | None) -> ShardSets:
    names = split_names(datasets)
    if not names:
        return sets
    known = {folder.name for folder in sets.folders}
    known |= {name.partition("-")[0] for name in known}
    for name in names:
        if name not in known:
            raise unknown(f"shard set in {shards}", name, known)

    def wanted(folder: Location) -> bool:
        return folder.name in names or folder.name.partition("-")[0] in names

    return ShardSets(
        tuple(folder for folder in sets.folders if wanted(folder)),
        tuple(folder for folder in sets.unfinished if wanted(folder)),
    )
