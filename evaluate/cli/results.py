"""``lorat-eval export-results``: our boxes in the layouts of other toolkits."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from lorat.evaluate.results.files import SequenceResult, list_results, read_result
from lorat.evaluate.results.find import run_folders
from lorat.evaluate.results.write import EXPORTS, ResultSet, layout_files, write_files
from lorat.evaluate.track.settings import default_out, newest_run, run_weights
from lorat.evaluate.track.testsets import choose_test_sets
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.base.dataset import Dataset
from lorat.prep.trees.registry import parse_name
from lorat.prep.trees.sources import TreeOptions, split_names
from lorat.shards.base.console import progress_bar, say, start_logging
from lorat.shards.base.errors import UserError, nearest
from lorat.shards.base.storage import children

__all__ = ["export_results_command"]

_FOLDER = click.Path(path_type=Path, file_okay=False)
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_SHOWN = 5  # missing sequences that are named


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The command line, as click parsed it."""

    layout: str
    out: Path
    run: Path | None
    results: Path | None
    datasets: str | None
    trees: TreeOptions
    label: str
    overwrite: bool


@click.command("export-results", cls=Command, context_settings={"show_default": True})
@click.option("--layout", type=click.Choice(list(EXPORTS)), required=True, help="Layout to write.")
@click.option("--out", type=_FOLDER, required=True, help="Folder to write into.")
@click.option(
    "--run", type=_FOLDER, help="A run folder; the results of its last checkpoint are exported."
)
@click.option("--results", type=_FOLDER, help="An evaluation's folder, instead of a run.")
@click.option(
    "--datasets",
    metavar="NAMES",
    help="Test sets with commas between: lasot,got10k-val; all that have results by default.",
)
@options_of(TreeOptions, "trees")
@click.option("--label", default="LoRAT", help="What folders call the tracker.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there with other content.")
def export_results_command(**values: Any) -> None:
    """Write our results in another toolkit's layout; they are compared with trees that are there.

    \b
    lorat-eval export-results --layout pytracking --run runs/B-224-standard --out exported
    lorat-eval export-results --layout otb --datasets lasot --label LoRAT-B-224 --out exported

    Exit status: 0 done; 1 sequences of the tree have no result, the others are written; 2 wrong
    input.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    click.get_current_context().exit(_export(Options(**values)))


def _export(options: Options) -> int:
    """Do the job and return the exit status."""
    if not _LABEL.fullmatch(options.label):
        raise UserError(
            f"--label '{options.label}': is a folder's name; use letters, digits, _ . + and - only"
        )
    plans = [_plan(folder) for folder in _chosen(_home(options), options.datasets)]
    with progress_bar("reading results") as progress:
        sets = _read(plans, progress)
    lacking = {item.name: _compare(item, options) for item in sets}
    files = layout_files(sets, options.layout, options.label)
    changed = write_files(options.out, files, overwrite=options.overwrite)
    for item in sets:
        say(_told(item, options.layout))
    for name, missing in lacking.items():
        if missing:
            shown = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
            say(f"{name}: {len(missing)} sequences of the tree have no result ({shown})")
    as_they_are = (
        f", {len(files) - changed:,} are there as they are" if changed < len(files) else ""
    )
    tops = sorted({str(options.out / path.partition("/")[0]) for path in files})
    say(f"{options.layout}: {changed:,} files written{as_they_are}: {', '.join(tops)}")
    return 1 if any(lacking.values()) else 0


def _home(options: Options) -> Path:
    """Return the folder of the test sets' folders."""
    if options.run is not None and options.results is not None:
        raise UserError("--run and --results: give one of them")
    out = options.results or default_out(run_weights(options.run or newest_run()))
    inner = out / "results"
    return out if options.results is not None and not inner.is_dir() else inner


