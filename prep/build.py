"""Raw trees to shards: plan, shard jobs, receipts, manifest.

Shard k of a data set holds pairs k·n … (k + 1)·n − 1. A build can be stopped at any moment and run
again: what has a valid receipt is kept, the rest is built, and the bytes are the same whatever the
number of workers. The manifest is written last.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lorat.prep.cleaning import clean
from lorat.prep.crops import CropOptions, FrameSizeChanged, JitterReport, cut_pair, try_jitter
from lorat.prep.engines import run_local
from lorat.prep.pairs import PairDraw, draw_pair, object_frames
from lorat.prep.trees.clip import Clip
from lorat.shards.errors import UserError
from lorat.shards.jpeg import ImageError, codec_name
from lorat.shards.manifest import (
    MANIFEST,
    Manifest,
    Receipt,
    load_manifest,
    load_receipt,
    receipt_path,
    shard_name,
)
from lorat.shards.rng import Draws
from lorat.shards.sample import PairSample, sample_key
from lorat.shards.storage import write_json
from lorat.shards.writer import write_shard

__all__ = ["BuildOptions", "BuildReport", "build", "default_pairs"]

_LOG = logging.getLogger("lorat")
_MOST_PAIRS = 500_000
_PAIRS_PER_OBJECT_FRAME = 4


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
    max_bad: int = 0
    """Pairs that may be lost to damaged frames before the build stops."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did."""

    manifest: Manifest
    built: int
    """Shards written now; the others were there."""
    skipped: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Plan:
    name: str
    clips: list[Clip]
    folder: Path
    config: dict[str, Any]
    options: BuildOptions
    pairs: int

    def fingerprint(self) -> str:
        text = repr(sorted((k, repr(v)) for k, v in self.config.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def default_pairs(clips: list[Clip]) -> int:
    """Return how many pairs serve a tree: 500,000, or 4 for each visible object of a small tree."""
    return min(_MOST_PAIRS, _PAIRS_PER_OBJECT_FRAME * object_frames(clips))


def build(
    clips: list[Clip],
    shards: Path,
    options: BuildOptions,
    progress: Callable[[int, int], None] | None = None,
) -> BuildReport:
    """Build the shards of one data set split under `shards`/<dataset>-<split>.

    Args:
        clips: as the tree's reader gives them, not yet cleaned.
        shards: the folder of all data sets' shards.
        options: how.
        progress: called with (pairs done, pairs in all).

    Raises:
        UserError: if nothing usable is in the tree, the folder holds shards of another build, or
            more pairs than `options.max_bad` are lost to damaged frames.
    """
    plan = _plan(clips, shards, options)
    names = _shard_names(plan)
    done = _finished(plan, names)
    todo = [number for number, name in enumerate(names) if name not in done]
    finished = sum(receipt.drawn for receipt in done.values())
    for receipt in run_local(_build_shard, plan, todo, options.workers):
        done[receipt.shard] = receipt
        _check_losses(done, options.max_bad)
        finished += receipt.drawn
        if progress:
            progress(finished, plan.pairs)
    for message in (m for receipt in done.values() for m in receipt.bad):
        _LOG.warning("lost a pair: %s", message)
    dataset, split = clips[0].dataset, clips[0].split
    manifest = Manifest(dataset, split, plan.config, tuple(done[n] for n in names), plan.folder)
    if manifest.rows == 0:
        raise UserError(f"{plan.name}: no pair of {plan.pairs} could be stored; see the warnings")
    manifest.save()
    skipped = sum((Counter(receipt.skipped) for receipt in manifest.shards), Counter())
    return BuildReport(manifest, len(todo), dict(skipped))


def _finished(plan: _Plan, names: list[str]) -> dict[str, Receipt]:
    """Return the receipts that count; shards that lost pairs count while the losses are allowed."""
    done: dict[str, Receipt] = {}
    for number, name in enumerate(names):
        receipt = load_receipt(plan.folder, name, plan.fingerprint())
        if receipt is not None and receipt.drawn == len(_pair_range(plan, number)):
            done[name] = receipt
    lost = sum(len(receipt.bad) for receipt in done.values())
    return done if lost <= plan.options.max_bad else {n: r for n, r in done.items() if not r.bad}


def _check_losses(done: dict[str, Receipt], max_bad: int) -> None:
    bad = [message for receipt in done.values() for message in receipt.bad]
    if len(bad) > max_bad:
        raise UserError(
            f"{bad[0]}; damaged frames cost {len(bad)} pairs so far, --max-bad allows {max_bad}; "
            "finished shards are kept"
        )


def _plan(clips: list[Clip], shards: Path, options: BuildOptions) -> _Plan:
    sized = (replace(clip, size=clip.frame_size()) for clip in clips)
    cleaned = [c for clip in sized if (c := clean(clip, clip.frame_size())) is not None]
    if not cleaned:
        where = clips[0].frames.folder if clips else "the tree"
        raise UserError(f"{where}: no sequence has a visible object; nothing to build")
    name = f"{cleaned[0].dataset}-{cleaned[0].split}"
    config = {
        "seed": options.seed,
        "shard_pairs": options.shard_pairs,
        **asdict(options.crops),
        "codec": codec_name(),
        "annotations": _annotations_fingerprint(cleaned),
    }
    plan = _Plan(
        name, cleaned, shards / name, config, options, options.pairs or default_pairs(cleaned)
    )
    plan.folder.mkdir(parents=True, exist_ok=True)
    if (plan.folder / MANIFEST).is_file():
        _refuse_other_build(plan)
    return plan


def _refuse_other_build(plan: _Plan) -> None:
    before = load_manifest(plan.folder)
    differing = [k for k in plan.config if before.config.get(k) != plan.config[k]]
    if differing:
        key = differing[0]
        raise UserError(
            f"{plan.folder}: was built with another {key} ({before.config.get(key)} instead of "
            f"{plan.config[key]}); delete the folder or build into another --shards"
        )


def _shard_names(plan: _Plan) -> list[str]:
    dataset, split = plan.clips[0].dataset, plan.clips[0].split
    count = -(-plan.pairs // plan.options.shard_pairs)
    return [shard_name(dataset, split, number) for number in range(count)]


def _pair_range(plan: _Plan, number: int) -> range:
    first = number * plan.options.shard_pairs
    return range(first, min(first + plan.options.shard_pairs, plan.pairs))


def _annotations_fingerprint(clips: list[Clip]) -> str:
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(f"{clip.name}\0{len(clip.frames)}\0{clip.frame_size()}\0".encode())
        for track in clip.tracks:
            digest.update(np.nan_to_num(track.boxes, nan=-1.0).astype("<f8").tobytes())
            digest.update(track.visible.tobytes())
    return digest.hexdigest()[:16]


def _build_shard(plan: _Plan, number: int) -> Receipt:
    """Build shard `number` and write its receipt; runs in a worker process."""
    pairs = _pair_range(plan, number)
    samples: list[PairSample] = []
    skipped: Counter[str] = Counter()
    bad: list[str] = []
    tried = outside = 0
    for pair_number in pairs:
        pair = draw_pair(plan.clips, plan.name, plan.options.seed, pair_number)
        clip = plan.clips[pair.clip]
        report = _try_pair(plan, pair, pair_number)
        if not report.usable:
            skipped["too few jittered windows show the object"] += 1
            continue
        key = sample_key(clip.dataset, clip.split, pair_number)
        try:
            samples.append(cut_pair(clip, pair, key, plan.options.crops))
        except ImageError as error:
            skipped["frame does not decode"] += 1
            bad.append(error.message)
        except FrameSizeChanged:
            skipped["frame size differs within the sequence"] += 1
        else:
            tried += report.accepted
            outside += report.outside
    name = shard_name(plan.clips[0].dataset, plan.clips[0].split, number)
    receipt = Receipt(
        shard=name,
        first_pair=pairs.start,
        drawn=len(pairs),
        **asdict(write_shard(plan.folder / name, samples)),
        config=plan.fingerprint(),
        skipped=dict(skipped),
        bad=tuple(bad),
        jitter_draws=tried,
        jitter_outside=outside,
    )
    write_json(receipt_path(plan.folder, name), asdict(receipt))
    return receipt


def _try_pair(plan: _Plan, pair: PairDraw, number: int) -> JitterReport:
    clip = plan.clips[pair.clip]
    box = clip.tracks[pair.track].boxes[pair.search]
    draws = Draws("jitter", plan.options.seed, plan.name, number)
    return try_jitter(box, clip.frame_size(), plan.options.crops, draws)
