"""Everything a person reads of an evaluation: tables, metrics.json, plots, zips, a video.

Promise: scores are always computed from the written results, so a second run prints the same
numbers. No zip is made of a test set in which a sequence failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lorat.evaluate.job import Evaluation
from lorat.evaluate.report import (
    Scored,
    metrics_document,
    plot_precision,
    plot_success,
    score_table,
    sequence_table,
)
from lorat.evaluate.results import SequenceResult, read_results
from lorat.evaluate.scoring import dataset_scores, never_moving_results
from lorat.evaluate.store import METRICS, result_folder
from lorat.evaluate.submission import Packed, pack_got10k, pack_trackingnet
from lorat.evaluate.testsets import TestSet
from lorat.evaluate.video import write_tracking_video
from lorat.prep.trees import official_names
from lorat.prep.trees.clip import Clip
from lorat.shards.geometry import xyxy_to_xywh
from lorat.shards.storage import write_json

__all__ = ["Wishes", "publish", "write_scores"]

_FEW_SEQUENCES = 20  # a test set of up to so many gets a table of its sequences
_VIDEO_FRAMES = 300  # of a video that nobody asked for by name
_ZIPS = {"got10k": "GOT10k-test.zip", "trackingnet": "TrackingNet-test.zip"}

Results = Mapping[str, Mapping[str, SequenceResult]]  # test set → sequence → result


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What the user wants besides the scores."""

    overwrite: bool = False
    """Replace a zip that exists with other content."""
    video: str | None = None
    """The sequence of the video; None chooses one."""
    no_video: bool = False


def write_scores(outcome: Evaluation, out: Path) -> list[Scored]:
    """Score the results in `out` and write metrics.json; see `publish`."""
    results = _results(outcome, out)
    scored = _score(outcome, results)
    write_json(out / METRICS, metrics_document(scored, _about(outcome, results)))
    return scored


def publish(outcome: Evaluation, out: Path, wishes: Wishes, console: Console) -> list[Scored]:
    """Score the results in `out`; write and print all that a person reads of them.

    Writes metrics.json, success.png, precision.png, the zips that the test sets ask for, and
    video.mp4. Test sets without ground truth are only zipped.

    Args:
        outcome: from `evaluate`.
        out: the evaluation's folder.
        wishes: what else is wanted.
        console: where tables and paths are printed.

    Returns:
        The scores of the test sets that have ground truth.

    Raises:
        UserError: if a zip or the video cannot be made; what was written before stays.
    """
    scored, results = write_scores(outcome, out), _results(outcome, out)
    label = f"LoRAT {outcome.identity.variant}"
    for score in scored:
        if len(score.tracker.sequences) <= _FEW_SEQUENCES:
            console.print(sequence_table(score))
    if scored:
        console.print(score_table(scored, label))
        plot_success(scored, label, out / "success.png")
        plot_precision(scored, label, out / "precision.png")
    for line in _remarks(outcome, scored, results):
        console.print(line, highlight=False, soft_wrap=True)
    for item in outcome.sets:
        if item.submit:
            _zip(outcome, item, results[item.name], out / _ZIPS[item.dataset.name], wishes, console)
    _path(console, "metrics", out / METRICS)
    if scored:
        _path(console, "plots", out / "success.png", out / "precision.png")
    if not wishes.no_video and (chosen := _video_clip(outcome, scored, wishes.video)):
        result = results[f"{chosen.dataset}-{chosen.split}"][chosen.name]
        limit = None if wishes.video else _VIDEO_FRAMES
        video = write_tracking_video(chosen, result, out / "video.mp4", limit=limit)
        _path(console, f"video of {chosen.name}", video)
    return scored


def _results(outcome: Evaluation, out: Path) -> Results:
    return {
        item.name: read_results(
            result_folder(out, item.name), [clip.name for clip in outcome.done(item)]
        )
        for item in outcome.sets
    }


