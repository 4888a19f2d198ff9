"""Which shard sets a command line asks for, what stands in them, and rows spread over one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorat.shards.base.console import OUT, plain_table, say
from lorat.shards.base.errors import UserError, unknown
from lorat.shards.base.storage import Location, children, file_size
from lorat.shards.manifest import MANIFEST, Manifest, load_manifest

_SPREAD = 16  # shards that a sample of rows is taken from, so that few files are opened


@dataclass(frozen=True, slots=True)
class ShardSets:
    """The folders under one place that hold shards."""

    folders: tuple[Location, ...]
    """With a manifest."""
    unfinished: tuple[Location, ...] = ()
    """With files of a shard set, but without a manifest."""


def find_sets(shards: Location, datasets: str | None = None) -> ShardSets:
    """Return the shard sets under a folder, or the one that the folder itself is.

    Args:
        shards: what ``lorat-prep build --shards`` was given, or one data set's folder in it.
        datasets: names separated by commas, ``lasot-train``, or ``lasot`` for all its splits.

    Raises:
        UserError: if no shards are there, or a name fits none of them.
    """
    folders, unfinished = [], []
    if file_size(shards / MANIFEST) is not None:
        folders = [shards]
    else:
        for folder in children(shards):
            is_folder = folder.is_dir() if isinstance(folder, Path) else "." not in folder.name
            inside = {path.name for path in children(folder)} if is_folder else set()
            if MANIFEST in inside:
                folders.append(folder)
            elif any(name.startswith(f"{folder.name}-") for name in inside):
                unfinished.append(folder)
    if not folders:
        what = "only unfinished builds" if unfinished else "no shards"
        raise UserError(
            f"{shards}: {what} here; build them with lorat-prep build --shards {shards} …, or name "
            "the folder that they are in"
        )
    names = {name.strip() for name in (datasets or "").split(",")} - {""}
    known = {name for folder in folders for name in _called(folder)}
    for name in sorted(names - known):
        raise unknown(f"shard set in {shards}", name, known)
    wanted = [
        tuple(folder for folder in found if not names or names & _called(folder))
        for found in (folders, unfinished)
    ]
    return ShardSets(*wanted)


def _called(folder: Location) -> set[str]:
    return {folder.name, folder.name.partition("-")[0]}


def load_sets(shards: Location, datasets: str | None = None) -> list[Manifest]:
    """Return the manifests that `find_sets` finds.

    Raises:
        UserError: as `find_sets`, and where a manifest cannot be read.
    """
    return [load_manifest(folder) for folder in find_sets(shards, datasets).folders]


def skipped_pairs(manifest: Manifest) -> dict[str, int]:
    """Return reason → pairs of a set that were drawn but not stored."""
    return dict(sum((Counter(shard.skipped) for shard in manifest.shards), Counter[str]()))


def print_sets(manifests: Sequence[Manifest], title: str | None = None) -> None:
    """Print what stands in the shards of each set, and what was skipped and why."""
    columns = ("data set", "pairs", "shards", "MB", "KB/pair", "windows cut", "skipped")
    table = plain_table(columns, title)
    for manifest in manifests:
        size = sum(shard.bytes for shard in manifest.shards)
        tried = sum(shard.jitter_draws for shard in manifest.shards)
        outside = sum(shard.jitter_outside for shard in manifest.shards)
        table.add_row(
            manifest.name,
            f"{manifest.rows:,}",
            f"{len(manifest.shards):,}",
            f"{size / 1e6:,.1f}",
            f"{size / 1e3 / max(1, manifest.rows):.1f}",
            f"{outside / max(1, tried):.1%}",
            f"{sum(skipped_pairs(manifest).values()):,}",
        )
    OUT.print(table)
    for manifest in manifests:
        for reason, count in sorted(skipped_pairs(manifest).items()):
            pairs = "pair" if count == 1 else "pairs"
            say(f"{manifest.name}: skipped {count:,} {pairs}: {reason}")
    say("'windows cut': share of jittered windows that leave the stored window.")


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
