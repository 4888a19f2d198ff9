"""``lorat-eval compare``: trackers side by side in the terminal, and whether they differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from lorat.evaluate.cli.options import ScoringOptions
from lorat.evaluate.cli.report import Rivals, scored_sets
from lorat.evaluate.report.tables import comparison_table, how_compared
from lorat.evaluate.track.settings import default_out, run_weights
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.console import OUT, say, start_logging
from lorat.shards.base.errors import UserError, counted, some
from lorat.shards.base.options import option


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions(ScoringOptions):
    """Over what trackers are compared."""

    datasets: str | None = option(None, metavar="NAMES", help="Names with commas between.  [default: all with results]")


@click.command("compare", cls=Command)
@click.argument("trackers", nargs=-1, required=True, metavar="RUN|DIR|LABEL=DIR...")
@options_of(CompareOptions, "options")
@options_of(TreeOptions, "trees")
def compare_command(trackers: tuple[str, ...], options: CompareOptions, trees: TreeOptions) -> None:
    """Compare trackers: one table a test set, the best in bold, and whether a difference is real.

    A tracker is a run (its last checkpoint's evaluation), an evaluation's folder, or anybody's results in a layout
    that lorat-eval score reads. All are scored over the sequences that every one of them has.

    \b
    lorat-eval compare runs/B-224-standard runs/B-224-mine DiMP=pytracking/dimp/dimp50 --datasets lasot

    Exit status: 0 done; 1 trackers lack sequences, which are left out of all; 2 wrong input.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    options.check_files()
    rivals = Rivals(_folders(trackers), options.convention)
    compared, lacking = [], False
    for item in scored_sets(options.datasets, trees):
        found = rivals.read(item.name, item.clips) if item.clips else {}
        shared = [clip for clip in item.clips if all(clip.name in foreign.runs[0] for foreign in found.values())]
        entries = [entry for label, foreign in found.items() if (entry := rivals.entry(label, foreign, shared))]
        if not entries:
            continue
        compared.append([*entries, entries[0]])
        OUT.print(comparison_table(entries))
        say(how_compared(len(entries[0].scores.sequences)))
        if left := {clip.name for clip in item.clips} - {clip.name for clip in shared} | item.unread.keys():
            lacking = True
            few = f"{counted(len(left), 'sequence')} left out, which not every tracker has"
            say(f"{item.name}: {few} ({some(sorted(left), 5)})")
    rivals.all_found()
    for line in rivals.remarks:
        say(line)
    options.write_csv(compared)
    click.get_current_context().exit(1 if lacking else 0)


def _folders(given: Sequence[str]) -> dict[str, Path]:
    """Return what trackers are called, and where their results are."""
    folders: dict[str, Path] = {}
    for text in given:
        label, equals, rest = text.partition("=")
        path = Path(rest if equals and not Path(text).exists() else text)
        label = label if path == Path(rest) else path.resolve().name
        if label in folders:
            raise UserError(f"{text}: two trackers would be called {label}; write LABEL=DIR")
        folders[label] = default_out(run_weights(path)) if (path / "checkpoints").is_dir() else path
    return folders
