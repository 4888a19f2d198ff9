"""Results that any tracker wrote: found, read into our coordinates, prepared as toolkits do it.

Promise: a folder is read in one way only; what could be read in two, or holds several trackers, is refused by name.
Nothing is made up or shifted silently: docs/results.md says which layout counts x and y from where, what is done to the
boxes, and what is refused. Our own results are scored as they are, as the evaluation scored them.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.results import files
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.base.text import parse_table, read_text
from lorat.prep.trees.registry import DATASETS
from lorat.shards.base.console import Update
from lorat.shards.base.errors import UserError, some, unknown
from lorat.shards.base.storage import children
from lorat.shards.pixels.geometry import xyxy_to_xywh

Layout = Literal["auto", "lorat", "pytracking", "otb", "got10k"]
"""How results can be laid out, as ``--layout`` calls it; ``auto`` tells it by what is there."""

PREFIXES = {"uav123": "uav_", "uav20l": "uav_", "nfs30": "nfs_", "nfs240": "nfs_", "tc128": "tpl_", "otb": "otb_"}
"""What pytracking's folders put before the sequence names of a data set, or may put there (OTB)."""

_OTB = "_tracking_result"
_NUMBER = re.compile(rf"_\d{{3}}(?=(?:{_OTB})?\Z)")
_SAME = 0.01  # pixels; the coarsest files with decimals have two
_AS_THEY_ARE = ("got10k", "trackingnet")  # their own toolkits score boxes without a size, as overlaps of 0
_NOTES = {
    "after": "the first box is exactly one pixel right of and below the given one",
    "before": "the first box is exactly one pixel left of and above the given one",
    "other": "the first box is not the given one",
    "cut": "rows beyond the last frame are cut",
    "times": "the time file does not fit, so its times are not used",
    "sizeless": "boxes without a size are replaced by the box before",
}

BoxFiles = dict[str, Path]  # sequence → its file of boxes
Place = tuple[str, Path, list[BoxFiles]]  # layout, home and runs, as in `Foreign`; a run may lack sequences
Oddities = defaultdict[str, dict[str, str]]  # key of `_NOTES` → sequence → detail, once for all runs


class Foreign(NamedTuple):
    """The results of one tracker on one test set; as text, where they were found."""

    layout: str
    home: Path  # the first run's folder; in GOT-10k's layout that of the sequences' folders
    runs: Sequence[files.Run]  # the same sequences in every run; boxes as ours, x, y, w, h from 0
    missing: tuple[str, ...]  # clips without a result, or without one in every run
    notes: tuple[str, ...]  # what a person should know, a line each

    @property
    def label(self) -> str:
        """What the folder calls its tracker; of ours, the evaluation's folder."""
        home = self.home.resolve()
        if self.layout == "lorat":
            return home.parent.parent.name if home.parent.name == "results" else home.name
        return _NUMBER.sub("", home.name).removesuffix(_OTB) or home.name

    def __str__(self) -> str:
        return _told(self.layout, self.home, self.runs)


def read_foreign(
    folder: Path,
    clips: Sequence[Clip],
    layout: str = "auto",
    progress: Update | None = None,
    *,
    as_written: bool = False,
) -> Foreign:
    """Read the results that a tracker wrote of some clips, at least one and all of one split.

    docs/results.md says what the folder may be; it may hold results of other data sets too. The clips' first tracks are
    the ground truth. Boxes are prepared as toolkits score them, unless they are wanted `as_written`. A `UserError` if
    the layout is unknown, if the folder is missing, holds none of the clips or can be read in several ways, or if a
    file has too few rows or is refused by `parse_boxes`.
    """
    layout, home, found = _find(folder, clips, layout)
    whole = [clip for clip in clips if all(clip.name in run for run in found)]
    missing = [clip.name for clip in clips if any(clip.name not in run for run in found)]
    partly = [name for name in missing if any(name in run for run in found)]
    notes = [f"{_sequences(partly)}: not in every run, so left out"] if partly else []
    if not whole:
        raise UserError(f"{folder}: no sequence has a result in every run; {notes[0]}")
    odd: Oddities = defaultdict(dict)
    runs: list[dict[str, files.SequenceResult]] = [{} for _ in found]
    for done, (number, clip) in enumerate(product(range(len(found)), whole), start=1):
        result = _read(clip, found[number][clip.name], number, layout, odd)
        runs[number][clip.name] = result if as_written else _as_scored(clip, result, layout, odd)
        if progress:
            progress(done, len(found) * len(whole))
    return Foreign(layout, home, runs, tuple(missing), (*notes, *_note_lines(odd, whole, layout)))


def _told(layout: str, home: Path, runs: Sequence[object]) -> str:
    count = 0 if layout == "got10k" else len(runs) - 1
    more = f" and {count} more run{'s' if count > 1 else ''}" if count else ""
    return f"{layout} in {home}{more}"


