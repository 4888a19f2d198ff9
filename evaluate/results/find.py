"""Where the results of a test set are in a folder that somebody named.

Promise: a folder is read in one way only. `_STEPS` says where each layout looks, in order; the
first place that holds anything wins, and several trackers in it are refused by name. Only the
sequences that are asked for are looked for, so a folder may hold those of other data sets too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorat.evaluate.results.files import SIDE_FILES, run_folders
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import UserError, some, unknown
from lorat.shards.base.storage import children

Layout = Literal["auto", "lorat", "pytracking", "otb", "got10k"]
"""How results can be laid out, as ``--layout`` calls it; ``auto`` tells it by what is there."""

PREFIXES = {
    "uav123": "uav_",
    "uav20l": "uav_",
    "nfs30": "nfs_",
    "nfs240": "nfs_",
    "tc128": "tpl_",
    "otb": "otb_",
}
"""What pytracking's folders put before the sequence names of a data set, or may put there (OTB)."""

Run = dict[str, Path]
"""Sequence → its file of boxes."""

_OTB = "_tracking_result"
_NUMBER = re.compile(rf"_\d{{3}}(?=(?:{_OTB})?\Z)")


@dataclass(frozen=True, slots=True)
class ResultPlace:
    """One tracker's results of a test set."""

    layout: str
    folders: tuple[Path, ...]
    """One a run; the folder of the sequences' folders in GOT-10k's layout."""
    runs: tuple[Run, ...]
    """A run may lack sequences."""

    @property
    def label(self) -> str:
        """What the folder calls its tracker; of ours, the evaluation's folder."""
        home = self.folders[0].resolve()
        if self.layout == "lorat":
            return home.parent.parent.name if home.parent.name == "results" else home.name
        return _NUMBER.sub("", home.name).removesuffix(_OTB) or home.name

    def __str__(self) -> str:
        count = len(self.folders) - 1
        more = f" and {count} more run{'s' if count > 1 else ''}" if count else ""
        return f"{self.layout} in {self.folders[0]}{more}"


def find_results(folder: Path, clips: Sequence[Clip], layout: str = "auto") -> ResultPlace:
    """Find the results of some clips, at least one, all of one split, in a folder.

    Raises:
        UserError: if the folder is missing, holds none of the clips, or can be read in several
            ways; if the layout is unknown.
    """
    if layout not in _STEPS:
        raise unknown("layout", layout, _STEPS)
    found = next((f for step in _STEPS[layout] if (f := step(folder, clips, layout))), [])
    if len(found) == 1:
        return found[0]
    test_set = f"{clips[0].dataset}-{clips[0].split}"
    if found:
        raise UserError(
            f"{folder}: holds several results of {test_set}: {some(found, 4)}; name one of these "
            "folders with --results, or its layout with --layout"
        )
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one of results with --results")
    there = [entry.name for entry in children(folder) if not entry.name.startswith(".")]
    holds = f"it holds {some(there, 2)}" if there else "it is empty"
    how = "" if layout == "auto" else f" in the layout {layout}"
    raise UserError(
        f"{folder}: no result of {test_set}{how}: {holds}, wanted are sequences such as "
        f"{' and '.join(clip.name for clip in clips[:2])}; name the folder of one tracker's results"
    )


def _ours(folder: Path, clips: Sequence[Clip], layout: str) -> list[ResultPlace]:
    """Look where `lorat-eval` writes: an evaluation's folder, its results, or a test set's.

    What is to be told from box files of others must be named as a test set, or have our scores or
    times beside the boxes.
    """
    test_set = f"{clips[0].dataset}-{clips[0].split}"
    for home in (folder / "results" / test_set, folder / test_set, folder):
        if _box_files(home, clips, own_names=True):
            marked = home.resolve().name == test_set or any(
                name.endswith(SIDE_FILES) for name in _texts(home)
            )
            if layout == "auto" and not marked:
                return []
            folders = tuple(run_folders(home))
            runs = tuple(_box_files(place, clips, own_names=True) for place in folders)
            return [ResultPlace("lorat", folders, runs)]
    return []


def _others(folder: Path, clips: Sequence[Clip], layout: str) -> list[ResultPlace]:
    """Look for box files and for folders of sequences: both together, since both may be there."""
    return _flat(folder, clips, layout) + _nested(folder, clips, layout)


def _flat(folder: Path, clips: Sequence[Clip], layout: str) -> list[ResultPlace]:
    """Look for box files in the folder; if there are none, in the folders of it, by tracker."""
    if direct := _flat_folder(folder, clips, layout):
        return [direct]
    inner = [f for f in _folders(folder) if layout != "pytracking" or not f.name.endswith(_OTB)]
    return _by_tracker(place for f in inner if (place := _flat_folder(f, clips, layout)))


