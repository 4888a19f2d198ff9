"""``lorat-eval report``: the page of an evaluation, made anew, with other trackers beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorat.evaluate.cli.options import convention_option
from lorat.evaluate.measure.ope import ConventionName
from lorat.evaluate.results.files import has_result
from lorat.evaluate.track.settings import default_out, newest_run, run_weights
from lorat.evaluate.track.store import is_done, read_identity, result_folder
from lorat.evaluate.track.testsets import TestSet, choose_test_sets
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.sources import TreeOptions, split_names
from lorat.shards.base.console import say, start_logging
from lorat.shards.base.errors import UserError

if TYPE_CHECKING:
    from lorat.evaluate.cli.publish import Runs, Summary
    from lorat.evaluate.measure.scores import DatasetScores
    from lorat.evaluate.report.page import Rival
    from lorat.prep.trees.base.clip import Clip

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The command line, as click parsed it."""

    run: Path | None
    out: Path | None
    trees: TreeOptions
    datasets: str | None
    results: tuple[str, ...]
    worst: int
    html: Path | None
    convention: ConventionName


@click.command("report", cls=Command, context_settings={"show_default": True})
@click.option("--run", type=_FOLDER, help="A run folder; its last checkpoint's evaluation.")
@click.option("--out", type=_FOLDER, help="An evaluation's folder, instead of a run.")
@options_of(TreeOptions, "trees")
@click.option(
    "--datasets",
    metavar="NAMES",
    help="Test sets with commas between.  [default: all that have results]",
)
@click.option(
    "--results",
    multiple=True,
    metavar="LABEL=DIR",
    help="Another tracker's results, in any layout that lorat-eval score reads.",
)
@click.option(
    "--worst", type=click.IntRange(min=0), default=5, help="Sequences shown as pictures, a set."
)
@click.option("--html", type=_FILE, help="File to write.  [default: report.html in --out]")
@convention_option
def report_command(**values: Any) -> None:
    """Write the page of an evaluation, with other trackers beside it.

    Reads the results that lorat-eval wrote; nothing is tracked. The page is one file that opens
    from disk: scores, curves, attributes, sequences, and the worst of them in pictures.

    \b
    lorat-eval report --run runs/B-224-standard --results DiMP=pytracking/dimp/dimp50

    Exit status: 0 done; 1 sequences have no result, and the page says so; 2 wrong input.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    click.get_current_context().exit(_report(Options(**values)))


def _report(options: Options) -> int:
    """Do the job and return the exit status."""
    if options.run is not None and options.out is not None:
        raise UserError("--run and --out: give one of them")
    out = options.out or default_out(run_weights(options.run or newest_run()))
    identity = read_identity(out)
    if identity is None:
        raise UserError(f"{out}: no evaluation there (tracker.json); run lorat-eval first")
    sets = _sets(options, out)
    # torch and matplotlib take seconds to import: help and mistakes need not wait for them.
    from lorat.evaluate.cli.publish import PAGE, summarise
    from lorat.evaluate.report.page import write_page
    from lorat.evaluate.track.session import Evaluation

    failed = _failed(sets, out)
    summary = summarise(Evaluation(sets, identity, failed), out, options.convention)
    if not summary.scored:
        raise UserError(f"{out}: no result of a test set with ground truth; run lorat-eval first")
    rivals, compared = _rivals(options, summary)
    page = summary.page([*summary.remarks(), *compared], rivals, options.worst)
    path = options.html or out / PAGE
    write_page(path, page)
    for line in page.remarks:
        say(line)
    say(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 1 if failed else 0


def _sets(options: Options, out: Path) -> list[TestSet]:
    """Return the test sets that have results, as often as they were tracked."""
    there = sorted(path.name for path in (out / "results").glob("*") if path.is_dir())
    names = split_names(options.datasets)
    if not (names or there):
        raise UserError(f"{out}: holds no results; run lorat-eval first")
    sets = choose_test_sets(names or there, (), options.trees)
    return [
        TestSet(item.dataset, item.split, item.clips, unread=item.unread, runs=_runs(item, out))
        for item in sets
    ]


def _runs(item: TestSet, out: Path) -> int:
    """Return how many runs hold every sequence that the first one holds."""
    first = [
        clip.name for clip in item.clips if has_result(result_folder(out, item.name), clip.name)
    ]
    runs = 1
    while first and all(has_result(result_folder(out, item.name, runs + 1), n) for n in first):
        runs += 1
    return runs


def _failed(sets: Sequence[TestSet], out: Path) -> dict[str, dict[str, str]]:
    failed: dict[str, dict[str, str]] = {}
    for item in sets:
        reasons = dict(item.unread)
        for clip in item.clips:
            if not all(is_done(out, item.name, clip, run) for run in range(1, item.runs + 1)):
                reasons[clip.name] = "no whole result; track it with lorat-eval"
        if reasons:
            failed[item.name] = reasons
    return failed


def _rivals(options: Options, summary: Summary) -> tuple[list[Rival], list[str]]:
    """Return the other trackers' scores, and lines on what they lack.

    Raises:
        UserError: if a folder holds no result of any of the test sets.
    """
    from lorat.evaluate.report.page import Rival
    from lorat.evaluate.results.layouts import read_foreign

    outcome, lines, rivals = summary.outcome, [], []
    items = {item.name: item for item in outcome.sets}
    for label, folder in _folders(options.results).items():
        sets, refused = {}, ""
        for each in summary.scored:
            clips = outcome.done(items[each.name])
            try:
                foreign = read_foreign(folder, clips)
            except UserError as error:
                refused = error.message
                lines.append(f"{each.name}: {label} left out: {error.message}")
                continue
            runs = summary.results[each.name], foreign.runs
            scores, said = _compare(label, each.tracker, clips, *runs, options.convention)
            lines += [*said, *(f"{each.name}: {label}: {note}" for note in foreign.notes)]
            if scores is not None:
                sets[each.name] = scores
        if not sets:
            raise UserError(f"--results {label}={folder}: {refused or 'no result of any test set'}")
        rivals.append(Rival(label=label, sets=sets))
    return rivals, lines


def _compare(
    label: str,
    ours: DatasetScores,
    clips: Sequence[Clip],
    our_runs: Runs,
    their_runs: Runs,
    convention: ConventionName,
) -> tuple[DatasetScores | None, list[str]]:
    """Score another tracker on the sequences that it has results of.

    Where these are not all of ours, a line says so, with our score over the same.
    """
    from lorat.evaluate.measure.scores import dataset_scores

    shared = [clip for clip in clips if all(clip.name in run for run in their_runs)]
    theirs = dataset_scores(shared, their_runs, convention)
    if theirs is None or len(theirs.sequences) == len(ours.sequences):
        return theirs, []
    same = dataset_scores(shared, our_runs, convention)
    assert same is not None, "these sequences have ground truth"
    return theirs, [
        f"{theirs.dataset}-{theirs.split}: {label} has results of {len(theirs.sequences)} of "
        f"{len(ours.sequences)} sequences; over these its AUC is {100 * theirs.curves.auc:.1f} and "
        f"ours {100 * same.curves.auc:.1f}"
    ]


def _folders(texts: Sequence[str]) -> Mapping[str, Path]:
    folders: dict[str, Path] = {}
    for text in texts:
        label, equals, folder = text.partition("=")
        if not (label and equals and folder):
            raise UserError(f"--results {text}: write LABEL=DIR")
        if label in folders:
            raise UserError(f"--results {label}: given twice; use two labels")
        folders[label] = Path(folder)
    return folders