def _find(folder: Path, clips: Sequence[Clip], layout: str) -> Place:
    """Return where the results are: what lies in the folder itself goes before what lies deeper."""
    if layout not in get_args(Layout):
        raise unknown("layout", layout, get_args(Layout))
    found = _ours(folder, clips, layout) if layout in ("auto", "lorat") else []
    if not found and layout != "lorat":
        inner = [f for f in files.folders_in(folder) if layout != "pytracking" or not f.name.endswith(_OTB)]
        if layout != "got10k":
            found = _flat([folder], clips, layout) or _flat(inner, clips, layout)
        if layout in ("auto", "got10k"):
            found += _nested([folder], clips) or _nested(inner, clips)
        if not found and layout in ("auto", "pytracking"):
            beside = [f for f in files.folders_in(folder.parent) if _all_runs(f) == f"{folder.name}_*"]
            found = _flat(beside, clips, "pytracking")
    if len(found) == 1:
        return found[0]
    test_set = f"{clips[0].dataset}-{clips[0].split}"
    if found:
        remedy = "name one of these folders with --results, or its layout with --layout"
        places = some([_told(*place) for place in found], 4)
        raise UserError(f"{folder}: holds several results of {test_set}: {places}; {remedy}")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one of results with --results")
    there = some([entry.name for entry in children(folder) if not entry.name.startswith(".")], 2) or "nothing"
    how = "" if layout == "auto" else f" in the layout {layout}"
    wanted = " and ".join(clip.name for clip in clips[:2])
    wanted = f"wanted are sequences such as {wanted}; name the folder of one tracker's results"
    raise UserError(f"{folder}: no result of {test_set}{how}: it holds {there}, {wanted}")


def _ours(folder: Path, clips: Sequence[Clip], layout: str) -> list[Place]:
    """Look where `lorat-eval` writes: an evaluation's folder, its results, or a test set's."""
    test_set = f"{clips[0].dataset}-{clips[0].split}"
    for home in (folder / "results" / test_set, folder / test_set, folder):
        if _boxes(home, clips, "lorat"):
            # Others' box files may be called like ours, but not their folder or the files beside.
            beside = any(name.endswith(files.SIDE_FILES) for name in _texts(home))
            if layout == "auto" and not beside and home.resolve().name != test_set:
                return []
            return [("lorat", home, [_boxes(run, clips, "lorat") for run in files.run_folders(home)])]
    return []


def _flat(folders: Sequence[Path], clips: Sequence[Clip], layout: str) -> list[Place]:
    """Look for box files in folders; numbered ones are runs of one tracker."""
    trackers: dict[str, dict[Path, BoxFiles]] = defaultdict(dict)
    for folder in folders:
        # OSTrack and its descendants put TrackingNet and GOT-10k into a folder of their own.
        if run := _boxes(folder, clips, layout) or _boxes(folder / clips[0].dataset, clips, layout):
            trackers[_all_runs(folder)][folder] = run
    places = []
    for runs in trackers.values():
        home, first = next(iter(runs.items()))
        told = _pytracking_or_otb(home, first) if layout == "auto" else layout
        places.append((told, home, [*runs.values()]))
    return places


def _nested(folders: Sequence[Path], clips: Sequence[Clip]) -> list[Place]:
    """Look for sequences that have a folder of their own in folders."""
    places = []
    for folder in folders:
        runs: dict[str, BoxFiles] = defaultdict(dict)
        there = {entry.name for entry in files.folders_in(folder)}
        for name in (clip.name for clip in clips if clip.name in there):
            for file in sorted(_texts(folder / name)):
                if match := re.fullmatch(rf"{re.escape(name)}_(\d+)\.txt", file):
                    runs[match[1]][name] = folder / name / file
        if runs:
            places.append(("got10k", folder, [runs[number] for number in sorted(runs, key=int)]))
    return places


def _pytracking_or_otb(folder: Path, run: BoxFiles) -> str:
    """Tell pytracking's folders of box files from OTB's; the boxes in both mean the same."""
    if folder.name.endswith(_OTB):
        return "otb"
    name, first = next(iter(run.items()))
    timed = first.with_name(f"{first.stem}_time.txt").is_file()
    if timed or _all_runs(folder) != folder.name or first.stem != name or first.parent != folder:
        return "pytracking"
    with first.open("rb") as file:
        return "pytracking" if b"\t" in file.readline(200) else "otb"


def _all_runs(folder: Path) -> str:
    """Return what numbered folders have in common: ``dimp50_*`` for ``dimp50_003``."""
    return _NUMBER.sub("_*", folder.name)


def _boxes(folder: Path, clips: Sequence[Clip], layout: str) -> BoxFiles:
    """Return the sequences that have a file in a folder, under the first of the names that the layout may give it."""
    there, run = _texts(folder), {}
    for clip in clips:
        stems = [clip.name]
        if layout != "lorat":
            if clip.dataset == "otb":  # GOT-10k's toolkit writes OTB's Jogging_1 as Jogging.1
                stems.append(re.sub(r"_(\d)$", r".\1", clip.name))
            # Prefixed names first, which no other set uses.
            stems = [PREFIXES.get(clip.dataset, "") + stem for stem in stems] + stems
        if known := [f"{stem}.txt" for stem in stems if f"{stem}.txt" in there]:
            run[clip.name] = folder / known[0]
    return run


