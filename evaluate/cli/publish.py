"""What people read of an evaluation: tables, metrics.json, plots, a page, zips, a video.

Promise: all is computed from the written results, so a second run says the same. A set with a failure gets no zip.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np

from lorat.evaluate.cli.options import OutputOptions
from lorat.evaluate.measure.ope import ConventionName
from lorat.evaluate.measure.scores import DatasetScores, Entry, score
from lorat.evaluate.report.page import PageInput, write_page
from lorat.evaluate.report.plots import KINDS, attribute_panels, coloured, plot_curves, set_panel
from lorat.evaluate.report.strips import worst_strips
from lorat.evaluate.report.tables import metrics_document, notes_of, score_tables
from lorat.evaluate.results.files import SequenceResult, read_results
from lorat.evaluate.segment.files import read_masks
from lorat.evaluate.segment.sequences import masks_folder
from lorat.evaluate.submit.pack import pack_zip
from lorat.evaluate.submit.servers import SERVERS, ServerName
from lorat.evaluate.track.folder import METRICS, latency_of, machines_of, result_folder
from lorat.evaluate.track.session import Evaluation
from lorat.evaluate.track.testsets import TestSet
from lorat.evaluate.video.container import NoPyAV
from lorat.evaluate.video.write import write_tracking_video
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.base.reading import wording
from lorat.shards.base.console import OUT, say
from lorat.shards.base.errors import counted, some
from lorat.shards.base.storage import write_json

PAGE = "report.html"  # the page's name in an evaluation's folder
_VIDEO_FRAMES = 300  # of a video that nobody asked for by name
_SPEED = (
    "fps: throughput, a batch's crops, network and boxes divided by its sequences; ms: latency, the median of one "
    "sequence alone; images decode beside both"
)
_CROPS = {"published": "not antialiased, as published", "shards": "antialiased, as in shards"}


@dataclass(frozen=True, eq=False, slots=True)
class Summary:
    """An evaluation in its folder, with its results and scores."""

    outcome: Evaluation
    out: Path
    results: Mapping[str, Sequence[Mapping[str, SequenceResult]]]  # test set → repeated runs → sequence → result
    clips: Mapping[str, Sequence[Clip]]  # test set → those that have a result
    scored: Sequence[list[Entry]]  # of each set with ground truth ours and never moving's; others' may stand between

    def damaged(self, name: str) -> dict[str, int]:
        """Return sequence of a test set → frames that did not decode, which have no score."""
        first = self.results[name][0].items()
        return {each: int(lost.sum()) for each, result in first if (lost := np.isnan(result.scores)).any()}

    def write_metrics(self) -> None:
        """Write ``metrics.json``."""
        about = {
            "tracker": asdict(self.outcome.identity),
            "measured_on": machines_of(self.out),
            "failed": self.outcome.failed,
            "damaged_frames": {n: counts for n in self.results if (counts := self.damaged(n))},
        }
        write_json(self.out / METRICS, metrics_document(self.scored, about))

    def remarks(self) -> list[str]:
        """Say what the table does not: cut sets, sets without truth, damaged frames."""
        scores = {ours.name: ours for (_, ours), *_ in self.scored}
        lines = [f"{name}: {said}" for name, ours in scores.items() for said in _meanings(ours)]
        for item in self.outcome.sets:
            if not item.whole:
                lines.append(f"{item.name}: {counted(len(item.clips), 'sequence')} chosen, not the whole test set")
            if self.clips[item.name] and item.name not in scores:
                lines.append(f"{item.name}: tracked; its ground truth is not public, so no score")
            if damaged := self.damaged(item.name):
                frames, of = counted(sum(damaged.values()), "frame"), counted(len(damaged), "sequence")
                lost = f"{frames} of {of} did not decode"
                remedy = "after mending them run again with --overwrite"
                lines.append(f"{item.name}: {lost} and kept the last box ({some([*damaged], 5)}); {remedy}")
        return lines

    def page(self, remarks: Sequence[str], worst: int = 5) -> PageInput:
        """Collect what the page shows: remarks, why sequences failed, frames of the `worst` sequences of each set."""
        identity = self.outcome.identity
        about = {
            "variant": identity.variant,
            "weights (SHA-256)": identity.weights[:16],
            "number type": identity.dtype,
            "crops": _CROPS[identity.resize],
        }
        if identity.redetect:
            about["lost objects"] = "sought over all of the frame (--redetect)"
        if rules := identity.memory_rules:
            named = ", ".join(f"of a {rule} on {name}" for name, rule in rules.items())
            about["templates"] = f"{named}, as published (--published)"
        folders = [result_folder(self.out, item.name) for item in self.outcome.sets]
        # The newest result's time: the clock of now would change the page.
        if times := [path.stat().st_mtime for folder in folders for path in folder.glob("*.txt")]:
            about["tracked"] = datetime.fromtimestamp(max(times), UTC).strftime("%Y-%m-%d %H:%M UTC")
        if machines := machines_of(self.out):
            about |= {"speed measured on": "; ".join(machines), "what speed is": _SPEED}
        scores = [ours for (_, ours), *_ in self.scored]
        return PageInput(
            label=identity.label,
            variant=identity.variant,
            about=about,
            scored=self.scored,
            strips={s.name: worst_strips(self.clips[s.name], self.results[s.name][0], s, worst) for s in scores},
            remarks=[*remarks, *_failures(self.outcome.failed)],
        )


def summarise(outcome: Evaluation, out: Path, convention: ConventionName = "published") -> Summary:
    """Read the results in `out` and score them; a `UserError` if one cannot be read."""
    results, done, scored = {}, {}, []
    for item in outcome.sets:
        clips = done[item.name] = outcome.done(item)
        names = [clip.name for clip in clips]
        folders = [result_folder(out, item.name, run) for run in range(1, item.runs + 1)]
        results[item.name] = [read_results(folder, names) for folder in folders]
        if entries := score(clips, results[item.name], outcome.identity.label, convention):
            (label, ours), still = entries
            scored.append([Entry(label, replace(ours, latency=latency_of(out))), still])
    return Summary(outcome, out, results, done, scored)


def publish(outcome: Evaluation, out: Path, output: OutputOptions, *, masks: bool = False) -> None:
    """Score the results in the evaluation's folder; write and print all that people read of them. Test sets without
    ground truth are only zipped. There may be `masks` too, which the video shows. A `UserError` if a zip or the video
    cannot be made; what was written before stays.
    """
    summary = summarise(outcome, out, output.convention)
    summary.write_metrics()
    for table in score_tables(summary.scored):
        OUT.print(table)
    panels = [set_panel(lines) for lines in coloured(summary.scored)]
    plots = [plot_curves(panels, kind, out / f"{kind.name}.png") for kind in KINDS[:2]] if panels else []
    remarks = summary.remarks()
    for line in (*notes_of([entries[0].scores for entries in summary.scored]), *remarks):
        say(line)
    for item in outcome.sets:
        if item.submit:
            _zip(summary, item, output.overwrite)
    say(f"metrics: {out / METRICS}")
    output.write_csv(summary.scored)
    if summary.scored:
        say(f"plots: {', '.join(map(str, plots))}")
        write_page(out / PAGE, summary.page(remarks))
        say(f"report: {out / PAGE}")
    if masks:
        say(f"masks: {masks_folder(out)}, a strip of each sequence beside them")
    if not output.no_video and (clip := _video_clip(summary, output.video)):
        name = f"{clip.dataset}-{clip.split}"
        result, limit = summary.results[name][0][clip.name], None if output.video else _VIDEO_FRAMES
        shown = (mask for _, mask in read_masks(masks_folder(out) / name / clip.name)) if masks else None
        try:
            video = write_tracking_video(clip, result, out / "video.mp4", limit=limit, masks=shown)
            say(f"video of {clip.name}: {video}")
        except NoPyAV as error:
            say(f"no video of {clip.name}: {error.message}")


def draw_for_paper(scored: Sequence[Sequence[Entry]], folder: Path) -> list[Path]:
    """Draw each curve of each test set, and of its attributes, as PNG and as PDF: of all trackers that have it, without
    never moving.
    """
    drawn = []
    for entries, lines in zip(scored, coloured(scored), strict=True):
        whole = set_panel(lines[:-1])
        known = [kind for kind in KINDS if any(kind.column.shown(entry.scores) is not None for entry in entries[:-1])]
        for kind, end in product(known, ("png", "pdf")):
            path = folder / f"{entries[0].scores.name}_{kind.name}.{end}"
            drawn.append(plot_curves([whole], kind, path))
            if panels := attribute_panels(lines):
                drawn.append(plot_curves(panels, kind, path.with_stem(f"{path.stem}_attributes")))
    return drawn


def _meanings(scores: DatasetScores) -> Iterator[str]:
    """Say how the numbers of a test set came about where that is not the usual way."""
    if scores.convention == "matlab":
        yield "scored as its MATLAB toolkit does"
    if scores.runs > 1:
        yield f"mean of {scores.runs} runs"
    if own := scores.trackingnet:
        areas = f"success {100 * own.success:.1f}, precision {100 * own.precision:.1f}"
        yield f"areas under the curves, as its server gives them: {areas}, normalised {100 * own.norm_precision:.1f}"
    if hidden := scores.unscored:
        yield f"no ground truth of {counted(len(hidden), 'sequence')} ({some(hidden, 5)})"


def _failures(failed: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Say which sequences have no result and why; those of one wording share a line."""
    for name, reasons in failed.items():
        alike = dict[str, list[str]]()
        for sequence, why in reasons.items():
            alike.setdefault(wording(sequence, why), []).append(sequence)
        yield from (f"failed: {name} {some(each, 5)}: {reasons[each[0]]}" for each in alike.values())


def _zip(summary: Summary, item: TestSet, overwrite: bool) -> None:
    if failed := summary.outcome.failed.get(item.name):
        say(f"no zip of {item.name}: {len(failed)} of its {len(item.clips) + len(item.unread)} sequences failed")
        return
    server = cast("ServerName", item.dataset.name)
    path = summary.out / SERVERS[server].zip_name
    for line in pack_zip(server, summary.results[item.name], item.clips, path, overwrite=overwrite).lines():
        say(line)


def _video_clip(summary: Summary, name: str | None) -> Clip | None:
    """Return the named clip, else the one with the median AUC of the first test set scored."""
    if name is None and summary.scored:
        ranked = sorted((each.curves.auc, each.name) for each in summary.scored[0][0].scores.sequences)
        name = ranked[len(ranked) // 2][1]
    clips = (clip for done in summary.clips.values() for clip in done)
    return next((clip for clip in clips if name in (None, clip.name)), None)
