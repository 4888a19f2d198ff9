"""One shard's job: draw its pairs, cut them, write the shard and its receipt.

Runs in whatever process an engine chooses, and tells there how far it is. The receipt is written
last, so a shard without one does not exist; an old one goes before its shard is replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from lorat.prep.pairs.crop import FrameSizeChanged, JitterReport, cut_pair, try_jitter
from lorat.prep.pool import Tell
from lorat.prep.pairs.draw import PairDraw, draw_pair
from lorat.prep.build.plan import Plan
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.jpeg import ImageError
from lorat.shards.manifest import Receipt, receipt_path
from lorat.shards.rng import Draws
from lorat.shards.sample import PairSample, sample_key
from lorat.shards.base.storage import remove_file, write_json
from lorat.shards.writer import write_shard

__all__ = ["Skip", "Step", "build_shard", "make_pair"]

_STEP = 16  # pairs between two words on how far a job is


@dataclass(frozen=True, slots=True)
class Skip:
    """A pair that is not stored."""

    pair: int
    sequence: str
    reason: str
    detail: str
    lost: bool = False
    """Whether a damaged frame is to blame."""


@dataclass(frozen=True, slots=True)
class Step:
    """Pairs that a job has drawn since it told last."""

    drawn: int
    skips: tuple[Skip, ...]


@dataclass(slots=True)
class _Tally:
    """What becomes of the pairs of a shard."""

    tell: Tell
    skips: list[Skip] = field(default_factory=list)
    accepted: int = 0
    outside: int = 0
    drawn: int = 0
    told: tuple[int, int] = (0, 0)
    """Pairs and skips that were told."""

    def report(self) -> None:
        pairs, skips = self.told
        self.tell(Step(self.drawn - pairs, tuple(self.skips[skips:])))
        self.told = (self.drawn, len(self.skips))


def build_shard(plan: Plan, number: int, tell: Tell) -> None:
    """Build shard `number` and write its receipt; tells `Step`s, and the `Receipt` at the end.

    Raises:
        UserError: if the shard cannot be written.
    """
    pairs = plan.pair_range(number)
    name = plan.shard(number)
    receipt_file = receipt_path(plan.folder, name)
    tally = _Tally(tell)
    try:
        remove_file(receipt_file)
        summary = write_shard(plan.folder / name, _samples(plan, pairs, tally))
        tally.report()
        receipt = Receipt(
            shard=name,
            first_pair=pairs.start,
            drawn=len(pairs),
            **asdict(summary),
            config=plan.fingerprint(),
            skipped=dict(Counter(skip.reason for skip in tally.skips)),
            bad=tuple(skip.detail for skip in tally.skips if skip.lost),
            jitter_draws=tally.accepted,
            jitter_outside=tally.outside,
        )
        write_json(receipt_file, asdict(receipt))
    except OSError as error:
        raise UserError(
            f"{plan.folder / name}: cannot be written ({error.strerror or error}); mend that and "
            "run the same command again: finished shards are kept"
        ) from None
    tell(receipt)


def make_pair(plan: Plan, number: int) -> tuple[PairSample, JitterReport] | Skip:
    """Cut pair `number`, or say why it is not stored."""
    pair = draw_pair(plan.clips, plan.name, plan.options.seed, number)
    clip = plan.clips[pair.clip]
    report = _try_pair(plan, clip, pair, number)
    if not report.usable:
        detail = f"{report.accepted} of {report.tried} windows"
        return Skip(number, clip.name, "too few jittered windows show the object", detail)
    try:
        key = sample_key(plan.dataset, plan.split, number)
        return cut_pair(clip, pair, key, plan.options.crops), report
    except ImageError as error:
        return Skip(number, clip.name, "frame does not decode", error.message, lost=True)
    except FrameSizeChanged as error:
        return Skip(number, clip.name, "frame size differs within the sequence", str(error))


def _samples(plan: Plan, pairs: range, tally: _Tally) -> Iterator[PairSample]:
    for number in pairs:
        made = make_pair(plan, number)
        tally.drawn += 1
        if tally.drawn % _STEP == 0:
            tally.report()
        if isinstance(made, Skip):
            tally.skips.append(made)
            continue
        sample, jitter = made
        tally.accepted += jitter.accepted
        tally.outside += jitter.outside
        yield sample


def _try_pair(plan: Plan, clip: Clip, pair: PairDraw, number: int) -> JitterReport:
    box = clip.tracks[pair.track].boxes[pair.search]
    draws = Draws("jitter", plan.options.seed, plan.name, number)
    return try_jitter(box, clip.frame_size(), plan.options.crops, draws)
