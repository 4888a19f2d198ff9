"""``lorat-eval compare``: trackers side by side in the terminal, and whether they differ."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from lorat.evaluate.cli.options import ScoringOptions
from lorat.evaluate.measure.matlab import repairs
from lorat.evaluate.measure.ope import ConventionName
from lorat.evaluate.measure.scores import DatasetScores, Entry, dataset_scores, part
from lorat.evaluate.measure.stored import stored_scores
from lorat.evaluate.report.tables import comparison_table, how_compared, not_official, notes_of
from lorat.evaluate.results.find import is_there
from lorat.evaluate.results.foreign import Foreign, NothingUsable, read_foreign
from lorat.evaluate.results.formats import toolkit_report
from lorat.evaluate.track.folder import latency_of
from lorat.evaluate.track.settings import default_out, run_weights
from lorat.evaluate.track.testsets import SCORED_SPLITS, TestSet, choose_test_sets, default_test_sets
from lorat.prep.commandline import Command, options_of
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.sources import TreeOptions, split_names
from lorat.shards.base.console import OUT, say, start_logging
from lorat.shards.base.errors import UserError, counted, some
from lorat.shards.base.options import option

_STORED = "scores as GOT-10k's toolkit counted them"


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions(ScoringOptions):
    """Over what trackers are compared."""

    datasets: str | None = option(None, metavar="NAMES", help="Names with commas between.  [default: all with results]")


@dataclass(frozen=True, slots=True)
class Rivals:
    """Trackers with results in any layout; a `UserError` if one of the places is not there."""

    folders: Mapping[str, Path]  # label → results
    convention: ConventionName
    remarks: list[str] = field(default_factory=list)
    found: dict[str, str] = field(default_factory=dict)  # label → how its results were read, of the first set that has
    why: dict[str, str] = field(default_factory=dict)  # label → why its results of the first set were not
    refused: dict[str, str] = field(default_factory=dict)  # sequence → why a result of it could not be used
    unusable: set[str] = field(default_factory=set)  # labels of which no result of a set could be used

    def __post_init__(self) -> None:
        for place in self.folders.values():
            if not is_there(place):
                raise UserError(f"{place}: no such folder or file; give the results of a tracker")

    def read(self, name: str, clips: Sequence[Clip]) -> dict[str, Foreign | DatasetScores]:
        """Return what is there of a test set by label, boxes or, of a toolkit's report, its scores; a remark says what
        is not, where there is anything.
        """
        there, remarks = dict[str, Foreign | DatasetScores](), list[str]()
        for label, folder in self.folders.items():
            try:
                if report := toolkit_report(folder):
                    stored = stored_scores(report, clips, folder)
                    several = len(stored) > 1
                    there |= {f"{label} {tracker}" if several else label: of for tracker, of in stored.items()}
                    self.found.setdefault(label, f"{_STORED}, in {folder}")
                    remarks.append(f"{name}: {label}: {_STORED}; it keeps no boxes")
                    continue
                there[label] = foreign = read_foreign(
                    folder, clips, repairs=repairs(name.partition("-")[0], self.convention)
                )
            except UserError as error:
                self.why.setdefault(label, error.message)
                remarks.append(f"{name}: {label} left out: {error.message}")
                if isinstance(error, NothingUsable):
                    self.unusable.add(label)
                continue
            self.found.setdefault(label, str(foreign))
            remarks += [f"{name}: {label}: {note}" for note in foreign.notes]
            self.refused.update(foreign.refused)
        self.remarks.extend(remarks if there else ())
        return there

    def entry(self, label: str, found: Foreign | DatasetScores, clips: Sequence[Clip]) -> Entry | None:
        """Return a tracker's scores over those of some clips that it has; None without any that has ground truth."""
        there = [clip for clip in clips if clip.name in sequences_of(found)]
        if isinstance(found, DatasetScores):
            return Entry(label, part(found, {clip.name for clip in there})) if there else None
        foreign, scores = found, dataset_scores(there, found.runs, self.convention)
        return Entry(label, replace(scores, latency=latency_in(foreign, scores.fps))) if scores else None

    def all_found(self) -> None:
        """Raise a `UserError` if one of them has nothing in any test set, or none has what can be used."""
        for label, folder in self.folders.items():
            if label not in self.found and (label not in self.unusable or not self.found):
                why = self.why.get(label, f"{folder}: no result of any test set")
                raise UserError(why if label == str(folder) else f"{label}: {why}")


def sequences_of(found: Foreign | DatasetScores) -> Collection[str]:
    """Return the sequences that a tracker has."""
    return found.runs[0].keys() if isinstance(found, Foreign) else {each.name for each in found.sequences}


def latency_in(foreign: Foreign, fps: float | None) -> float | None:
    """Return milliseconds a frame of one sequence alone: as we measured it, or as others' time files say."""
    if foreign.layout == "lorat":
        return latency_of(foreign.home.parent.parent)
    return 1000.0 / fps if fps else None


def scored_sets(datasets: str | None, trees: TreeOptions) -> list[TestSet]:
    """Read the named test sets, or all whose tree is there; a bare name means the split with ground truth."""
    names = [f"{n}-{SCORED_SPLITS[n]}" if n in SCORED_SPLITS else n for n in split_names(datasets)]
    return choose_test_sets(names or default_test_sets(trees), (), trees)


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

    Exit status: 0 done; 1 sequences or trackers lack results that can be used, and are left out; 2 wrong input.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    options.check_files()
    rivals = Rivals(_folders(trackers), options.convention)
    compared, lacking = list[list[Entry]](), list[str]()
    for item in scored_sets(options.datasets, trees):
        found = rivals.read(item.name, item.clips) if item.clips else {}
        shared = [clip for clip in item.clips if all(clip.name in sequences_of(each) for each in found.values())]
        if entries := [entry for label, each in found.items() if (entry := rivals.entry(label, each, shared))]:
            compared.append(entries)
        if found and (left := {clip.name for clip in item.clips} - {clip.name for clip in shared} | item.unread.keys()):
            few = f"{counted(len(left), 'sequence')} left out, which not every tracker has ({some(sorted(left), 5)})"
            lacking.append(f"{item.name}: {few}")
    rivals.all_found()
    if not compared:
        raise UserError(f"{', '.join(rivals.folders)}: have no sequence with ground truth in common")
    for entries in compared:
        OUT.print(comparison_table(entries))
    notes = notes_of([entry.scores for entries in compared for entry in entries])
    parts = [line for entries in compared for line in not_official(entries[0].scores)]
    for line in (*notes, how_compared(), *parts, *lacking, *rivals.remarks):
        say(line)
    options.write_csv([[*entries, entries[0]] for entries in compared])
    click.get_current_context().exit(1 if lacking or rivals.refused or rivals.unusable else 0)


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
