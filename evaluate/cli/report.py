"""``lorat-eval report``: the page of an evaluation, made anew, with other trackers beside it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorat.evaluate.cli.options import ScoringOptions, evaluation_folder
from lorat.evaluate.measure.ope import ConventionName
from lorat.evaluate.measure.scores import Entry, dataset_scores
from lorat.evaluate.results.files import has_result
from lorat.evaluate.results.foreign import read_foreign
from lorat.evaluate.track.folder import read_identity, result_folder, unfinished
from lorat.evaluate.track.testsets import TestSet, choose_test_sets
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.sources import TreeOptions, split_names
from lorat.shards.base.console import say, start_logging
from lorat.shards.base.errors import UserError
from lorat.shards.base.options import option

if TYPE_CHECKING:
    from lorat.evaluate.cli.publish import Summary


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportOptions(ScoringOptions):
    """Whose page is made, and with what on it."""

    run: Path | None = option(None, kind="folder", help="A run folder; its last checkpoint's evaluation.")
    out: Path | None = option(None, kind="folder", help="An evaluation's folder, instead of a run.")
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


@click.command("report", cls=Command)
@options_of(ReportOptions, "options")
@options_of(TreeOptions, "trees")
def report_command(options: ReportOptions, trees: TreeOptions) -> None:
    """Write the page of an evaluation, with other trackers beside it.

    Reads the results that lorat-eval wrote; nothing is tracked. The page is one file that opens
    from disk: scores, curves, attributes, sequences, and the worst of them in pictures.

    \b
    lorat-eval report --run runs/B-224-standard --results DiMP=pytracking/dimp/dimp50

    Exit status: 0 done; 1 sequences have no result, and the page says so; 2 wrong input.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    out = evaluation_folder(options.run, options.out, "--out")
    if (identity := read_identity(out)) is None:
        raise UserError(f"{out}: no evaluation there (tracker.json); run lorat-eval first")
    there = sorted(path.name for path in (out / "results").glob("*") if path.is_dir())
    if not (names := split_names(options.datasets) or there):
        raise UserError(f"{out}: holds no results; run lorat-eval first")
    sets = [replace(item, runs=_runs(item, out)) for item in choose_test_sets(names, (), trees)]
    # torch and matplotlib take seconds to import: help and mistakes need not wait for them.
    from lorat.evaluate.cli.publish import PAGE, summarise
    from lorat.evaluate.report.page import write_page
    from lorat.evaluate.track.session import Evaluation

    why = "no whole result; track it with lorat-eval"
    failed = {item.name: reasons for item in sets if (reasons := unfinished(out, item, why))}
    summary = summarise(Evaluation(sets, identity, failed), out, options.convention)
    if not summary.scored:
        raise UserError(f"{out}: no result of a test set with ground truth; run lorat-eval first")
    remarks = summary.remarks()
    for label, folder in options.rivals().items():
        remarks += _add_rival(label, folder, summary, options.convention)
    page = summary.page(remarks, options.worst)
    path = options.html or out / PAGE
    write_page(path, page)
    for line in page.remarks:
        say(line)
    say(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    click.get_current_context().exit(1 if failed else 0)


def _runs(item: TestSet, out: Path) -> int:
    """Return how many runs hold every sequence that the first one holds."""

    def held(run: int) -> set[str]:
        folder = result_folder(out, item.name, run)
        return {clip.name for clip in item.clips if has_result(folder, clip.name)}

    first = held(1)
    return next(run for run in count(1) if not first or not first <= held(run + 1))


def _add_rival(label: str, folder: Path, summary: "Summary", convention: ConventionName) -> Iterator[str]:
    """Put another tracker's scores beside ours and say what they lack."""
    found, refused = False, "no result of any test set"
    for entries in summary.scored:
        mine, name = entries[0].scores, entries[0].scores.name
        clips = summary.clips[name]
        try:
            foreign = read_foreign(folder, clips)
        except UserError as error:
            refused = error.message
            yield f"{name}: {label} left out: {refused}"
            continue
        shared = [clip for clip in clips if all(clip.name in run for run in foreign.runs)]
        if theirs := dataset_scores(shared, foreign.runs, convention):
            found = True
            entries.insert(-1, Entry(label, theirs))
            few, most = len(theirs.sequences), len(mine.sequences)
            results = summary.results[name]
            if few < most and (ours := dataset_scores(shared, results, convention)):
                aucs = f"its AUC is {100 * theirs.curves.auc:.1f} and ours {100 * ours.curves.auc:.1f}"
                yield f"{name}: {label} has results of {few} of {most} sequences; over these {aucs}"
        yield from (f"{name}: {label}: {note}" for note in foreign.notes)
    if not found:
        raise UserError(f"--results {label}={folder}: {refused}")
