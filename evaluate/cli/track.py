"""lorat-eval: track test sets with trained weights, score them, and zip what servers score."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorat.evaluate.cli.export import export_command
from lorat.evaluate.cli.options import convention_option, tracker_options
from lorat.evaluate.cli.report import report_command
from lorat.evaluate.cli.results import export_results_command
from lorat.evaluate.cli.score import score_command
from lorat.evaluate.cli.submit import check_zip_command
from lorat.evaluate.cli.video import video_command
from lorat.evaluate.measure.ope import ConventionName
from lorat.evaluate.track.crops import Resize
from lorat.evaluate.track.runs import chosen_weights, default_out
from lorat.evaluate.track.testsets import SERVERS, TestSet, choose_test_sets, cut, default_test_sets
from lorat.prep.commandline import Group, group_settings, root_options
from lorat.prep.trees.registry import DATASETS
from lorat.prep.trees.roots import parse_roots
from lorat.prep.trees.sources import RAW, split_names
from lorat.shards.base.console import INTERRUPTED, OUT, progress_bar, start_logging
from lorat.shards.base.errors import UserError, nearest
from lorat.shards.base.process import cores_a_rank

if TYPE_CHECKING:
    from lorat.evaluate.track.session import Evaluation, Progress

__all__ = ["main"]

_PUBLISHED_RUNS = {"lasot_ext": 3, "got10k": 3}
"""How often the published system tracks a data set."""
COMMANDLINE = click.core.ParameterSource.COMMANDLINE
_FOLDER = click.Path(path_type=Path, file_okay=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The command line, as click parsed it."""

    run: Path | None
    weights: Path | None
    variant: str | None
    backbone: Path | None
    force_backbone: bool
    raw: Path
    roots: tuple[str, ...]
    datasets: str | None
    sequences: str | None
    limit: int | None
    out: Path | None
    submit_zip: tuple[str, ...]
    batch: int
    threads: int
    device: str
    dtype: str
    resize: Resize
    compile: bool
    overwrite: bool
    video: str | None
    no_video: bool
    repeats: int | None
    published: bool
    convention: ConventionName


@click.group(
    cls=Group, invoke_without_command=True, context_settings=group_settings | {"show_default": True}
)
@click.version_option(package_name="lorat", prog_name="lorat-eval")
@tracker_options
@click.option("--raw", type=_FOLDER, default=RAW, help="Folder of all raw trees.")
@root_options
@click.option(
    "--datasets",
    metavar="NAMES",
    help="Test sets with commas between: lasot,got10k-val. Without it, every test set with ground "
    "truth whose tree is there.",
)
@click.option("--sequences", metavar="NAMES", help="Only these sequences, with commas between.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many sequences of each set.")
@click.option("--out", type=_FOLDER, help="Where results go; <run>/eval/<checkpoint> by default.")
@click.option(
    "--submit-zip",
    multiple=True,
    type=click.Choice(SERVERS),
    help="Track this test split too and zip its results for the server.",
)
@click.option("--batch", type=click.IntRange(min=1), default=16, help="Sequences side by side.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=min(8, cores_a_rank()),
    show_default="one a core, at most 8",
    help="Threads that decode images, in each process.",
)
@click.option(
    "--compile",
    is_flag=True,
    help="Compile the network first, which takes a minute or so.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    help="Track every sequence so often and average; tracking is deterministic, so once is enough.",
)
@click.option(
    "--published",
    is_flag=True,
    help="As published numbers are made: LaSOT_Extension and GOT-10k three times, the others once.",
)
@convention_option
@click.option("--overwrite", is_flag=True, help="Forget the results and zips that are there.")
@click.option("--video", metavar="NAME", help="Sequence of the video; one is chosen by default.")
@click.option("--no-video", is_flag=True, help="Write no video.")
@click.pass_context
def main(context: click.Context, **values: Any) -> None:
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
    if context.invoked_subcommand is None:
        context.exit(_evaluate(Options(**values)))
    given = [name for name in values if context.get_parameter_source(name) is COMMANDLINE]
    if given:
        option = given[0].replace("_", "-")
        raise UserError(f"--{option}: write it after {context.invoked_subcommand}, not before")