def _chosen(folder: Path, datasets: str | None) -> list[Path]:
    """Return the folders of the test sets that are exported."""
    inner = (entry for entry in children(folder) if isinstance(entry, Path) and entry.is_dir())
    there = {entry.name: entry for entry in inner if list_results(entry)}
    if not there:
        raise UserError(
            f"{folder}: holds no results; track test sets with lorat-eval first, or name an "
            "evaluation's folder with --results"
        )
    wanted = split_names(datasets)
    chosen: dict[str, Path] = {}
    for name in wanted or there:
        try:
            dataset, split = parse_name(name)
        except UserError as error:
            raise UserError(f"{'--datasets' if wanted else folder}: {error.message}") from None
        whole_set = dataset.name if split is None else name
        matching = [n for n in there if whole_set in (n, n.partition("-")[0])]
        if not matching:
            raise UserError(
                f"--datasets {name}: no results in {folder}, which holds {', '.join(there)}"
                f"{nearest(name, there)}"
            )
        chosen |= {n: there[n] for n in matching}
    return list(chosen.values())


@dataclass(frozen=True, eq=False, slots=True)
class _Plan:
    """The results of a test set that are to be read."""

    dataset: Dataset
    split: str
    runs: list[Path]
    names: list[str]


def _plan(folder: Path) -> _Plan:
    """List all runs of a test set.

    Raises:
        UserError: if a run lacks a sequence that another has.
    """
    dataset, split = parse_name(folder.name)
    if not split:
        raise UserError(f"{folder}: is not named <dataset>-<split>; rename it")
    there = {place: set(list_results(place)) for place in run_folders(folder)}
    names = sorted(set().union(*there.values()))
    for place, known in there.items():
        if missing := [name for name in names if name not in known]:
            raise UserError(
                f"{place}: no result of {missing[0]}, which another run has; track the set again"
            )
    return _Plan(dataset, split, list(there), names)


def _read(plans: Sequence[_Plan], progress: Callable[[int, int], None]) -> list[ResultSet]:
    """Read what was listed.

    Raises:
        UserError: if a result does not parse.
    """
    done, total = 0, sum(len(plan.runs) * len(plan.names) for plan in plans)
    sets = []
    for plan in plans:
        runs = []
        for place in plan.runs:
            run = {}
            for name in plan.names:
                run[name] = read_result(place, name)
                progress(done := done + 1, total)
            runs.append(run)
        sets.append(ResultSet(plan.dataset, plan.split, tuple(runs)))
    return sets


def _compare(item: ResultSet, options: Options) -> list[str]:
    """Return the sequences of the tree without a result; nothing where the tree is not there.

    Raises:
        UserError: if a result has another number of rows than the sequence has frames.
    """
    unnamed = not options.trees.names(item.dataset)
    if unnamed and options.trees.missing([(item.dataset, item.split)]):
        say(f"{item.name}: its tree is not there, so the results are not compared with it")
        return []
    tree = choose_test_sets([item.name], (), options.trees)[0]
    if tree.unread:
        say(f"{item.name}: {len(tree.unread)} sequences of the tree do not read; not compared")
    clips = {clip.name: clip for clip in tree.clips}
    for number, run in enumerate(item.runs, start=1):
        for name, result in run.items():
            if name in clips and len(result.boxes) != len(clips[name].frames):
                which = f" in run {number}" if len(item.runs) > 1 else ""
                raise UserError(
                    f"{item.name}: the result of {name}{which} has {len(result.boxes)} rows for "
                    f"{len(clips[name].frames)} frames; track the sequence again"
                )
    return [name for name in clips if name not in item.runs[0]]


def _told(item: ResultSet, layout: str) -> str:
    """Return a line about what was written of a test set."""
    runs = f" in {len(item.runs)} runs" if len(item.runs) > 1 else ""
    base = "x and y from 1, as its annotations" if item.dataset.one_based else "x and y from 0"
    line = f"{item.name}: {len(item.runs[0])} sequences{runs}, {base}"
    if layout == "got10k" and (untimed := _untimed(item)):
        line += f"; {untimed} of them without a time for every frame, so without a time file"
    return line


def _untimed(item: ResultSet) -> int:
    def timed(result: SequenceResult) -> bool:
        return bool(np.isfinite(result.times).all())

    return sum(not all(timed(run[name]) for run in item.runs) for name in item.runs[0])
