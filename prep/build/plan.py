"""What a build will do, before it does it: pairs, shards, configuration, and what is there already.

Promise: two plans of the same clips and options are equal, on any machine, so that parts of a build
can run apart. What defines the bytes stands in `Plan.config`; a folder that was begun with another
configuration, or holds more than is asked for, is refused before anything in it changes.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any

from lorat.prep.annotations.clipstore import ClipIndex
from lorat.prep.pairs.crop import CropOptions
from lorat.prep.annotations.fingerprint import annotations_fingerprint
from lorat.prep.pairs.draw import object_frames
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.jpeg import codec_name
from lorat.shards.manifest import MANIFEST, Receipt, load_manifest, load_receipt, shard_name
from lorat.shards.pixels.resample import SHRINKING
from lorat.shards.base.storage import Location, children, file_size, read_json, write_json

__all__ = [
    "PLAN",
    "BuildOptions",
    "Part",
    "Plan",
    "begin",
    "check_folder",
    "check_losses",
    "default_pairs",
    "finished",
    "make_plan",
    "most_pairs",
    "planned_parts",
]

_LOG = logging.getLogger("lorat")

PLAN = "plan.json"
_VERSION = 1  # of that file
_MOST_PAIRS = 500_000
_PAIRS_PER_OBJECT_FRAME = 4
_WARNED = 10  # lost sequences that are warned about; the log of the build has them all
_THREADS = 16  # receipts are asked for at once, since a remote store takes its time for each


@dataclass(frozen=True, slots=True)
class Part:
    """Part `number` of a build that `of` runs share: every `of`-th shard."""

    number: int
    """1 … `of`."""
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise UserError(f"part {self.number}/{self.of}: write i/n with i from 1 to n")

    @staticmethod
    def parse(text: str) -> Part:
        """Read ``i/n``.

        Raises:
            UserError: if it is not that.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not match:
            raise UserError(f"part '{text}': write i/n, such as 2/8 for the second of eight parts")
        return Part(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How the shards of one data set are built."""

    crops: CropOptions = field(default_factory=CropOptions)
    pairs: int | None = None
    """Pairs to draw; None takes `default_pairs`."""
    shard_pairs: int = 2048
    """Pairs a shard."""
    seed: int = 42
    workers: int = 2
    """Local processes, where no engine is given."""
    max_bad: int = 0
    """Pairs and sequences that may be lost to damaged frames before the build stops."""
    part: Part | None = None
    """Build only these shards, and write no manifest."""
    exclude: str | None = None
    """Fingerprint of what was left out of the clips on purpose."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The build of one data set split."""

    dataset: str
    split: str
    clips: Sequence[Clip]
    """Cleaned."""
    folder: Location
    config: dict[str, Any]
    options: BuildOptions
    pairs: int

    @property
    def name(self) -> str:
        """``<dataset>-<split>``."""
        return f"{self.dataset}-{self.split}"

    def fingerprint(self) -> str:
        """Return the hash that the receipts of this configuration carry."""
        text = repr(sorted((k, repr(v)) for k, v in self.config.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def shards(self) -> int:
        """Return the number of shards."""
        return -(-self.pairs // self.options.shard_pairs)

    def shard(self, number: int) -> str:
        """Return the file name of shard `number`."""
        return shard_name(self.dataset, self.split, number)

    def pair_range(self, number: int) -> range:
        """Return the numbers of the pairs of shard `number`."""
        first = number * self.options.shard_pairs
        return range(first, min(first + self.options.shard_pairs, self.pairs))

    def mine(self) -> list[int]:
        """Return the shards that this run is answerable for: all, or those of its part."""
        part = self.options.part
        if part is None:
            return list(range(self.shards()))
        return list(range(part.number - 1, self.shards(), part.of))


def default_pairs(clips: Sequence[Clip]) -> int:
    """Return how many pairs serve a tree: 500,000, or 4 for each visible object of a small tree."""
    return min(_MOST_PAIRS, most_pairs(clips))


def most_pairs(clips: Sequence[Clip]) -> int:
    """Return how many pairs are worth drawing from a tree: 4 for each visible object."""
    return _PAIRS_PER_OBJECT_FRAME * object_frames(clips)


def make_plan(clips: Sequence[Clip], shards: Location, options: BuildOptions) -> Plan:
    """Plan the shards of one data set split under `shards`/<dataset>-<split>. Writes nothing.

    Args:
        clips: cleaned and sized, all of one split: an index, or a list.
        shards: the folder of all data sets' shards.
        options: how.

    Raises:
        UserError: if there are no clips, or more sequences are lost than `options.max_bad`.
    """
    if not clips:
        raise UserError("no sequence has a visible object; nothing to build")
    dataset, split = clips[0].dataset, clips[0].split
    if isinstance(clips, ClipIndex):
        _check_sequences(clips, options.max_bad)
        fingerprint = clips.fingerprint
    else:
        fingerprint = annotations_fingerprint(clips)
    config = {
        "seed": options.seed,
        "shard_pairs": options.shard_pairs,
        **asdict(options.crops),
        "codec": codec_name(),
        "shrinking": SHRINKING,
        "annotations": fingerprint,
    }
    if options.exclude is not None:
        config["exclude"] = options.exclude
    folder = shards / f"{dataset}-{split}"
    pairs = options.pairs or default_pairs(clips)
    return Plan(dataset, split, clips, folder, config, options, pairs)


def check_folder(plan: Plan) -> None:
    """Refuse a folder that holds shards of another build; writes nothing.

    Raises:
        UserError: if its shards were built with another configuration, or go past the last pair of
            this plan: shortening would throw finished shards away.
    """
    numbers = _receipt_numbers(plan)
    before = _written_config(plan, bool(numbers))
    if before is not None:
        _refuse_other_build(plan, before)
    # Backwards from the end: one damaged shard there must not hide the whole ones before it.
    for number in takewhile(lambda number: number >= plan.shards() - 1, reversed(numbers)):
        receipt = load_receipt(plan.folder, plan.shard(number), plan.fingerprint())
        if receipt is not None and receipt.pairs.stop > plan.pairs:
            there = receipt.pairs.stop
            raise UserError(
                f"{plan.folder}: holds shards up to pair {there:,}, {plan.pairs:,} are asked for; "
                f"ask for --pairs {there} or more (or a larger --budget), delete the folder, or "
                "build into another --shards"
            )


def begin(plan: Plan) -> None:
    """Write down in the folder what is built there.

    Raises:
        UserError: as `check_folder`, or if it cannot be written.
    """
    check_folder(plan)
    parts = plan.options.part.of if plan.options.part else 1
    now = {"version": _VERSION, "config": plan.config, "parts": parts}
    if _read_note(plan) != now:
        write_json(plan.folder / PLAN, now)


def planned_parts(plan: Plan) -> int:
    """Return how many parts the last run in the folder was one of; 1 where none was begun."""
    note = _read_note(plan)
    return int(note["parts"]) if note else 1


def finished(plan: Plan, numbers: Sequence[int], all_losses: bool = False) -> dict[int, Receipt]:
    """Return the receipts that count, by shard number.

    Shards that lost pairs count only while the losses are allowed; otherwise they are built again,
    since the frames may have been mended.

    Args:
        plan: of the build.
        numbers: of the shards that are looked at.
        all_losses: let them count however much they lost.
    """
    config = plan.fingerprint()
    with ThreadPoolExecutor(_THREADS) as threads:
        receipts = threads.map(
            lambda number: load_receipt(plan.folder, plan.shard(number), config), numbers
        )
        done = {
            number: receipt
            for number, receipt in zip(numbers, receipts, strict=True)
            if receipt is not None and receipt.pairs == plan.pair_range(number)
        }
    lost = sum(len(receipt.bad) for receipt in done.values())
    if all_losses or lost <= plan.options.max_bad:
        return done
    return {number: receipt for number, receipt in done.items() if not receipt.bad}


def check_losses(receipts: Sequence[Receipt], max_bad: int) -> None:
    """Raise a UserError where damaged frames cost more pairs than are allowed."""
    bad = [message for receipt in receipts for message in receipt.bad]
    if len(bad) > max_bad:
        raise UserError(
            f"{bad[0]}; damaged frames cost {len(bad)} pairs so far, --max-bad allows {max_bad}; "
            "finished shards are kept"
        )


def _check_sequences(clips: ClipIndex, max_bad: int) -> None:
    """Refuse, or warn of, sequences that are lost as a whole."""
    if len(clips.lost) > max_bad:
        reason = next(iter(clips.lost.values()))
        raise UserError(
            f"{reason}; {len(clips.lost)} sequences of {clips.name} have no readable image at "
            f"their start, --max-bad allows {max_bad}; or leave them out: --exclude REPORT of "
            "lorat-prep check"
        )
    for reason in list(clips.lost.values())[:_WARNED]:
        _LOG.warning("lost a sequence: %s", reason)


def _refuse_other_build(plan: Plan, before: dict[str, Any]) -> None:
    differing = [k for k in {**before, **plan.config} if before.get(k) != plan.config.get(k)]
    if differing:
        # Other exclusions make other annotations; the reason is what helps.
        key = next((key for key in differing if key != "annotations"), differing[0])
        raise UserError(
            f"{plan.folder}: was built with another {key} ({before.get(key)} instead of "
            f"{plan.config.get(key)}); delete the folder or build into another --shards"
        )


def _written_config(plan: Plan, has_shards: bool) -> dict[str, Any] | None:
    """Return the configuration of what is in the folder; None where that is nothing."""
    if file_size(plan.folder / MANIFEST) is not None:
        return load_manifest(plan.folder).config
    note = _read_note(plan) if has_shards else None
    return dict(note["config"]) if note else None


def _read_note(plan: Plan) -> dict[str, Any] | None:
    """Return what `begin` wrote into the folder; None where it did not.

    Raises:
        UserError: if it is of another version, or not what was written.
    """
    file = plan.folder / PLAN
    if file_size(file) is None:
        return None
    note = read_json(file)
    known = isinstance(note, dict) and note.get("version") == _VERSION
    if known and isinstance(note.get("config"), dict) and isinstance(note.get("parts"), int):
        return note
    raise UserError(
        f"{file}: is not what this release writes (version {_VERSION}); if the shards beside it "
        "were built with the same options, delete it and run again"
    )


def _receipt_numbers(plan: Plan) -> list[int]:
    """Return the numbers of the shards that have a receipt, ascending."""
    receipts = re.compile(rf"{re.escape(plan.name)}-(\d+)\.receipt\.json")
    found = (receipts.fullmatch(file.name) for file in children(plan.folder))
    return sorted(int(match[1]) for match in found if match)
