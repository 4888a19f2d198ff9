"""Where the files of a results folder are: the layouts of several toolkits, told by what is there.

Promise: a folder is read in one way only. What could be read in two, or holds several trackers, is
refused by name. Only the sequences that are asked for are looked for, so a folder may hold those of
other data sets too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import UserError, unknown
from lorat.shards.base.storage import children

__all__ = ["LAYOUTS", "PREFIXES", "Files", "Place", "find_place", "run_folders"]

LAYOUTS = ("lorat", "pytracking", "otb", "got10k")
"""How results can be laid out, as ``--layout`` calls it."""

PREFIXES = {
    "uav123": "uav_",
    "uav20l": "uav_",
    "nfs30": "nfs_",
    "nfs240": "nfs_",
    "tc128": "tpl_",
    "otb": "otb_",
}
"""What pytracking's folders put before the sequence names of a data set, or may put there (OTB)."""

_TEXT = ".txt"
_TIME = "_time.txt"
_OURS = (".scores.txt", ".times.txt")
_RESULT = "_tracking_result"
_OUR_RUN = re.compile(r"run_\d{3}")
_NUMBERED = re.compile(r"(?P<stem>.+)_(?P<run>\d{3})")
_OTB_RUN = re.compile(rf"(?P<stem>.+?)(?:_(?P<run>\d{{3}}))?{_RESULT}")
_SHOWN = 4  # places that an error lists


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one run of one sequence."""

    boxes: Path
    times: Path | None = None
    """Seconds a frame, where such a file is there."""


@dataclass(frozen=True, slots=True)
class Place:
    """One tracker's results of a test set."""

    layout: str
    folders: tuple[Path, ...]
    """One a run; the folder of the sequences' folders in GOT-10k's layout."""
    runs: tuple[dict[str, Files], ...]
    """By sequence name; a run may lack sequences."""

    @property
    def label(self) -> str:
        """What the folder calls its tracker; of ours, the evaluation's folder."""
        home = self.folders[0].resolve()
        if self.layout == "lorat":
            return home.parent.parent.name if home.parent.name == "results" else home.name
        return _tracker_and_run(home.name)[0]

    def describe(self) -> str:
        """Return the layout and the folders as an error or a note lists them."""
        count = len(self.folders)
        more = f" and {count - 1} more run{'s' if count > 2 else ''}" if count > 1 else ""
        return f"{self.layout} in {self.folders[0]}{more}"


def find_place(folder: Path, clips: Sequence[Clip], layout: str = "auto") -> Place:
    """Find the results of some clips of one test set.

    Args:
        folder: the results folder that a user named.
        clips: at least one, all of one split.
        layout: one of `LAYOUTS`; ``auto`` tells it by what is there.

    Raises:
        UserError: if the folder is missing, holds none of the clips, or can be read in several
            ways; if the layout is unknown.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise unknown("layout", layout, ("auto", *LAYOUTS))
    search = _Search(clips)
    found: list[Place] = []
    if layout == "lorat" or (layout == "auto" and _is_ours(search, folder)):
        found = _lorat(search, folder)
    else:
        if layout != "got10k":
            found += _flat(search, folder, layout)
        if layout in ("auto", "got10k"):
            found += _got10k(search, folder)
    if not found and layout in ("auto", "pytracking"):
        found = _numbered_beside(search, folder)
    if not found and not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one of results with --results")
    if not found:
        raise _nothing(folder, clips, layout)
    if len(found) > 1:
        listed = ", ".join(place.describe() for place in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise UserError(
            f"{folder}: holds several results of {search.set_name}: {listed}{more}; name one of "
            "these folders with --results, or its layout with --layout"
        )
    return found[0]


def run_folders(folder: Path) -> list[Path]:
    """Return the folders of a test set's runs, as we write them: itself, ``run_002``, …."""
    return [folder, *sorted(f for f in _folders(folder) if _OUR_RUN.fullmatch(f.name))]


class _Search:
    """The sequences that are looked for."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.dataset = clips[0].dataset
        self.set_name = f"{clips[0].dataset}-{clips[0].split}"
        self.names = tuple(clip.name for clip in clips)

    def ours(self, folder: Path) -> dict[str, Files]:
        """Return the sequences whose files stand in a folder as we write them."""
        there = _texts(folder)
        return {n: Files(folder / (n + _TEXT)) for n in self.names if n + _TEXT in there}

    def flat(self, folder: Path) -> dict[str, Files]:
        """Return the sequences whose files stand in a folder, under any name they go by."""
        there = _texts(folder)
        found = {}
        for name in self.names:
            stem = next((s for s in self._stems(name) if s + _TEXT in there), None)
            if stem is not None:
                times = folder / (stem + _TIME) if stem + _TIME in there else None
                found[name] = Files(folder / (stem + _TEXT), times)
        return found

    def _stems(self, name: str) -> list[str]:
        """Return what a sequence's file may be called; prefixed first, which no other set uses."""
        # GOT-10k's toolkit writes OTB's Jogging_1 as Jogging.1.
        stems = [name, re.sub(r"_(\d)$", r".\1", name)] if self.dataset == "otb" else [name]
        prefix = PREFIXES.get(self.dataset)
        return [prefix + stem for stem in stems] + stems if prefix else stems

    def nested(self, folder: Path) -> list[dict[str, Files]]:
        """Return the sequences that have a folder of their own in a folder, by run."""
        runs: dict[str, dict[str, Files]] = {}
        there = {entry.name for entry in _folders(folder)}
        for name in self.names:
            inner = folder / name
            names = _texts(inner) if name in there else set()
            times = inner / (name + _TIME) if name + _TIME in names else None
            pattern = re.compile(rf"{re.escape(name)}_(\d+)\.txt")
            for match in filter(None, map(pattern.fullmatch, sorted(names))):
                runs.setdefault(match[1], {})[name] = Files(inner / match[0], times)
        return [runs[number] for number in sorted(runs, key=int)]


