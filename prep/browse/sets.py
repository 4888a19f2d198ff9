"""Which shard sets a command line asks for, and what stands in them by their receipts."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lorat.shards.base.console import OUT, plain_table, say
from lorat.shards.base.errors import UserError, unknown
from lorat.shards.base.storage import Location, children, file_size
from lorat.shards.manifest import MANIFEST, Manifest, load_manifest
from lorat.shards.sample import SHAPES


class SetSizes(NamedTuple):
    """The exact numbers of one data set split, from its receipts."""

    name: str
    shards: int
    pairs: int
    bytes: int
    kb_per_pair: float  # compressed kilobytes (1,000 bytes) a stored pair
    skipped: dict[str, int]  # reason → pairs that were drawn but not stored
    window_draws: int
    windows_cut: int  # of the draws, how many leave the stored window although the frame goes on
    share_cut: float

    @classmethod
    def of(cls, manifest: Manifest) -> "SetSizes":
        """Sum a set's receipts."""
        receipts, pairs = manifest.shards, manifest.rows
        size = sum(receipt.bytes for receipt in receipts)
        draws = sum(receipt.jitter_draws for receipt in receipts)
        cut = sum(receipt.jitter_outside for receipt in receipts)
        kb, share = size / 1e3 / max(1, pairs), cut / max(1, draws)
        return cls(manifest.name, len(receipts), pairs, size, kb, manifest.skipped, draws, cut, share)


def print_sets(manifests: Sequence[Manifest], title: str | None = None) -> None:
    """Print what stands in the shards of each set, and what was skipped and why."""
    table = plain_table(("data set", "pairs", "shards", "MB", "KB/pair", "windows cut", "skipped"), title)
    sizes = [SetSizes.of(manifest) for manifest in manifests]
    for name, shards, pairs, size, kb, skipped, _, _, share in sizes:
        counts = (f"{pairs:,}", f"{shards:,}", f"{size / 1e6:,.1f}", f"{kb:.1f}", f"{share:.1%}")
        table.add_row(name, *counts, f"{sum(skipped.values()):,}")
    OUT.print(table)
    for sampler in sorted({manifest.sampler for manifest in manifests} - {"pair"}):
        names = ", ".join(manifest.name for manifest in manifests if manifest.sampler == sampler)
        templates, searches = SHAPES[sampler]
        counted = f"{templates} template{'s' * (templates > 1)} and {searches} search images"
        say(f"{names}: not pairs but tuples for {sampler}: {counted} each")
    for each in sizes:
        for reason, count in sorted(each.skipped.items()):
            say(f"{each.name}: skipped {count:,} {'pair' if count == 1 else 'pairs'}: {reason}")
    say("'windows cut': share of jittered windows that leave the stored window.")


def find_sets(shards: Location, datasets: str | None = None) -> tuple[list[Location], list[Location]]:
    """Return the folders with a manifest, and those with files of a shard set but without one.
    They lie in `shards`, what ``lorat-prep build --shards`` was given, or are one data set's folder in it. `datasets`
    are names separated by commas, ``lasot-train``, or ``lasot`` for all splits. A `UserError` if no shards are there,
    or a name fits none of them.
    """
    sets = [shards] if file_size(shards / MANIFEST) is not None else []
    unfinished = []
    for folder in [] if sets else children(shards):
        is_folder = folder.is_dir() if isinstance(folder, Path) else "." not in folder.name
        inside = {path.name for path in children(folder)} if is_folder else set()
        if MANIFEST in inside:
            sets.append(folder)
        elif any(name.startswith(f"{folder.name}-") for name in inside):
            unfinished.append(folder)
    if not sets:
        what = "only unfinished builds" if unfinished else "no shards"
        remedy = f"build them with lorat-prep build --shards {shards} …, or name their folder"
        raise UserError(f"{shards}: {what} here; {remedy}")
    wanted = {name.strip() for name in (datasets or "").split(",")} - {""}
    known = {name for folder in sets for name in _names(folder)}
    for name in sorted(wanted - known):
        raise unknown(f"shard set in {shards}", name, known)
    wanted = wanted or known
    return [folder for folder in sets if wanted & _names(folder)], [f for f in unfinished if wanted & _names(f)]


def _names(folder: Location) -> set[str]:
    return {folder.name, folder.name.partition("-")[0]}


def load_sets(shards: Location, datasets: str | None = None) -> list[Manifest]:
    """Return the manifests that `find_sets` finds; a `UserError` where one cannot be read."""
    return [load_manifest(folder) for folder in find_sets(shards, datasets)[0]]
