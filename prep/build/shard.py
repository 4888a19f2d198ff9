"""One shard's job: draw its samples, cut them, write the shard and its receipt.

Runs in whatever process an engine chooses, and tells there how far it is. The receipt is written last, so a shard
without one does not exist; an old one goes before its shard is replaced.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import NamedTuple

from lorat.prep.build.plan import Plan
from lorat.prep.pairs.crop import FrameSizeChanged, JitterReport, cut_sample, try_jitter
from lorat.prep.pairs.draw import draw_sample
from lorat.prep.pool import Tell
from lorat.shards.base.storage import remove_file, write_json
from lorat.shards.manifest import Receipt, receipt_path
from lorat.shards.pixels.jpeg import ImageError
from lorat.shards.rng import Draws
from lorat.shards.sample import Sample, sample_key
from lorat.shards.writer import write_shard

_STEP = 16  # pairs between two words on how far a job is


class Skip(NamedTuple):
    """A pair that is not stored, and whether a damaged frame is to blame for that."""

    pair: int
    sequence: str
    reason: str
    detail: str
    lost: bool = False


class Step(NamedTuple):
    """Pairs that a job has drawn since it told last."""

    drawn: int
    skips: tuple[Skip, ...]


def build_shard(plan: Plan, number: int, tell: Tell) -> None:
    """Build a shard and tell `Step`s, then its `Receipt`; a `UserError` if it cannot be written."""
    pairs, name, skips, tried = plan.pair_range(number), plan.shard(number), list[Skip](), list[JitterReport]()

    def samples() -> Iterator[Sample]:
        for start in range(0, len(pairs), _STEP):
            told, step = len(skips), pairs[start : start + _STEP]
            for made in (make_sample(plan, pair) for pair in step):
                if isinstance(made, Skip):
                    skips.append(made)
                else:
                    tried.extend(made[1])
                    yield made[0]
            tell(Step(len(step), tuple(skips[told:])))

    remove_file(receipt_path(plan.folder, name))
    summary = write_shard(plan.folder / name, samples())
    receipt = Receipt(
        shard=name,
        first_pair=pairs.start,
        drawn=len(pairs),
        **asdict(summary),
        config=plan.fingerprint(),
        skipped=dict(Counter(skip.reason for skip in skips)),
        bad=tuple(skip.detail for skip in skips if skip.lost),
        jitter_draws=sum(report.accepted for report in tried),
        jitter_outside=sum(report.outside for report in tried),
    )
    write_json(receipt_path(plan.folder, name), asdict(receipt))
    tell(receipt)


def make_sample(plan: Plan, number: int) -> tuple[Sample, list[JitterReport]] | Skip:
    """Cut sample `number`, and report on each of its search frames, or say why it is not stored."""
    options = plan.options
    rule = options.sampler, options.max_gap
    drawn = draw_sample(plan.clips, plan.name, options.seed, number, *rule, causal=options.causal)
    clip, crops = plan.clips[drawn.clip], options.crops
    draws, boxes = Draws("jitter", options.seed, plan.name, number), clip.tracks[drawn.track].boxes
    reports = [try_jitter(boxes[index], clip.frame_size(), crops, draws) for index in drawn.searches]
    for report in reports:
        if not report.usable:
            detail = f"{report.accepted} of {report.tried} windows"
            return Skip(number, clip.name, "too few jittered windows show the object", detail)
    try:
        return cut_sample(clip, drawn, sample_key(plan.dataset, plan.split, number), crops), reports
    except ImageError as error:
        return Skip(number, clip.name, "frame does not decode", error.message, lost=True)
    except FrameSizeChanged as error:
        return Skip(number, clip.name, "frame size differs within the sequence", str(error))