def _texts(folder: Path) -> set[str]:
    return {entry.name for entry in children(folder) if entry.name.endswith(".txt")}


def _note_lines(odd: Oddities, clips: Sequence[Clip], layout: str) -> list[str]:
    remedies = {
        "after": "scored as they are: if all are shifted, take 1 from every x and y",
        "before": "scored as they are: if all are shifted, add 1 to every x and y",
        "other": "the given one is scored there",
    }
    if DATASETS[clips[0].dataset].one_based:
        shift, base, other = ("after", 1, "otb") if layout == "lorat" else ("before", 0, "lorat")
        remedies[shift] = f"scored as they are: if they count from {base}, read them with --layout {other}"
    right = len(clips) - len(set().union(*(odd.get(kind, ()) for kind in remedies)))
    lines = []
    for kind, details in odd.items():
        detail = next(iter(details.values()))
        line = f"{_sequences(list(details))}: {_NOTES[kind]}{f' ({detail})' if detail else ''}"
        if kind in remedies:
            line += f"; {right} of {len(clips)} begin with the given box; {remedies[kind]}"
        lines.append(line)
    return lines


def _sequences(names: Sequence[str]) -> str:
    """Return how many sequences there are, with the first ones by name."""
    return names[0] if len(names) == 1 else f"{len(names)} sequences ({some(names)})"


def _read(clip: Clip, path: Path, run: int, layout: str, odd: Oddities) -> files.SequenceResult:
    """Read one run of a clip's result."""
    if layout == "lorat":
        ours = files.read_result(path.parent, clip.name)
        boxes, scores, times = ours.boxes.copy(), ours.scores, ours.times
    else:
        boxes = files.parse_boxes(read_text(path, files.REMEDY).rstrip(), f"{path}: {clip.name}")
        boxes[:, :2] -= 1.0 if DATASETS[clip.dataset].one_based else 0.0
        scores = times = np.full(len(boxes), np.nan)
        stem, column = (clip.name, run) if layout == "got10k" else (path.stem, 0)
        if (beside := path.with_name(f"{stem}_time.txt")).is_file():
            table = parse_table(read_text(beside, files.REMEDY).rstrip(), f"{beside}: {clip.name}", remedy=files.REMEDY)
            if 1 in table.shape and len(table) != len(boxes):
                table = table.reshape(-1, 1)  # all on one line
            if len(table) == len(boxes):  # one column may be the first run's, or that of all of them
                times = table[:, min(column, table.shape[1] - 1)]
            else:
                odd["times"].setdefault(clip.name, f"{len(table)} times for {len(boxes)} rows")
    if len(boxes) < clip.annotated:
        raise UserError(f"{path}: {clip.name}: {len(boxes)} rows for {clip.annotated} frames; track the sequence again")
    count = min(len(boxes), max(len(clip.frames), clip.annotated))
    if len(boxes) > count:
        odd["cut"].setdefault(clip.name, f"{len(boxes)} rows for {count} frames")
    return files.SequenceResult(clip.name, boxes[:count], scores[:count], times[:count])


def _as_scored(clip: Clip, result: files.SequenceResult, layout: str, odd: Oddities) -> files.SequenceResult:
    """Return a result whose boxes are as toolkits score them: from the given box, each with a size."""
    boxes = result.boxes  # changed in place: nobody else has them
    truth = clip.tracks[0].boxes
    given = xyxy_to_xywh(truth[0])
    if what := _compare(boxes, given):
        odd[what].setdefault(clip.name, "")
    elif layout == "lorat":
        return result
    boxes[0] = given
    if clip.dataset not in _AS_THEY_ARE:
        for row in np.flatnonzero((boxes[1:, 2:] == 0.0).any(axis=1)) + 1:
            # In order: a row may repeat one that was itself replaced.
            if row < len(truth) and np.isfinite(truth[row]).all():
                boxes[row] = boxes[row - 1]
                odd["sizeless"].setdefault(clip.name, "")
    return result


def _compare(boxes: NDArray[np.float64], given: NDArray[np.float64]) -> str | None:
    """Return what is odd about the first of (N, 4) boxes, a key of `_NOTES`, or None."""
    difference = boxes[0] - given
    for what, shift in (("after", 1.0), ("before", -1.0)):
        if (np.abs(difference - [shift, shift, 0.0, 0.0]) <= _SAME).all():
            return what
    # Some trackers write whole numbers, which may be truncated.
    whole = bool((boxes == np.round(boxes)).all())
    same = np.abs(difference) < 1.0 if whole else np.abs(difference) <= _SAME
    return None if same.all() else "other"
