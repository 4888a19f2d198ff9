"""``lorat-eval report``: the page of an evaluation, made anew, with other trackers beside it, or of these alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorat.evaluate.cli.compare import Rivals, scored_sets
from lorat.evaluate.cli.options import ScoringOptions, evaluation_folder
from lorat.evaluate.measure.scores import NEVER_MOVING, Entry, dataset_scores, never_moving_results, part
from lorat.evaluate.results.files import has_result
from lorat.evaluate.results.foreign import Foreign
from lorat.evaluate.track.folder import Identity, read_identity, result_folder, unfinished
from lorat.evaluate.track.testsets import TestSet, choose_test_sets
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.sources import TreeOptions, split_names
from lorat.shards.base.console import say, start_logging
from lorat.shards.base.errors import UserError, counted
from lorat.shards.base.options import option

if TYPE_CHECKING:
    from lorat.evaluate.report.page import PageInput


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportOptions(ScoringOptions):
    """Whose page is made, and with what on it."""

    run: Path | None = option(None, kind="folder", help="A run folder; its last checkpoint's evaluation.")
    out: Path | None = option(
        None,
        kind="folder",
        help="An evaluation's folder, instead of a run. With --results, any other folder: it gets the page of these "
        "trackers alone; so does report, where there is no evaluation.",
    )
    datasets: str | None = option(None, metavar="NAMES", help="Names with commas between.  [default: all with results]")
    results: tuple[str, ...] = option(
        (), metavar="LABEL=DIR", help="Another tracker's results, in any layout that lorat-eval score reads."
    )
    worst: int = option(5, least=0, help="Sequences shown as pictures, a set.")
    html: Path | None = option(None, kind="file", help="File to write.  [default: report.html in --out]")

    def rivals(self) -> dict[str, Path]:
        """Return what other trackers are called, and where their results are."""
        folders: dict[str, Path] = {}
        for text in self.results:
            label, _, folder = text.partition("=")
            if not (label and folder):
                raise UserError(f"--results {text}: write LABEL=DIR")
            if label in folders:
                raise UserError(f"--results {label}: given twice; use two labels")
            folders[label] = Path(folder)
        return folders

    def evaluation(self) -> tuple[Path, Identity | None]:
        """Return the folder of our evaluation; without an identity the folder to write to, for others alone."""
        try:
            out = evaluation_folder(self.run, self.out, "--out")
            if identity := read_identity(out):
                return out, identity
            raise UserError(f"{out}: no evaluation there (tracker.json); run lorat-eval first")
        except UserError:
            if self.run is not None or not self.results:
                raise
            return self.out or Path("report"), None


@click.command("report", cls=Command)
@options_of(ReportOptions, "options")
@options_of(TreeOptions, "trees")
def report_command(options: ReportOptions, trees: TreeOptions) -> None:
    """Write the page of an evaluation, with other trackers beside it, or of these alone.

    Reads results that lorat-eval or others wrote; nothing is tracked. The page is one file that
    opens from disk: scores, curves, attributes, sequences, and the worst of them in pictures. With
    --results the curves are also drawn for a paper, as PNG and PDF in plots/ beside the page.

    \b
    lorat-eval report --run runs/B-224-standard --results DiMP=pytracking/dimp/dimp50
    lorat-eval report --results DiMP=dimp --results ATOM=atom --datasets lasot --out compared

    Exit status: 0 done; 1 sequences or trackers lack results that can be used, and the page says so; 2 wrong input.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    rivals = Rivals(options.rivals(), options.convention)
    out, identity = options.evaluation()
    options.check_files(options.html or out)
    # torch and matplotlib take seconds to import: help and mistakes need not wait for them.
    from lorat.evaluate.cli.publish import PAGE, draw_for_paper
    from lorat.evaluate.report.page import write_page

    page, failed = _beside(options, rivals, trees, out, identity) if identity else _alone(options, rivals, trees)
    path = options.html or out / PAGE
    write_page(path, page)
    for line in page.remarks:
        say(line)
    options.write_csv(page.scored)
    if options.results:
        say(f"plots: {len(draw_for_paper(page.scored, path.parent / 'plots'))} files in {path.parent / 'plots'}")
    say(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    click.get_current_context().exit(1 if failed or rivals.refused or rivals.unusable else 0)


def _beside(
    options: ReportOptions, rivals: Rivals, trees: TreeOptions, out: Path, identity: Identity
) -> tuple["PageInput", bool]:
    """Collect the page of our evaluation; and whether sequences of it have no result."""
    from lorat.evaluate.cli.publish import summarise
    from lorat.evaluate.track.session import Evaluation

    there = sorted(path.name for path in (out / "results").glob("*") if path.is_dir())
    if not (names := split_names(options.datasets) or there):
        raise UserError(f"{out}: holds no results; run lorat-eval first")
    sets = [replace(item, runs=_runs(item, out)) for item in choose_test_sets(names, (), trees)]
    why = "no whole result; track it with lorat-eval"
    failed = {item.name: reasons for item in sets if (reasons := unfinished(out, item, why))}
    summary = summarise(Evaluation(sets, identity, failed), out, options.convention)
    if not summary.scored:
        raise UserError(f"{out}: no result of a test set with ground truth; run lorat-eval first")
    remarks = summary.remarks()
    for entries in summary.scored:
        name, mine = entries[0].scores.name, entries[0].scores
        for label, foreign in rivals.read(name, summary.clips[name]).items():
            if entry := rivals.entry(label, foreign, summary.clips[name]):
                entries.insert(-1, entry)
                rivals.remarks.extend(_lacking(entry, len(mine.sequences), entries[0]))
    rivals.all_found()
    return summary.page([*remarks, *rivals.remarks], options.worst), bool(failed)


def _alone(options: ReportOptions, rivals: Rivals, trees: TreeOptions) -> tuple["PageInput", bool]:
    """Collect the page of others' results; and whether one of them lacks sequences."""
    from lorat.evaluate.report.page import PageInput
    from lorat.evaluate.report.strips import worst_strips
    from lorat.evaluate.report.tables import not_official

    scored, strips, failed = [], {}, False
    for item in scored_sets(options.datasets, trees):
        found = rivals.read(item.name, item.clips) if item.clips else {}
        entries = [entry for label, foreign in found.items() if (entry := rivals.entry(label, foreign, item.clips))]
        if not entries:
            continue
        still = dataset_scores(item.clips, [never_moving_results(item.clips)], options.convention)
        if not still:
            continue
        for entry in entries:
            rivals.remarks.extend(_lacking(entry, len(still.sequences)))
            failed |= len(entry.scores.sequences) < len(still.sequences)
        failed |= bool(item.unread)
        rivals.remarks.extend([*item.lines(), *not_official(still)])
        first = entries[0]
        if isinstance(boxes := found[first.label], Foreign):
            strips[item.name] = worst_strips(item.clips, boxes.runs[0], first.scores, options.worst)
        scored.append([*entries, Entry(NEVER_MOVING, still)])
    rivals.all_found()
    if not scored:
        raise UserError("--results: no result of a sequence with ground truth")
    label, remarks = ", ".join(rivals.folders), rivals.remarks
    page = PageInput(label=label, variant="", about=rivals.found, scored=scored, strips=strips, remarks=remarks)
    return page, failed


def _lacking(entry: Entry, most: int, ours: Entry | None = None) -> Iterator[str]:
    """Say it where a tracker has results of fewer sequences than there are."""
    label, theirs = entry
    if (few := len(theirs.sequences)) < most:
        line = f"{theirs.name}: {label} has results of {few} of {counted(most, 'sequence')}"
        if ours:
            mine = part(ours.scores, {each.name for each in theirs.sequences}).curves
            line += f"; over these its AUC is {100 * theirs.curves.auc:.1f} and ours {100 * mine.auc:.1f}"
        yield line


def _runs(item: TestSet, out: Path) -> int:
    """Return how many runs hold every sequence that the first one holds."""

    def held(run: int) -> set[str]:
        return {clip.name for clip in item.clips if has_result(result_folder(out, item.name, run), clip.name)}

    first = held(1)
    return next(run for run in count(1) if not first or not first <= held(run + 1))
