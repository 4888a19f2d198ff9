"""``lorat-eval score``: the scores of boxes that any tracker wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from lorat.evaluate.cli.options import convention_option
from lorat.evaluate.measure.ope import ConventionName
from lorat.evaluate.results.layouts import Layout
from lorat.evaluate.track.store import METRICS
from lorat.evaluate.track.testsets import SCORED_SPLITS, TestSet, choose_test_sets, cut
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.base.official import official_names
from lorat.prep.trees.sources import TreeOptions, split_names
from lorat.shards.base.console import OUT, progress_bar, say, start_logging
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import read_json, write_json

if TYPE_CHECKING:
    from lorat.evaluate.measure.scores import Scored
    from lorat.evaluate.results.layouts import Foreign

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FEW_SEQUENCES = 20  # a test set of up to so many gets a table of its sequences
_SHOWN = 5  # missing sequences that are named


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The command line, as click parsed it."""

    results: Path
    dataset: str
    layout: str
    convention: ConventionName
    label: str | None
    trees: TreeOptions
    sequences: str | None
    out: Path | None


@click.command("score", cls=Command, context_settings={"show_default": True})
@click.option(
    "--results",
    type=_FOLDER,
    required=True,
    help="Folder of a tracker's results, in any layout; of repeated runs, the folder of them all.",
)
@click.option(
    "--dataset",
    metavar="NAME",
    required=True,
    help="Test set: lasot, got10k-val, …; the bare name means the split that is scored.",
)
@click.option(
    "--layout",
    type=click.Choice(get_args(Layout)),
    default="auto",
    help="Layout of the results; auto tells it by what is there.",
)
@convention_option
@click.option(
    "--label", help="What tables call the tracker.  [default: the folder's name, or our variant's]"
)
@options_of(TreeOptions, "trees")
@click.option("--sequences", metavar="NAMES", help="Only these sequences, with commas between.")
@click.option("--out", type=_FOLDER, help="Folder for metrics.json; none is written without it.")
def score_command(**values: Any) -> None:
    """Score boxes that any tracker wrote.

    Reads results in our layout or that of pytracking, of the OTB and LaSOT toolkits, or of GOT-10k,
    and prints their scores beside a tracker that never moves.

    \b
    lorat-eval score --results pytracking/tracking_results/dimp/dimp50 --dataset lasot

    Exit status: 0 done; 1 sequences have no result, the others are scored; 2 wrong input.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    click.get_current_context().exit(_score(Options(**values)))


def _score(options: Options) -> int:
    """Do the job and return the exit status."""
    item = _test_set(options)
    if not item.clips:
        raise UserError(f"{item.name}: {next(iter(item.unread.values()))}")
    if all(clip.annotated <= 1 < len(clip.frames) for clip in item.clips):
        raise UserError(
            f"--dataset {item.name}: its ground truth is not public, so only its server scores it; "
            "pack results with lorat-eval --submit-zip"
        )
    # matplotlib takes a second to import: help and mistakes need not wait for it.
    from lorat.evaluate.measure.scores import score
    from lorat.evaluate.report.tables import (
        attribute_table,
        metrics_document,
        score_table,
        sequence_table,
    )
    from lorat.evaluate.results.layouts import read_foreign

    with progress_bar("reading results") as progress:
        foreign = read_foreign(options.results, item.clips, options.layout, progress)
    clips = [clip for clip in item.clips if clip.name in foreign.runs[0]]
    scored = score(clips, foreign.runs, options.convention)
    if scored is None:
        raise UserError(
            f"{options.results}: holds no result of a sequence of {item.name} with ground truth"
        )
    label, ours = options.label or _label(foreign), scored.tracker
    if len(ours.sequences) <= _FEW_SEQUENCES:
        OUT.print(sequence_table(scored))
    OUT.print(score_table([scored], label))
    if ours.attributes:
        OUT.print(attribute_table(ours))
    remarks = _remarks(item, foreign, scored)
    if ours.convention != options.convention:
        remarks.append(f"{item.name}: no MATLAB toolkit scores it so; counted as published")
    for line in remarks:
        say(line)
    if options.out is not None:
        about = _about(options, foreign, scored, label)
        about |= {"failed": _failed(item, foreign), "notes": remarks}
        write_json(options.out / METRICS, metrics_document([scored], about))
        say(f"metrics: {options.out / METRICS}")
    return 1 if foreign.missing or item.unread else 0


def _label(foreign: Foreign) -> str:
    """Return what the tracker is called where nobody says it."""
    if foreign.place.layout == "lorat":
        identity = foreign.place.folders[0].parent.parent / "tracker.json"
        known = read_json(identity) if identity.is_file() else None
        if isinstance(known, dict) and isinstance(known.get("variant"), str):
            return f"LoRAT {known['variant']}"
    return foreign.place.label


def _about(options: Options, foreign: Foreign, scored: Scored, label: str) -> dict[str, Any]:
    """Return what metrics.json says of the tracker."""
    tracker = {
        "label": label,
        "results": str(options.results),
        "layout": foreign.place.layout,
        "runs": scored.tracker.runs,
        "convention": scored.tracker.convention,
    }
    return {"tracker": tracker}


def _failed(item: TestSet, foreign: Foreign) -> dict[str, dict[str, str]]:
    """Return test set → sequence → why it has no scores."""
    failed = dict.fromkeys(foreign.missing, "no result") | dict(item.unread)
    return {item.name: failed} if failed else {}


def _test_set(options: Options) -> TestSet:
    if "," in options.dataset:
        raise UserError(f"--dataset {options.dataset}: name one test set")
    split = SCORED_SPLITS.get(options.dataset)
    name = f"{options.dataset}-{split}" if split else options.dataset
    sets = choose_test_sets([name], (), options.trees)
    wanted = split_names(options.sequences)
    return cut(sets, wanted, None)[0]


def _remarks(item: TestSet, foreign: Foreign, scored: Scored) -> list[str]:
    """Say how the results were read, and which sequences the scores are of."""
    lines = [f"read as {foreign.place}", *foreign.notes]
    count = len(scored.tracker.sequences)
    if foreign.missing:
        shown = ", ".join(foreign.missing[:_SHOWN])
        more = ", …" if len(foreign.missing) > _SHOWN else ""
        lines.append(
            f"{item.name}: no result of {len(foreign.missing)} of {len(item.clips)} sequences "
            f"({shown}{more}): the scores are of the {count} that are there"
        )
    for name, reason in item.unread.items():
        lines.append(f"{item.name}: {name} cannot be scored: {reason}")
    if hidden := scored.tracker.unscored:
        shown = ", ".join(hidden[:_SHOWN])
        lines.append(f"{item.name}: {len(hidden)} sequences have no ground truth ({shown})")
    official = official_names(item.dataset.name, item.split)
    names = {sequence.name for sequence in scored.tracker.sequences}
    if official and names < set(official):
        lines.append(f"{item.name}: {count} of the official {len(official)} sequences")
    elif official and names != set(official):
        lines.append(f"{item.name}: {count} sequences, not the official {len(official)}")
    return lines
