"""``lorat-eval export-results``: anybody's boxes in the layouts of other toolkits, or zipped for a server."""

import re
from dataclasses import dataclass
from pathlib import Path

import click

from lorat.evaluate.cli.options import evaluation_folder
from lorat.evaluate.results.files import folders_in, list_results, read_results, run_folders
from lorat.evaluate.results.find import Layout
from lorat.evaluate.results.foreign import Foreign, read_foreign
from lorat.evaluate.results.write import ExportLayout, ResultSet, layout_files, write_files
from lorat.evaluate.submit.pack import pack_zip
from lorat.evaluate.submit.servers import SERVERS, ServerName
from lorat.evaluate.track.testsets import TestSet, choose_test_sets
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.registry import DATASETS, parse_name
from lorat.prep.trees.sources import TreeOptions, split_names
from lorat.shards.base.console import progress_bar, say, start_logging
from lorat.shards.base.disk import check_can_write
from lorat.shards.base.errors import UserError, counted, nearest, some
from lorat.shards.base.options import option


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What is exported, and where to."""

    layout: ExportLayout | None = option(None, help="Layout to write.")
    submit_zip: ServerName | None = option(None, help="Or a zip of this test split for its server, judged before.")
    out: Path = option(Path(), kind="folder", help="Folder to write into.", shown="this folder")
    run: Path | None = option(None, kind="folder", help="A run folder; its last checkpoint's results are exported.")
    results: Path | None = option(None, help="An evaluation's folder, or any tracker's results that score reads.")
    read_as: Layout = option("auto", help="Layout of the results; auto tells it by what is there.")
    datasets: str | None = option(
        None, metavar="NAMES", help="Test sets, as lasot,got10k-val; all with results of lorat-eval by default."
    )
    label: str | None = option(None, help="What folders call the tracker.  [default: LoRAT, or another's as they are]")
    overwrite: bool = option(False, help="Replace files that are there with other content.")

    def __post_init__(self) -> None:
        if self.label is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", self.label):
            raise UserError(f"--label '{self.label}': is a folder's name; use letters, digits, _ . + and - only")
        if (self.layout is None) == (self.submit_zip is None):
            raise UserError("export-results: say what to write: a --layout or, for a server, --submit-zip")
        if self.submit_zip and self.datasets:
            raise UserError(f"--datasets: --submit-zip {self.submit_zip} names the test set; leave it out")

    @property
    def home(self) -> Path:
        """Where the results are."""
        return evaluation_folder(self.run, self.results, "--results")

    def read(self, item: TestSet) -> Foreign:
        """Read results of a test set in any layout, boxes as they were written, and say how."""
        with progress_bar("reading results") as progress:
            foreign = read_foreign(self.home, item.clips, self.read_as, progress, as_written=True)
        for line in (f"{item.name}: read as {foreign}", *foreign.notes):
            say(line)
        return foreign


@click.command("export-results", cls=Command)
@options_of(Export, "export")
@options_of(TreeOptions, "trees")
def export_results_command(export: Export, trees: TreeOptions) -> None:
    """Write results in another toolkit's layout, or as a zip for a server.

    Ours are compared with trees that are there. Another tracker's are read as score does: --datasets names their test
    sets, whose trees must be there. A zip is judged as by check-zip before it is written.

    \b
    lorat-eval export-results --layout pytracking --run runs/B-224-standard --out exported
    lorat-eval export-results --layout otb --results dimp50 --datasets lasot --label dimp50 --out exported
    lorat-eval export-results --submit-zip got10k --results dimp50 --raw RAW

    Exit status: 0 done; 1 sequences of the tree have no result, the others are written; 2 wrong input, or no zip.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    check_can_write(export.out)
    if export.submit_zip is not None:
        _submit(export, export.submit_zip, trees)
    elif export.layout is not None:
        click.get_current_context().exit(1 if _export(export, export.layout, trees) else 0)


