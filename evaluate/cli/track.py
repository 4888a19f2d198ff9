"""lorat-eval: track test sets with trained weights, score them, and zip what servers score."""

from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorat.evaluate.cli.options import OutputOptions
from lorat.evaluate.segment.settings import MaskFileSettings
from lorat.evaluate.submit.servers import ServerName
from lorat.evaluate.track.settings import BatchSettings, default_out
from lorat.evaluate.track.testsets import TestSet, choose_test_sets, cut, default_test_sets
from lorat.prep.commandline import Group, options_of
from lorat.prep.trees.registry import DATASETS
from lorat.prep.trees.sources import TreeOptions, split_names
from lorat.shards.base.console import INTERRUPTED, progress_bar, start_logging
from lorat.shards.base.errors import UserError
from lorat.shards.base.options import option
from lorat.shards.base.process import wait_briefly

if TYPE_CHECKING:
    from lorat.evaluate.track.session import Evaluation

_PUBLISHED_RUNS = {"lasot_ext": 3, "got10k": 3}  # how often the published system tracks a data set
_FILES = {
    "check-zip": "submit",
    "export-results": "results",
    "export-weights": "export",
    "score-masks": "score",
    "score-pairs": "score",
}  # else called as the command
_FILES |= {"vot-tracker": "vot"} | {name: name for name in ("compare", "report", "score", "video", "vot")}
_MODULES = {name: f"lorat.evaluate.cli.{file}" for name, file in _FILES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class TestSetOptions:
    """What to track."""

    datasets: str | None = option(
        None,
        metavar="NAMES",
        help="Test sets with commas between: lasot,got10k-val. Without it, every test set with ground truth whose tree "
        "is there.",
    )
    sequences: str | None = option(None, metavar="NAMES", help="Only these sequences, with commas between.")
    limit: int | None = option(None, least=1, help="Only so many sequences of each set.")
    submit_zip: tuple[ServerName, ...] = option(
        (), help="Track this test split too and zip its results for the server."
    )
    repeats: int | None = option(
        None, least=1, help="Track every sequence so often and average; tracking is deterministic, so once is enough."
    )
    published: bool = option(
        False,
        help="As published numbers are made: LaSOT_Extension and GOT-10k three times, the others once, and LaSOT by "
        "the memory rule that SPMTrack-B-378 has there.",
    )

    def find(self, trees: TreeOptions) -> list[TestSet]:
        """Read what is to be tracked from its trees."""
        if self.published and self.repeats is not None:
            raise UserError("--published and --repeats: give one of them")
        runs = _PUBLISHED_RUNS if self.published else dict.fromkeys(DATASETS, self.repeats or 1)
        names = split_names(self.datasets) or default_test_sets(trees)
        sets = choose_test_sets(names, self.submit_zip, trees, runs)
        return cut(sets, split_names(self.sequences), self.limit)


@click.group(cls=Group, invoke_without_command=True, modules=_MODULES)
@click.version_option(package_name="lorat", prog_name="lorat-eval")
@options_of(BatchSettings, "settings", "Weights and tracker")
@options_of(TreeOptions, "trees")
@options_of(TestSetOptions, "wanted", "What to track")
@options_of(MaskFileSettings, "segment", "Masks")
@options_of(OutputOptions, "output", "Output")
@click.pass_context
def main(
    context: click.Context,
    settings: BatchSettings,
    trees: TreeOptions,
    wanted: TestSetOptions,
    segment: MaskFileSettings,
    output: OutputOptions,
) -> None:
    """Track test sets and score the tracker.

    Tracks every sequence from its first box, prints a table beside a tracker that never moves,
    and writes results, metrics.json, plots, a page and a video. What is tracked already is not
    tracked again. Without options: the newest run, every test set whose tree is there.

    \b
    lorat-eval --run runs/B-224-standard --datasets lasot,got10k-val --submit-zip got10k
    torchrun --nproc-per-node 8 -m lorat.evaluate.cli --run-dir runs/B-224-standard

    Exit status: 0 done; 1 some sequences failed, the others are done; 2 wrong input; 130 after
    Ctrl-C, and the same command goes on.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    wait_briefly()
    if context.invoked_subcommand is not None:
        for name in context.params:
            if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
                given = f"--{name.replace('_', '-')}"
                raise UserError(f"{given}: write it after {context.invoked_subcommand}, not before")
        return
    context.exit(track_and_publish(settings, trees, wanted, segment, output))


def track_and_publish(
    settings: BatchSettings,
    trees: TreeOptions,
    wanted: TestSetOptions,
    segment: MaskFileSettings,
    output: OutputOptions,
) -> int:
    """Track what is wanted, make masks if they are, write and print the scores; return the exit status."""
    segment.check()
    files, sets = settings.files(), wanted.find(trees)
    output.check_video(sets)
    output.check_files(out := output.out or default_out(files[-1]))
    try:
        tracked = replace(settings, run=None, weights=files)
        outcome = _track(tracked, sets, segment, out, overwrite=output.overwrite, published=wanted.published)
    except KeyboardInterrupt:
        click.echo(f"stopped; what is tracked stands in {out}; the same command goes on", err=True)
        return INTERRUPTED
    if outcome is None:
        return 0
    from lorat.evaluate.cli.publish import publish

    try:
        publish(outcome, out, output, masks=segment.segment is not None)
    finally:
        for name, failures in outcome.failed.items():
            for sequence, reason in failures.items():
                click.echo(f"failed: {name} {sequence}: {reason}", err=True)
    return 1 if outcome.failed else 0


def _track(
    settings: BatchSettings,
    sets: list[TestSet],
    segment: MaskFileSettings,
    out: Path,
    *,
    overwrite: bool,
    published: bool,
) -> "Evaluation | None":
    """Track together with the other ranks; None on all but the first, which has the outcome."""
    # torch, timm and matplotlib take seconds to import: help and mistakes need not wait for them.
    from lorat.evaluate.segment.sequences import segment_results
    from lorat.evaluate.track.ranks import share_ranks
    from lorat.evaluate.track.session import evaluate
    from lorat.train.distributed.world import join_world

    with (
        join_world(settings.device_name()) as world,
        share_ranks(world.rank, world.size, world.store) as ranks,
        # Raised on all ranks alike, and the first one says it.
        nullcontext() if world.speaks else suppress(UserError),
        progress_bar("tracking frames") if world.speaks else nullcontext(lambda *_: None) as bar,
    ):
        settings = replace(settings, device=str(world.device))
        segmenter = ranks.together(lambda: segment.load(world.device))  # before hours of tracking
        outcome = evaluate(sets, out, settings, overwrite=overwrite, published=published, progress=bar, ranks=ranks)
        if segmenter is not None:
            segment = segment.settled(settings.device)
            segment_results(outcome, out, segmenter, segment, ranks, overwrite=overwrite, progress=bar)
        return outcome if world.speaks else None
    return None