def _lorat(search: _Search, folder: Path) -> list[Place]:
    """Find results as `lorat-eval` writes them: its folder, its results, or a test set's."""
    for home in (folder / "results" / search.set_name, folder / search.set_name, folder):
        if search.ours(home):
            folders = tuple(run_folders(home))
            return [Place("lorat", folders, tuple(search.ours(f) for f in folders))]
    return []


def _is_ours(search: _Search, folder: Path) -> bool:
    """Return whether results are ours beyond doubt: by the folder's name, or by our other files."""
    places = _lorat(search, folder)
    if not places:
        return False
    home = places[0].folders[0]
    return home.resolve().name == search.set_name or any(f.endswith(_OURS) for f in _texts(home))


def _flat(search: _Search, folder: Path, layout: str) -> list[Place]:
    """Find a folder of box files, or the folders of each tracker's runs below a folder."""
    if direct := _flat_folder(search, folder, layout):
        return [direct]
    trackers: dict[tuple[str, bool], list[Place]] = {}
    for child in _folders(folder):
        skipped = layout == "pytracking" and child.name.endswith(_RESULT)
        if not skipped and (place := _flat_folder(search, child, layout)):
            trackers.setdefault(_tracker_and_run(child.name), []).append(place)
    return [_joined(places) for places in trackers.values()]


def _flat_folder(search: _Search, folder: Path, layout: str) -> Place | None:
    # OSTrack and its descendants put TrackingNet and GOT-10k into a folder of their own.
    for inner in (folder, folder / search.dataset):
        if files := search.flat(inner):
            told = _told(folder, files) if layout == "auto" else layout
            return Place(told, (folder,), (files,))
    return None


def _tracker_and_run(name: str) -> tuple[str, bool]:
    """Return what a folder calls its tracker, and whether it numbers the run."""
    match = _OTB_RUN.fullmatch(name) or _NUMBERED.fullmatch(name)
    return (match["stem"], match["run"] is not None) if match else (name, False)


def _told(folder: Path, files: dict[str, Files]) -> str:
    """Tell pytracking's folders of box files from OTB's; the boxes in both mean the same."""
    if folder.name.endswith(_RESULT):
        return "otb"
    name, first = next(iter(files.items()))
    prefixed, apart = first.boxes.stem != name, first.boxes.parent != folder
    if first.times or prefixed or apart or _NUMBERED.fullmatch(folder.name):
        return "pytracking"
    with first.boxes.open("rb") as file:
        return "pytracking" if b"\t" in file.readline(200) else "otb"


def _numbered_beside(search: _Search, folder: Path) -> list[Place]:
    """Find runs where ``dimp50`` is named and ``dimp50_000``, ``dimp50_001``, … are there."""
    runs = [f for f in _folders(folder.parent) if _is_run_of(f.name, folder.name)]
    found = [place for run in runs if (place := _flat_folder(search, run, "pytracking"))]
    return [_joined(found)] if found else []


def _is_run_of(name: str, tracker: str) -> bool:
    match = _NUMBERED.fullmatch(name)
    return match is not None and match["stem"] == tracker


def _got10k(search: _Search, folder: Path) -> list[Place]:
    """Find sequence folders in a folder, or in the folders of trackers below it."""
    for candidates in ([folder], _folders(folder)):
        found = [(place, search.nested(place)) for place in candidates]
        if any(runs for _, runs in found):
            return [Place("got10k", (place,), tuple(runs)) for place, runs in found if runs]
    return []


def _joined(places: Sequence[Place]) -> Place:
    """Return the runs of one tracker, each found in a folder of its own, as one place."""
    folders = tuple(place.folders[0] for place in places)
    return Place(places[0].layout, folders, tuple(place.runs[0] for place in places))


def _nothing(folder: Path, clips: Sequence[Clip], layout: str) -> UserError:
    """Build the error for a folder that holds none of the sequences."""
    there = [entry.name for entry in children(folder) if not entry.name.startswith(".")]
    found = f"it holds {', '.join(there[:2])}" if there else "it is empty"
    more = f" and {len(there) - 2:,} more" if len(there) > 2 else ""
    wanted = " and ".join(clip.name for clip in clips[:2])
    how = "" if layout == "auto" else f" in the layout {layout}"
    return UserError(
        f"{folder}: no result of {clips[0].dataset}-{clips[0].split}{how}: {found}{more}, wanted "
        f"are sequences such as {wanted}; name the folder of one tracker's results"
    )


def _folders(folder: Path) -> list[Path]:
    inner = (entry for entry in children(folder) if isinstance(entry, Path) and entry.is_dir())
    return [entry for entry in inner if not entry.name.startswith(".")]


def _texts(folder: Path) -> set[str]:
    return {entry.name for entry in children(folder) if entry.name.endswith(_TEXT)}
