"""What a build will do, before it does it: pairs, shards, configuration.

Promise: two plans of the same clips and options are equal, on any machine, so that parts of a build can run apart. What
defines the bytes stands in `Plan.config`.
"""

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from lorat.prep.annotations.clips import ClipIndex, annotations_fingerprint
from lorat.prep.pairs.crop import CropOptions
from lorat.prep.pairs.draw import DRAWING, MAX_GAPS
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import UserError
from lorat.shards.base.options import option
from lorat.shards.base.storage import Location
from lorat.shards.manifest import shard_name
from lorat.shards.pixels.jpeg import codec_name
from lorat.shards.pixels.resample import RESAMPLER, SHRINKING
from lorat.shards.sample import Sampler

_LOG = logging.getLogger("lorat")
_MOST_PAIRS = 500_000


class BuildPart(NamedTuple):
    """Part `number`, from 1, of a build that `of` runs share: every `of`-th shard."""

    number: int
    of: int

    @staticmethod
    def parse(text: str) -> "BuildPart":
        """Read ``i/n``; a `UserError` if it is not that."""
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"part '{text}': write i/n with i from 1 to n, such as 2/8 for the second of eight")
        return BuildPart(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How the shards of one data set are built; `exclude` is the fingerprint of what was left out of the clips."""

    crops: CropOptions = field(default_factory=CropOptions)
    sampler: Sampler = option(
        "pair", help="Which frames make a sample: a pair, or the tuple that SPMTrack or LoRATv2 is trained on."
    )
    pairs: int | None = option(
        None, least=1, help="Pairs, or tuples, a data set.  [default: 500,000, or 4 a visible object of a small tree]"
    )
    shard_pairs: int = option(2048, least=1, help="Pairs a shard.")
    seed: int = option(42, help="Decides which pairs are drawn.")
    max_gap: int | None = option(
        None, least=1, help="Most frames between template and search.  [default: 100; 200 for spmtrack]"
    )
    causal: bool = option(False, help="Search frames come after their templates', and not before.")
    workers: int = 2  # local processes, where no engine is given
    max_bad: int = option(0, least=0, help="Pairs, and sequences, that damaged frames may cost before the build stops.")
    odd_boxes: bool = option(False, help="Build although boxes look normalised, tiny, or like two corners.")
    part: BuildPart | None = option(
        None, metavar="I/N", help="Build every N-th shard, no manifest; --merge afterwards."
    )
    exclude: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The build of one data set split; `clips` are cleaned."""

    dataset: str
    split: str
    clips: Sequence[Clip]
    folder: Location
    config: dict[str, Any]
    options: BuildOptions
    pairs: int
    warned: tuple[str, ...] = ()  # of the tree, lost sequences and images included, for the log and the manifest
    outside: int = 0  # visible boxes that were removed, since they have no part in their images, or no size

    @property
    def name(self) -> str:
        """``<dataset>-<split>``."""
        return f"{self.dataset}-{self.split}"

    def fingerprint(self) -> str:
        """Return the hash that the receipts of this configuration carry."""
        return hashlib.sha256(repr(sorted((k, repr(v)) for k, v in self.config.items())).encode()).hexdigest()[:16]

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

    def pairs_in(self, shards: Sequence[int]) -> int:
        """Return the number of pairs of some shards."""
        return sum(len(self.pair_range(number)) for number in shards)

    def mine(self) -> list[int]:
        """Return the shards that this run is answerable for: all, or those of its part."""
        part = self.options.part or BuildPart(1, 1)
        return list(range(part.number - 1, self.shards(), part.of))


def most_pairs(clips: Sequence[Clip]) -> int:
    """Return how many pairs are worth drawing from a tree: 4 for each visible object."""
    if isinstance(clips, ClipIndex):
        return 4 * clips.object_frames
    return 4 * sum(int(track.visible.sum()) for clip in clips for track in clip.tracks)


def make_plan(clips: Sequence[Clip], shards: Location, options: BuildOptions) -> Plan:
    """Plan the shards of one data set split under `shards`/<dataset>-<split>. Writes nothing.
    The clips are cleaned and sized, all of one split: an index, or a list. Without a number of pairs it is 500,000 or
    `most_pairs`, whichever is less. A `UserError` if there are no clips, or more sequences are lost than
    `options.max_bad`, or the boxes look odd and that was not allowed.
    """
    if not clips:
        raise UserError("no sequence has a visible object; nothing to build")
    dataset, split = clips[0].dataset, clips[0].split
    if isinstance(clips, ClipIndex):
        fingerprint, lost = clips.fingerprint, list(clips.lost.values())
        if len(lost) > options.max_bad:
            what = f"damaged sequences of {dataset}-{split}: {len(lost)}, --max-bad allows {options.max_bad}"
            raise UserError(f"{lost[0]}; {what}; or leave them out: --exclude REPORT of lorat-prep check")
        warn_of_losses("sequence", lost, "the log")
        for what in clips.odd:
            if not options.odd_boxes:
                remedy = "write x, y, width, height in pixels, or build them as they are with --odd-boxes"
                raise UserError(f"{dataset}-{split}: {what} {remedy}")
            _LOG.warning("%s-%s: %s", dataset, split, what)
        outside = clips.outside
        warned = (*clips.warned, *(f"lost a sequence: {reason}" for reason in lost), *clips.odd)
    else:
        fingerprint, warned, outside = annotations_fingerprint(clips), (), 0
    config = {"seed": options.seed, "shard_pairs": options.shard_pairs, **asdict(options.crops)}
    config |= {"codec": codec_name(), "shrinking": SHRINKING, "annotations": fingerprint}
    config |= {"drawing": DRAWING, "resampler": RESAMPLER}
    # Named where they are used only: what was built without them goes on.
    used: dict[str, Any] = {"exclude": options.exclude}
    used |= {"range16": options.crops.range16 and [*options.crops.range16]}
    sampler, gap = options.sampler, options.max_gap
    used |= {"sampler": sampler if sampler != "pair" else None, "causal": options.causal or None}
    used |= {"max_gap": gap if gap != MAX_GAPS[sampler] else None}
    config = {k: v for k, v in (config | used).items() if v is not None}
    pairs = options.pairs or min(_MOST_PAIRS, most_pairs(clips))
    return Plan(dataset, split, clips, shards / f"{dataset}-{split}", config, options, pairs, warned, outside)


def warn_of_losses(what: str, reasons: Sequence[str], where: str) -> None:
    """Warn of the first losses one by one; `where` names them all."""
    for reason in reasons[:10]:
        _LOG.warning("lost a %s: %s", what, reason)
    if len(reasons) > 10:
        _LOG.warning("lost %d more %ss; %s names them", len(reasons) - 10, what, where)
