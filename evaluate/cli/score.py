"""``lorat-eval score``: the scores of boxes that any tracker wrote."""

from dataclasses import dataclass, replace
from pathlib import Path

import click

from lorat.evaluate.cli.compare import latency_in
from lorat.evaluate.cli.options import ScoringOptions
from lorat.evaluate.measure.matlab import MATLAB_SETS, repairs
from lorat.evaluate.measure.scores import DatasetScores, Entry, hides_truth, score
from lorat.evaluate.report.tables import attribute_table, metrics_document, not_official, notes_of, score_tables
from lorat.evaluate.results.find import Layout
from lorat.evaluate.results.foreign import Foreign, read_foreign
from lorat.evaluate.track.folder import METRICS, read_identity
from lorat.evaluate.track.testsets import SCORED_SPLITS, TestSet, choose_test_sets, cut
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.sources import TreeOptions, split_names
from lorat.shards.base.console import OUT, progress_bar, say, start_logging
from lorat.shards.base.errors import UserError, counted, some
from lorat.shards.base.options import option
from lorat.shards.base.storage import write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreOptions(ScoringOptions):
    """What is scored."""

    results: Path = option(
        help="A tracker's results: folder, zip or JSON, in any layout; of several runs, their folder."
    )
    dataset: str = option(metavar="NAME", help="Test set: lasot, got10k-val, …; a bare name means the scored split.")
    layout: Layout = option("auto", help="Layout of the results; auto tells it by what is there.")
    label: str | None = option(None, help="What tables call the tracker.  [default: the folder's, or our variant's]")
    sequences: str | None = option(None, metavar="NAMES", help="Only these sequences, with commas between.")
    out: Path | None = option(None, kind="folder", help="Folder for metrics.json; none is written without it.")

    def test_set(self, trees: TreeOptions) -> TestSet:
        """Read what --dataset and --sequences name."""
        if "," in self.dataset:
            raise UserError(f"--dataset {self.dataset}: name one test set")
        split = SCORED_SPLITS.get(self.dataset)
        name = f"{self.dataset}-{split}" if split else self.dataset
        return cut(choose_test_sets([name], (), trees), split_names(self.sequences), None)[0]


@click.command("score", cls=Command)
@options_of(ScoreOptions, "options")
@options_of(TreeOptions, "trees")
def score_command(options: ScoreOptions, trees: TreeOptions) -> None:
    """Score boxes that any tracker wrote.

    Reads results in our layout or that of pytracking, of the OTB and LaSOT toolkits, or of GOT-10k, and prints their
    scores beside a tracker that never moves.

    \b
    lorat-eval score --results pytracking/tracking_results/dimp/dimp50 --dataset lasot

    Exit status: 0 done; 1 sequences have no result that can be used, the others are scored; 2 wrong input.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    options.check_files(*([options.out] if options.out else ()))
    item = options.test_set(trees)
    if not item.clips:
        raise UserError(f"{item.name}: {next(iter(item.unread.values()))}")
    if all(map(hides_truth, item.clips)):
        zips = f"--results {options.results} --submit-zip {item.dataset.name} zips them for it"
        remedy = f"lorat-eval export-results {zips}"
        raise UserError(f"--dataset {item.name}: its ground truth is not public, so its server scores it; {remedy}")
    with progress_bar("reading results") as progress:
        mends = repairs(item.dataset.name, options.convention)
        foreign = read_foreign(options.results, item.clips, options.layout, progress, repairs=mends)
    clips = [clip for clip in item.clips if clip.name in foreign.runs[0]]
    identity = read_identity(foreign.home.parent.parent) if foreign.layout == "lorat" else None
    label = options.label or (f"LoRAT {identity.variant}" if identity else foreign.label)
    entries = score(clips, foreign.runs, label, options.convention)
    if not entries:
        raise UserError(f"{options.results}: holds no result of a sequence of {item.name} with ground truth")
    ours = replace(entries[0].scores, latency=latency_in(foreign, entries[0].scores.fps))
    entries[0] = Entry(label, ours)
    for table in score_tables([entries]):
        OUT.print(table)
    if ours.attributes:
        OUT.print(attribute_table(ours))
    remarks = _remarks(item, foreign, ours)
    if ours.convention != options.convention:
        remarks.append(f"{item.name}: counted as published: matlab is known here for {', '.join(MATLAB_SETS)} alone")
    for line in remarks:
        say(line)
    failed = dict.fromkeys(foreign.missing, "no result") | dict(foreign.refused) | dict(item.unread)
    if options.out is not None:
        how = {"layout": foreign.layout, "runs": ours.runs, "convention": ours.convention}
        tracker = {"label": label, "results": str(options.results), **how}
        about = {"tracker": tracker, "failed": {item.name: failed} if failed else {}, "notes": remarks}
        write_json(options.out / METRICS, metrics_document([entries], about))
        say(f"metrics: {options.out / METRICS}")
    options.write_csv([entries])
    click.get_current_context().exit(1 if failed else 0)


def _remarks(item: TestSet, foreign: Foreign, scores: DatasetScores) -> list[str]:
    """Say how the results were read, and which sequences the scores are of."""
    lines = [*notes_of([scores]), f"read as {foreign}", *foreign.notes]
    if foreign.missing:
        lacking = f"{len(foreign.missing)} of {counted(len(item.clips), 'sequence')} ({some(foreign.missing, 5)})"
        lines.append(
            f"{item.name}: no result of {lacking}: the scores are of the {len(scores.sequences)} that are there"
        )
    lines += item.lines()
    if hidden := scores.unscored:
        lines.append(f"{item.name}: no ground truth of {counted(len(hidden), 'sequence')} ({some(hidden, 5)})")
    return [*lines, *not_official(scores)]
