"""``lorat-eval export-results``: our boxes in the layouts of other toolkits."""

import re
from dataclasses import dataclass
from pathlib import Path

import click

from lorat.evaluate.cli.options import evaluation_folder
from lorat.evaluate.results.files import folders_in, list_results, read_results, run_folders
from lorat.evaluate.results.write import ExportLayout, ResultSet, layout_files, write_files
from lorat.evaluate.track.testsets import choose_test_sets
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.registry import parse_name
from lorat.prep.trees.sources import TreeOptions, split_names
from lorat.shards.base.console import progress_bar, say, start_logging
from lorat.shards.base.errors import UserError, nearest, some
from lorat.shards.base.options import option


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What is exported, and where to."""

    layout: ExportLayout = option(help="Layout to write.")
    out: Path = option(kind="folder", help="Folder to write into.")
    run: Path | None = option(None, kind="folder", help="A run folder; its last checkpoint's results are exported.")
    results: Path | None = option(None, kind="folder", help="An evaluation's folder, instead of a run.")
    datasets: str | None = option(
        None, metavar="NAMES", help="Test sets, as lasot,got10k-val; all with results by default."
    )
    label: str = option("LoRAT", help="What folders call the tracker.")
    overwrite: bool = option(False, help="Replace files that are there with other content.")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", self.label):
            raise UserError(f"--label '{self.label}': is a folder's name; use letters, digits, _ . + and - only")


@click.command("export-results", cls=Command)
@options_of(Export, "export")
@options_of(TreeOptions, "trees")
def export_results_command(export: Export, trees: TreeOptions) -> None:
    """Write our results in another toolkit's layout; they are compared with trees that are there.

    \b
    lorat-eval export-results --layout pytracking --run runs/B-224-standard --out exported
    lorat-eval export-results --layout otb --datasets lasot --label LoRAT-B-224 --out exported

    Exit status: 0 done; 1 sequences of the tree have no result, the others are written; 2 wrong input.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    folders = _chosen(export)
    sets = []
    with progress_bar("reading results") as progress:
        for done, folder in enumerate(folders, start=1):
            sets.append(_read(folder))
            progress(done, len(folders))
    missing = {item.name: _missing(item, trees) for item in sets}
    files = layout_files(sets, export.layout, export.label)
    changed = write_files(export.out, files, overwrite=export.overwrite)
    for item in sets:
        runs = f" in {len(item.runs)} runs" if len(item.runs) > 1 else ""
        base = "x and y from 1, as its annotations" if item.dataset.one_based else "x and y from 0"
        line = f"{item.name}: {len(item.runs[0])} sequences{runs}, {base}"
        if export.layout == "got10k" and (untimed := len(item.untimed())):
            line += f"; {untimed} of them without a time for every frame, so without a time file"
        say(line)
    for name, names in missing.items():
        if names:
            say(f"{name}: {len(names)} sequences of the tree have no result ({some(names, 5)})")
    same = f", {len(files) - changed:,} are there as they are" if changed < len(files) else ""
    tops = sorted({str(export.out / path.partition("/")[0]) for path in files})
    say(f"{export.layout}: {changed:,} files written{same}: {', '.join(tops)}")
    click.get_current_context().exit(1 if any(missing.values()) else 0)


def _chosen(export: Export) -> list[Path]:
    """Return the folders of the test sets that are exported."""
    home = evaluation_folder(export.run, export.results, "--results")
    if export.results is None or (home / "results").is_dir():
        home /= "results"
    there = {folder.name: folder for folder in folders_in(home) if list_results(folder)}
    if not there:
        remedy = "track test sets with lorat-eval first, or name an evaluation's folder with --results"
        raise UserError(f"{home}: holds no results; {remedy}")
    chosen: dict[Path, None] = {}
    for name in split_names(export.datasets):
        matching = [folder for n, folder in there.items() if name in (n, n.partition("-")[0])]
        if not matching:
            hint = nearest(name, (*there, *(n.partition("-")[0] for n in there)))
            raise UserError(f"--datasets {name}: no results in {home}, which holds {', '.join(there)}{hint}")
        chosen |= dict.fromkeys(matching)
    return list(chosen or there.values())


def _read(folder: Path) -> ResultSet:
    """Read all runs of a test set, each with the same sequences."""
    try:
        dataset, split = parse_name(folder.name)
    except UserError as error:
        raise UserError(f"{folder}: {error.message}") from None
    if not split:
        raise UserError(f"{folder}: is not named <dataset>-<split>; rename it")
    names = sorted(set().union(*map(list_results, run_folders(folder))))
    return ResultSet(folder.name, dataset, [read_results(place, names) for place in run_folders(folder)])


def _missing(item: ResultSet, trees: TreeOptions) -> list[str]:
    """Return the sequences of the tree without a result; nothing where the tree is not there."""
    split = item.name.partition("-")[2]
    if not trees.names(item.dataset) and trees.missing([(item.dataset, split)]):
        say(f"{item.name}: its tree is not there, so the results are not compared with it")
        return []
    tree = choose_test_sets([item.name], (), trees)[0]
    if tree.unread:
        say(f"{item.name}: {len(tree.unread)} sequences of the tree do not read; not compared")
    frames = {clip.name: len(clip.frames) for clip in tree.clips}
    for number, run in enumerate(item.runs, start=1):
        for name, result in run.items():
            if (rows := len(result.boxes)) != frames.get(name, rows):
                which = f" in run {number}" if len(item.runs) > 1 else ""
                counts = f"{rows} rows for {frames[name]} frames"
                raise UserError(f"{item.name}: the result of {name}{which} has {counts}; track the sequence again")
    return [name for name in frames if name not in item.runs[0]]
