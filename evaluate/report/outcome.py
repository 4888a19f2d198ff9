"""What the result files of an evaluation amount to: scores, and what a person should know of them.

Promise: everything is computed from the written results, so a second run says the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorat.evaluate.measure.ope import ConventionName
from lorat.evaluate.measure.scores import dataset_scores, never_moving_results
from lorat.evaluate.report.tables import Scored, metrics_document
from lorat.evaluate.results.files import SequenceResult, read_results
from lorat.evaluate.track.session import Evaluation
from lorat.evaluate.track.store import METRICS, machines_of, result_folder
from lorat.shards.base.storage import write_json

__all__ = ["Results", "Runs", "Summary", "remarks", "summarise", "write_metrics"]

Runs = Sequence[Mapping[str, SequenceResult]]
"""Repeated runs of a test set: sequence → result of each."""
Results = Mapping[str, Runs]
"""Test set → runs."""


@dataclass(frozen=True, eq=False, slots=True)
class Summary:
    """An evaluation with its results and scores."""

    outcome: Evaluation
    results: Results
    scored: Sequence[Scored]
    """Of the test sets with ground truth."""


def summarise(outcome: Evaluation, out: Path, convention: ConventionName = "published") -> Summary:
    """Read the results in `out` and score them.

    Raises:
        UserError: if a result cannot be read.
    """
    results = _results(outcome, out)
    return Summary(outcome, results, _scores(outcome, results, convention))


def write_metrics(summary: Summary, out: Path) -> None:
    """Write ``metrics.json``."""
    about = _about(summary.outcome, summary.results, out)
    write_json(out / METRICS, metrics_document(summary.scored, about))


def _results(outcome: Evaluation, out: Path) -> Results:
    return {
        item.name: [
            read_results(
                result_folder(out, item.name, run), [clip.name for clip in outcome.done(item)]
            )
            for run in range(1, item.runs + 1)
        ]
        for item in outcome.sets
    }


def _scores(outcome: Evaluation, results: Results, convention: ConventionName) -> list[Scored]:
    scored = []
    for item in outcome.sets:
        clips = outcome.done(item)
        ours = dataset_scores(clips, results[item.name], convention) if clips else None
        still = dataset_scores(clips, [never_moving_results(clips)], convention) if ours else None
        if ours and still:
            scored.append(Scored(item.name, ours, still))
    return scored


def _about(outcome: Evaluation, results: Results, out: Path) -> dict[str, Any]:
    damaged = {name: _damaged(runs[0]) for name, runs in results.items()}
    return {
        "tracker": asdict(outcome.identity),
        "measured_on": machines_of(out),
        "failed": outcome.failed,
        "damaged_frames": {name: counts for name, counts in damaged.items() if counts},
    }


def _damaged(results: Mapping[str, SequenceResult]) -> dict[str, int]:
    """Return sequence → frames that did not decode, which have no score."""
    counts = {name: int(np.isnan(result.scores).sum()) for name, result in results.items()}
    return {name: count for name, count in counts.items() if count}


def remarks(summary: Summary) -> list[str]:
    """Say what the table does not: cut sets, sets without truth, damaged frames."""
    outcome, scored, results = summary.outcome, summary.scored, summary.results
    lines = []
    with_scores = {item.name for item in scored}
    for score in scored:
        lines += _meanings(score)
        if hidden := score.tracker.unscored:
            names = ", ".join(hidden[:5])
            lines.append(f"{score.name}: {len(hidden)} sequences have no ground truth ({names})")
    for item in outcome.sets:
        if not item.whole:
            lines.append(f"{item.name}: {len(item.clips)} sequences chosen, not the whole test set")
        if outcome.done(item) and item.name not in with_scores:
            lines.append(f"{item.name}: tracked; its ground truth is not public, so no score")
        if damaged := _damaged(results[item.name][0]):
            frames, names = sum(damaged.values()), ", ".join(list(damaged)[:5])
            lines.append(
                f"{item.name}: {frames} frames of {len(damaged)} sequences did not decode and kept "
                f"the last box ({names}{', …' if len(damaged) > 5 else ''}); after mending them "
                "run again with --overwrite"
            )
    return lines


def _meanings(score: Scored) -> list[str]:
    """Say how the numbers of a test set came about where that is not the usual way."""
    tracker = score.tracker
    lines = []
    if tracker.convention == "matlab":
        lines.append(f"{score.name}: scored as its MATLAB toolkit does")
    if tracker.runs > 1:
        lines.append(f"{score.name}: mean of {tracker.runs} runs")
    if own := tracker.trackingnet:
        lines.append(
            f"{score.name}: areas under the curves, as its server gives them: success "
            f"{100 * own.success:.1f}, precision {100 * own.precision:.1f}, normalised "
            f"{100 * own.norm_precision:.1f}"
        )
    return lines
