"""Which shard sets a command line asks for, and what stands in them by their receipts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorat.shards.base.console import OUT, plain_table, say
from lorat.shards.base.errors import UserError, unknown
from lorat.shards.base.storage import Location, children, file_size
from lorat.shards.manifest import MANIFEST, Manifest, load_manifest


@dataclass(frozen=True, slots=True)
class SetSizes:
    """The exact numbers of one data set split, from its receipts."""

    name: str
    shards: int
    pairs: int
    bytes: int
    kb_per_pair: float
    """Compressed kilobytes (1,000 bytes) a stored pair."""
    skipped: dict[str, int]
    """Reason → pairs that were drawn but not stored."""
    window_draws: int
    windows_cut: int
    """Of the draws, how many leave the stored window although the frame goes on."""
    share_cut: float

    @classmethod
    def of(cls, manifest: Manifest) -> "SetSizes":
        """Sum a set's receipts."""
        receipts, pairs = manifest.shards, manifest.rows
        size = sum(receipt.bytes for receipt in receipts)
        draws = sum(receipt.jitter_draws for receipt in receipts)
        cut = sum(receipt.jitter_outside for receipt in receipts)
        kb, share, lost = size / 1e3 / max(1, pairs), cut / max(1, draws), manifest.skipped
        return cls(manifest.name, len(receipts), pairs, size, kb, lost, draws, cut, share)


def print_sets(manifests: Sequence[Manifest], title: str | None = None) -> None:
    """Print what stands in the shards of each set, and what was skipped and why."""
    sizes = [SetSizes.of(manifest) for manifest in manifests]
    columns = ("data set", "pairs", "shards", "MB", "KB/pair", "windows cut", "skipped")
    table = plain_table(columns, title)
    for each in sizes:
        table.add_row(
            each.name,
            f"{each.pairs:,}",
            f"{each.shards:,}",
            f"{each.bytes / 1e6:,.1f}",
            f"{each.kb_per_pair:.1f}",
            f"{each.share_cut:.1%}",
            f"{sum(each.skipped.values()):,}",
        )
    OUT.print(table)
    for each in sizes:
        for reason, count in sorted(each.skipped.items()):
            say(f"{each.name}: skipped {count:,} {'pair' if count == 1 else 'pairs'}: {reason}")
    say("'windows cut': share of jittered windows that leave the stored window.")


def find_sets(shards: Location, datasets: str | None = None) -> tuple[list[Location], list[Location]]:
    """Return the folders with a manifest, and those with files of a shard set but without one.

    They lie in `shards`, what ``lorat-prep build --shards`` was given, or are one data set's folder in it. `datasets`
    are names separated by commas, ``lasot-train``, or ``lasot`` for all splits.

    Raises:
        UserError: if no shards are there, or a name fits none of them.
    """
    sets, unfinished = [], []
    if file_size(shards / MANIFEST) is not None:
        sets = [shards]
    for folder in [] if sets else children(shards):
        is_folder = folder.is_dir() if isinstance(folder, Path) else "." not in folder.name
        inside = {path.name for path in children(folder)} if is_folder else set()
        if MANIFEST in inside:
            sets.append(folder)
        elif any(name.startswith(f"{folder.name}-") for name in inside):
            unfinished.append(folder)
    if not sets:
        what = "only unfinished builds" if unfinished else "no shards"
        raise UserError(
            f"{shards}: {what} here; build them with lorat-prep build --shards {shards} …, or name "
            "the folder that they are in"
        )
    wanted = {name.strip() for name in (datasets or "").split(",")} - {""}
    known = {name for folder in sets for name in _names(folder)}
    for name in sorted(wanted - known):
        raise unknown(f"shard set in {shards}", name, known)

    def chosen(folders: list[Location]) -> list[Location]:
        return [folder for folder in folders if not wanted or wanted & _names(folder)]

    return chosen(sets), chosen(unfinished)


def _names(folder: Location) -> set[str]:
    return {folder.name, folder.name.partition("-")[0]}


def load_sets(shards: Location, datasets: str | None = None) -> list[Manifest]:
    """Return the manifests that `find_sets` finds; a `UserError` where one cannot be read."""
    return [load_manifest(folder) for folder in find_sets(shards, datasets)[0]]