def _score(outcome: Evaluation, results: Results) -> list[Scored]:
    scored = []
    for item in outcome.sets:
        clips = outcome.done(item)
        ours = dataset_scores(clips, results[item.name]) if clips else None
        still = dataset_scores(clips, never_moving_results(clips)) if ours else None
        if ours and still:
            scored.append(Scored(item.name, ours, still))
    return scored


def _about(outcome: Evaluation, results: Results) -> dict[str, Any]:
    damaged = {name: _damaged(of_set) for name, of_set in results.items()}
    return {
        "tracker": asdict(outcome.identity),
        "failed": outcome.failed,
        "damaged_frames": {name: counts for name, counts in damaged.items() if counts},
    }


def _damaged(results: Mapping[str, SequenceResult]) -> dict[str, int]:
    """Return sequence → frames that did not decode, which have no score."""
    counts = {name: int(np.isnan(result.scores).sum()) for name, result in results.items()}
    return {name: count for name, count in counts.items() if count}


def _remarks(outcome: Evaluation, scored: Sequence[Scored], results: Results) -> list[str]:
    """Say what the table does not: cut sets, sets without truth, damaged frames."""
    lines = []
    with_scores = {item.name for item in scored}
    for score in scored:
        if hidden := score.tracker.unscored:
            names = ", ".join(hidden[:5])
            lines.append(f"{score.name}: {len(hidden)} sequences have no ground truth ({names})")
    for item in outcome.sets:
        if not item.whole:
            lines.append(f"{item.name}: {len(item.clips)} sequences chosen, not the whole test set")
        if outcome.done(item) and item.name not in with_scores:
            lines.append(f"{item.name}: tracked; its ground truth is not public, so no score")
        if damaged := _damaged(results[item.name]):
            frames, names = sum(damaged.values()), ", ".join(list(damaged)[:5])
            lines.append(
                f"{item.name}: {frames} frames of {len(damaged)} sequences did not decode and kept "
                f"the last box ({names}{', …' if len(damaged) > 5 else ''}); after mending them "
                "run again with --overwrite"
            )
    return lines


def _zip(
    outcome: Evaluation,
    item: TestSet,
    results: Mapping[str, SequenceResult],
    path: Path,
    wishes: Wishes,
    console: Console,
) -> None:
    if failed := outcome.failed.get(item.name):
        console.print(
            f"no zip of {item.name}: {len(failed)} of its {len(item.clips)} sequences failed",
            highlight=False,
        )
        return
    packed = _pack(item, results, path, wishes.overwrite)
    for note in packed.notes:
        console.print(note, highlight=False, soft_wrap=True)
    _path(console, f"zip of {packed.sequences} sequences", packed.path)


def _pack(
    item: TestSet, results: Mapping[str, SequenceResult], path: Path, overwrite: bool
) -> Packed:
    expected = {clip.name: len(clip.frames) for clip in item.clips}
    firsts = {clip.name: xyxy_to_xywh(clip.tracks[0].boxes[0]) for clip in item.clips}
    if item.dataset.name == "got10k":
        return pack_got10k([results], expected, path, first_boxes=firsts, overwrite=overwrite)
    official = official_names(item.dataset.name, item.split) or ()
    return pack_trackingnet(
        results, expected, path, official=official, first_boxes=firsts, overwrite=overwrite
    )


def _video_clip(outcome: Evaluation, scored: Sequence[Scored], name: str | None) -> Clip | None:
    """Return the named clip, else the one with the median AUC of the first test set scored."""
    clips = [clip for item in outcome.sets for clip in outcome.done(item)]
    if name is None and scored:
        ranked = sorted(scored[0].tracker.sequences, key=lambda s: (s.auc, s.name))
        name = ranked[len(ranked) // 2].name
    return next((clip for clip in clips if name in (None, clip.name)), None)


def _path(console: Console, what: str, *paths: Path) -> None:
    console.print(f"{what}: {', '.join(map(str, paths))}", highlight=False, soft_wrap=True)
