"""lorat-eval: track test sets with trained weights, score them, and zip what servers score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from lorat.evaluate.cli_export import export_command
from lorat.evaluate.resize import RESIZES, Resize
from lorat.evaluate.runs import default_out, newest_run, run_weights
from lorat.evaluate.testsets import SERVERS, TestSet, choose_test_sets, cut, default_test_sets
from lorat.prep.sources import RAW, root_options
from lorat.prep.trees.roots import parse_roots
from lorat.shards.console import OUT, progress_bar, start_logging
from lorat.shards.errors import UserError, nearest
from lorat.shards.process import usable_cores

__all__ = ["main"]

COMMANDLINE = click.core.ParameterSource.COMMANDLINE
_FILE = click.Path(path_type=Path, dir_okay=False)
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


@click.group(invoke_without_command=True, context_settings={"show_default": True})
@click.version_option(package_name="lorat", prog_name="lorat-eval")
@click.option("--run", type=_FOLDER, help="A run folder; its last checkpoint is evaluated.")
@click.option("--weights", type=_FILE, help="A weights file, instead of a run.")
@click.option("--variant", help="Variant of weights that do not name theirs (B-224, a YAML file).")
@click.option("--backbone", type=_FILE, help="The pretrained backbone's file, if not found.")
@click.option(
    "--force-backbone", is_flag=True, help="Take another backbone than the weights were trained on."
)
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
    default=min(8, usable_cores()),
    show_default="one a core, at most 8",
    help="Threads that decode images.",
)
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:<index> or mps.")
@click.option("--dtype", default="auto", help="auto, float32, bfloat16 or float16.")
@click.option(
    "--resize",
    type=click.Choice(RESIZES),
    default="published",
    help="How frames are shrunk into crops: not antialiased, as for the published numbers, or "
    "averaged over areas, as training on shards saw them.",
)
@click.option(
    "--compile",
    is_flag=True,
    help="Compile the network first, which takes a minute or so.",
)
@click.option("--overwrite", is_flag=True, help="Forget the results and zips that are there.")
@click.option("--video", metavar="NAME", help="Sequence of the video; one is chosen by default.")
@click.option("--no-video", is_flag=True, help="Write no video.")
@click.pass_context
def main(context: click.Context, **values: Any) -> None:
    """Track test sets and score the tracker.

    Tracks every sequence from its first box, prints a table beside a tracker that never moves,
    and writes results, metrics.json, plots and a video. What is tracked already is not tracked
    again. Without options: the newest run, every test set whose tree is there.

    \b
    lorat-eval --run runs/B-224-standard --datasets lasot,got10k-val --submit-zip got10k

    Exit status: 0 done; 1 some sequences failed, the others are done; 2 wrong input.
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
    weights = _weights(options)
    sets = _test_sets(options)
    if options.video is not None:
        _check_video(options, sets)
    out = options.out or default_out(weights)
    # torch, timm and matplotlib take seconds to import: help and mistakes need not wait for them.
    from lorat.evaluate.job import TrackerOptions, evaluate
    from lorat.evaluate.publish import Wishes, publish

    tracker = TrackerOptions(
        weights=weights,
        variant=options.variant,
        backbone=options.backbone,
        force_backbone=options.force_backbone,
        device=options.device,
        dtype=options.dtype,
        batch=options.batch,
        threads=options.threads,
        resize=options.resize,
        compile=options.compile,
    )
    with progress_bar("tracking frames") as progress:
        outcome = evaluate(sets, out, tracker, overwrite=options.overwrite, progress=progress)
    wishes = Wishes(overwrite=options.overwrite, video=options.video, no_video=options.no_video)
    try:
        publish(outcome, out, wishes, OUT)
    finally:
        for name, failures in outcome.failed.items():
            for sequence, reason in failures.items():
                click.echo(f"failed: {name} {sequence}: {reason}", err=True)
    return 1 if outcome.failed else 0


def _weights(options: Options) -> Path:
    if options.run is not None and options.weights is not None:
        raise UserError("--run and --weights: give one of them")
    if options.weights is None:
        return run_weights(options.run or newest_run())
    if not options.weights.is_file():
        raise UserError(f"{options.weights}: no such weights file; check --weights")
    return options.weights


def _test_sets(options: Options) -> list[TestSet]:
    roots = parse_roots(options.roots)
    names = _names(options.datasets)
    if not names:
        names = default_test_sets(options.raw, roots)
    sets = choose_test_sets(names, options.submit_zip, options.raw, roots)
    return cut(sets, _names(options.sequences), options.limit)


def _names(text: str | None) -> list[str]:
    return [name for part in (text or "").split(",") if (name := part.strip())]


def _check_video(options: Options, sets: list[TestSet]) -> None:
    if options.no_video:
        raise UserError("--video and --no-video: give one of them")
    known = {clip.name for item in sets for clip in item.clips}
    if options.video not in known:
        hint = nearest(options.video or "", known)
        raise UserError(f"--video {options.video}: none of the sequences that are tracked{hint}")


main.add_command(export_command)

if __name__ == "__main__":
    main()
