"""Everything a person reads of an evaluation: tables, metrics.json, plots, a page, zips, a video.

Promise: scores are always computed from the written results, so a second run prints the same
numbers. No zip is made of a test set in which a sequence failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.console import Console

from lorat.evaluate.measure.ope import ConventionName
from lorat.evaluate.report.input import PAGE, page_input
from lorat.evaluate.report.outcome import remarks, summarise, write_metrics
from lorat.evaluate.report.page import write_page
from lorat.evaluate.report.tables import (
    Scored,
    plot_precision,
    plot_success,
    score_table,
    sequence_table,
)
from lorat.evaluate.results.files import SequenceResult
from lorat.evaluate.submit.judge import Expected
from lorat.evaluate.submit.pack import pack_zip
from lorat.evaluate.submit.servers import SERVERS, ServerName
from lorat.evaluate.track.session import Evaluation
from lorat.evaluate.track.store import METRICS
from lorat.evaluate.track.testsets import TestSet
from lorat.evaluate.video.write import write_tracking_video
from lorat.prep.trees.base.clip import Clip

__all__ = ["Wishes", "publish"]

_FEW_SEQUENCES = 20  # a test set of up to so many gets a table of its sequences
_VIDEO_FRAMES = 300  # of a video that nobody asked for by name


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What the user wants besides the scores."""

    overwrite: bool = False
    """Replace a zip that exists with other content."""
    video: str | None = None
    """The sequence of the video; None chooses one."""
    no_video: bool = False
    convention: ConventionName = "published"
    """How the sets are scored that have another one."""


def publish(outcome: Evaluation, out: Path, wishes: Wishes, console: Console) -> Sequence[Scored]:
    """Score the results in `out`; write and print all that a person reads of them.

    Writes metrics.json, success.png, precision.png, report.html, the zips that the test sets ask
    for, and video.mp4. Test sets without ground truth are only zipped.

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
    summary = summarise(outcome, out, wishes.convention)
    scored, results = summary.scored, summary.results
    write_metrics(summary, out)
    label = f"LoRAT {outcome.identity.variant}"
    for score in scored:
        if len(score.tracker.sequences) <= _FEW_SEQUENCES:
            console.print(sequence_table(score))
    if scored:
        console.print(score_table(scored, label))
        plot_success(scored, label, out / "success.png")
        plot_precision(scored, label, out / "precision.png")
    said = remarks(summary)
    for line in said:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    for item in outcome.sets:
        if item.submit:
            _zip(outcome, item, results[item.name], out, wishes, console)
    _path(console, "metrics", out / METRICS)
    if scored:
        _path(console, "plots", out / "success.png", out / "precision.png")
        write_page(out / PAGE, page_input(summary, out, said))
        _path(console, "report", out / PAGE)
    if not wishes.no_video and (chosen := _video_clip(outcome, scored, wishes.video)):
        result = results[f"{chosen.dataset}-{chosen.split}"][0][chosen.name]
        limit = None if wishes.video else _VIDEO_FRAMES
        video = write_tracking_video(chosen, result, out / "video.mp4", limit=limit)
        _path(console, f"video of {chosen.name}", video)
    return scored


def _zip(
    outcome: Evaluation,
    item: TestSet,
    runs: Sequence[Mapping[str, SequenceResult]],
    out: Path,
    wishes: Wishes,
    console: Console,
) -> None:
    if failed := outcome.failed.get(item.name):
        console.print(
            f"no zip of {item.name}: {len(failed)} of its {len(item.clips) + len(item.unread)} "
            "sequences failed",
            highlight=False,
        )
        return
    server = cast("ServerName", item.dataset.name)
    expected = Expected.of(item.clips)
    path = out / SERVERS[server].zip_name
    packed = pack_zip(server, runs, expected, path, overwrite=wishes.overwrite)
    for note in packed.notes:
        console.print(note, highlight=False, soft_wrap=True, markup=False)
    _path(console, f"zip of {packed.sequences} sequences", packed.path)


def _video_clip(outcome: Evaluation, scored: Sequence[Scored], name: str | None) -> Clip | None:
    """Return the named clip, else the one with the median AUC of the first test set scored."""
    clips = [clip for item in outcome.sets for clip in outcome.done(item)]
    if name is None and scored:
        ranked = sorted(scored[0].tracker.sequences, key=lambda s: (s.auc, s.name))
        name = ranked[len(ranked) // 2].name
    return next((clip for clip in clips if name in (None, clip.name)), None)


def _path(console: Console, what: str, *paths: Path) -> None:
    line = f"{what}: {', '.join(map(str, paths))}"
    console.print(line, highlight=False, soft_wrap=True, markup=False)