def _evaluate(options: Options) -> int:
    """Do the main job and return the exit status."""
    weights = chosen_weights(options.run, options.weights)
    sets = _test_sets(options)
    if options.video is not None:
        _check_video(options, sets)
    out = options.out or default_out(weights)
    # torch, timm and matplotlib take seconds to import: help and mistakes need not wait for them.
    from lorat.evaluate.report.publish import Wishes, publish

    try:
        outcome = _track(options, weights, sets, out)
    except KeyboardInterrupt:
        click.echo(f"stopped; what is tracked stands in {out}; the same command goes on", err=True)
        return INTERRUPTED
    if outcome is None:
        return 0
    wishes = Wishes(
        overwrite=options.overwrite,
        video=options.video,
        no_video=options.no_video,
        convention=options.convention,
    )
    try:
        publish(outcome, out, wishes, OUT)
    finally:
        for name, failures in outcome.failed.items():
            for sequence, reason in failures.items():
                click.echo(f"failed: {name} {sequence}: {reason}", err=True)
    return 1 if outcome.failed else 0


def _track(options: Options, weights: Path, sets: list[TestSet], out: Path) -> Evaluation | None:
    """Track together with the other ranks; None on all but the first, which has the outcome."""
    from lorat.evaluate.track.ranks import share_ranks
    from lorat.evaluate.track.session import TrackerOptions, evaluate
    from lorat.train.distributed.world import join_world

    with (
        join_world(options.device) as world,
        share_ranks(world.rank, world.size, world.store) as ranks,
    ):
        tracker = TrackerOptions(
            weights=weights,
            variant=options.variant,
            backbone=options.backbone,
            force_backbone=options.force_backbone,
            device=str(world.device),
            dtype=options.dtype,
            batch=options.batch,
            threads=options.threads,
            resize=options.resize,
            compile=options.compile,
        )
        if not world.speaks:
            with suppress(UserError):  # raised on all ranks alike, and the first one says it
                evaluate(sets, out, tracker, overwrite=options.overwrite, ranks=ranks)
            return None
        with progress_bar("tracking frames") as bar:

            def show(so_far: Progress) -> None:
                text = f"sequence {so_far.sequences} of {so_far.of_sequences}, frame"
                bar(so_far.frames, so_far.of_frames, text)

            return evaluate(
                sets, out, tracker, overwrite=options.overwrite, progress=show, ranks=ranks
            )


def _test_sets(options: Options) -> list[TestSet]:
    roots = parse_roots(options.roots)
    names = split_names(options.datasets)
    if not names:
        names = default_test_sets(options.raw, roots)
    sets = choose_test_sets(names, options.submit_zip, options.raw, roots, _runs(options))
    return cut(sets, split_names(options.sequences), options.limit)


def _runs(options: Options) -> Mapping[str, int]:
    if options.published and options.repeats is not None:
        raise UserError("--published and --repeats: give one of them")
    if options.published:
        return _PUBLISHED_RUNS
    return dict.fromkeys(DATASETS, options.repeats or 1)


def _check_video(options: Options, sets: list[TestSet]) -> None:
    if options.no_video:
        raise UserError("--video and --no-video: give one of them")
    known = {clip.name for item in sets for clip in item.clips}
    if options.video not in known:
        hint = nearest(options.video or "", known)
        raise UserError(f"--video {options.video}: none of the sequences that are tracked{hint}")


for command in (
    check_zip_command,
    export_command,
    export_results_command,
    report_command,
    score_command,
    video_command,
):
    main.add_command(command)

if __name__ == "__main__":
    main()