def _export(export: Export, layout: ExportLayout, trees: TreeOptions) -> bool:
    """Write results in a layout; return whether sequences of the tree have none."""
    sets, missing, label = [], {}, export.label or "LoRAT"
    if folders := _chosen(export):
        with progress_bar("reading results") as progress:
            for done, folder in enumerate(folders, start=1):
                sets.append(_read(folder))
                progress(done, len(folders))
        missing = {item.name: _missing(item, _tree(item, trees)) for item in sets}
    else:
        for tree in choose_test_sets(split_names(export.datasets), (), trees):
            foreign = export.read(tree)
            label = export.label or foreign.label
            sets.append(ResultSet(tree.name, tree.dataset, foreign.runs))
            missing[tree.name] = _missing(sets[-1], tree)
    files = layout_files(sets, layout, label)
    changed = write_files(export.out, files, overwrite=export.overwrite)
    for item in sets:
        runs = f" in {len(item.runs)} runs" if len(item.runs) > 1 else ""
        base = "x and y from 1, as its annotations" if item.dataset.one_based else "x and y from 0"
        line = f"{item.name}: {counted(len(item.runs[0]), 'sequence')}{runs}, {base}"
        if layout == "got10k" and (untimed := len(item.untimed())):
            line += f"; {untimed} of them without a time for every frame, so without a time file"
        say(line)
    for name, names in missing.items():
        if names:
            say(f"{name}: no result of {counted(len(names), 'sequence')} of the tree ({some(names, 5)})")
    same = f", {len(files) - changed:,} are there as they are" if changed < len(files) else ""
    tops = sorted({str(export.out / path.partition("/")[0]) for path in files})
    say(f"{layout}: {counted(changed, 'file')} written{same}: {', '.join(tops)}")
    return any(missing.values())


def _chosen(export: Export) -> list[Path]:
    """Return the folders of our test sets that are exported; none where the results are another tracker's."""
    home = export.home
    whole = export.results is None or (home / "results").is_dir()
    home = home / "results" if whole else home
    there = {folder.name: folder for folder in folders_in(home) if list_results(folder)}
    if not whole:  # others have folders of text files too, such as GOT-10k's sequences
        there = {name: folder for name, folder in there.items() if "-" in name and name.partition("-")[0] in DATASETS}
    if not there and export.datasets and export.results:
        return []
    if not there:
        ours = "track test sets with lorat-eval first, or name an evaluation's folder with --results"
        others = "of another tracker's boxes name the test set with --datasets, or the server with --submit-zip"
        raise UserError(f"{home}: holds no results of lorat-eval; {ours}; {others}")
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


def _tree(item: ResultSet, trees: TreeOptions) -> TestSet | None:
    """Return the test set in its tree, if that is there."""
    split = item.name.partition("-")[2]
    if not trees.names(item.dataset) and trees.missing([(item.dataset, split)]):
        say(f"{item.name}: its tree is not there, so the results are not compared with it")
        return None
    return choose_test_sets([item.name], (), trees)[0]


def _missing(item: ResultSet, tree: TestSet | None) -> list[str]:
    """Return the sequences of the tree without a result; nothing where the tree is not there."""
    if tree is None:
        return []
    if tree.unread:
        say(f"{item.name}: {counted(len(tree.unread), 'sequence')} of the tree cannot be read; not compared")
    frames = {clip.name: len(clip.frames) for clip in tree.clips}
    for number, run in enumerate(item.runs, start=1):
        for name, result in run.items():
            if (rows := len(result.boxes)) != frames.get(name, rows):
                which = f" in run {number}" if len(item.runs) > 1 else ""
                counts = f"{rows} rows for {frames[name]} frames"
                raise UserError(f"{item.name}: the result of {name}{which} has {counts}; track the sequence again")
    return [name for name in frames if name not in item.runs[0]]


def _submit(export: Export, server: ServerName, trees: TreeOptions) -> None:
    """Pack results of a server's test set."""
    item = choose_test_sets((), (server,), trees)[0]
    if item.unread:
        why = next(iter(item.unread.values()))
        few = counted(len(item.unread), "sequence")
        raise UserError(f"no zip of {item.name}: {few} of the tree cannot be read: {why}")
    runs = export.read(item).runs
    say("boxes are written as the whole pixels that they touch, as in LoRAT's published zips")
    out = export.out / SERVERS[server].zip_name
    for line in pack_zip(server, runs, item.clips, out, overwrite=export.overwrite).lines():
        say(line)