def _numbered(folder: Path, clips: Sequence[Clip], layout: str) -> list[ResultPlace]:
    """Look beside a folder ``dimp50`` for its runs ``dimp50_000``, ``dimp50_001``, …."""
    runs = [f for f in _folders(folder.parent) if _all_runs(f) == f"{folder.name}_*"]
    return _by_tracker(place for f in runs if (place := _flat_folder(f, clips, "pytracking")))


def _nested(folder: Path, clips: Sequence[Clip], layout: str) -> list[ResultPlace]:
    """Look for folders of sequences in the folder; if there are none, in the folders of it."""
    for candidates in ([folder], _folders(folder)):
        found = [(place, _runs_of_sequences(place, clips)) for place in candidates]
        if places := [ResultPlace("got10k", (place,), runs) for place, runs in found if runs]:
            return places
    return []


_STEPS: dict[str, tuple[Callable[[Path, Sequence[Clip], str], list[ResultPlace]], ...]] = {
    "auto": (_ours, _others, _numbered),
    "lorat": (_ours,),
    "pytracking": (_flat, _numbered),
    "otb": (_flat,),
    "got10k": (_nested,),
}
"""Layout → where it is looked for; the first step that finds anything decides."""


def _flat_folder(folder: Path, clips: Sequence[Clip], layout: str) -> ResultPlace | None:
    """Return the box files of a folder as a place with one run."""
    # OSTrack and its descendants put TrackingNet and GOT-10k into a folder of their own.
    for inner in (folder, folder / clips[0].dataset):
        if run := _box_files(inner, clips):
            told = _pytracking_or_otb(folder, run) if layout == "auto" else layout
            return ResultPlace(told, (folder,), (run,))
    return None


def _pytracking_or_otb(folder: Path, run: Run) -> str:
    """Tell pytracking's folders of box files from OTB's; the boxes in both mean the same."""
    if folder.name.endswith(_OTB):
        return "otb"
    name, first = next(iter(run.items()))
    timed = first.with_name(f"{first.stem}_time.txt").is_file()
    numbered = _all_runs(folder) != folder.name
    if timed or numbered or first.stem != name or first.parent != folder:
        return "pytracking"
    with first.open("rb") as file:
        return "pytracking" if b"\t" in file.readline(200) else "otb"


def _by_tracker(places: Iterable[ResultPlace]) -> list[ResultPlace]:
    """Join the places that are numbered runs of one tracker."""
    trackers: dict[str, list[ResultPlace]] = {}
    for place in places:
        trackers.setdefault(_all_runs(place.folders[0]), []).append(place)
    return [
        ResultPlace(
            group[0].layout, tuple(p.folders[0] for p in group), tuple(p.runs[0] for p in group)
        )
        for group in trackers.values()
    ]


def _all_runs(folder: Path) -> str:
    """Return what numbered folders have in common: ``dimp50_*`` for ``dimp50_003``."""
    return _NUMBER.sub("_*", folder.name)


def _box_files(folder: Path, clips: Sequence[Clip], own_names: bool = False) -> Run:
    """Return the sequences that have a file in a folder, under any name they go by."""
    there, run = _texts(folder), {}
    for clip in clips:
        files = [f"{stem}.txt" for stem in ((clip.name,) if own_names else _spellings(clip))]
        if known := [file for file in files if file in there]:
            run[clip.name] = folder / known[0]
    return run


def _spellings(clip: Clip) -> list[str]:
    """Return what a sequence's file may be called; prefixed first, which no other set uses."""
    # GOT-10k's toolkit writes OTB's Jogging_1 as Jogging.1.
    dotted = re.sub(r"_(\d)$", r".\1", clip.name) if clip.dataset == "otb" else clip.name
    stems = list(dict.fromkeys((clip.name, dotted)))
    prefix = PREFIXES.get(clip.dataset, "")
    return list(dict.fromkeys([*(prefix + stem for stem in stems), *stems]))


def _runs_of_sequences(folder: Path, clips: Sequence[Clip]) -> tuple[Run, ...]:
    """Return the sequences that have a folder of their own in a folder, by run."""
    runs: dict[str, Run] = {}
    there = {entry.name for entry in _folders(folder)}
    for name in (clip.name for clip in clips if clip.name in there):
        pattern = re.compile(rf"{re.escape(name)}_(\d+)\.txt")
        for match in filter(None, map(pattern.fullmatch, _texts(folder / name))):
            runs.setdefault(match[1], {})[name] = folder / name / match[0]
    return tuple(runs[number] for number in sorted(runs, key=int))


def _folders(folder: Path) -> list[Path]:
    inner = (entry for entry in children(folder) if isinstance(entry, Path) and entry.is_dir())
    return [entry for entry in inner if not entry.name.startswith(".")]


def _texts(folder: Path) -> set[str]:
    return {entry.name for entry in children(folder) if entry.name.endswith(".txt")}
