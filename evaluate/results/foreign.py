"""Results that any tracker wrote: found, read into our coordinates, prepared as toolkits do it.

Nothing is made up or shifted silently: docs/results.md says where a layout counts from, which rows are taken, what is
done to boxes, and what is refused. A file that cannot be used leaves out its sequence, by name. Ours stay as they are.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.results import files
from lorat.evaluate.results.find import Names, find, told, tracker_of
from lorat.evaluate.results.formats import Rows, read_rows, unpacked
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.base.reading import summed_up
from lorat.prep.trees.base.text import parse_table, read_text
from lorat.prep.trees.registry import DATASETS
from lorat.shards.base.console import Update
from lorat.shards.base.errors import UserError, counted, some
from lorat.shards.pixels.geometry import xyxy_to_xywh

_SAME = 0.01  # pixels; the coarsest files with decimals have two
_AS_THEY_ARE = ("got10k", "trackingnet")  # their own toolkits score boxes without a size, as overlaps of 0
# Keys of `_NOTES`, and by how much the first box differs from the given one: in x and y, in w and h.
_SHIFTS = (
    *(("larger", 0.0, 1.0), ("smaller", 0.0, -1.0), ("after", 1.0, 0.0), ("before", -1.0, 0.0)),
    *(("half", 0.5, 0.0), ("half", -0.5, 0.0)),
)
_NOTES = {
    "after": "the first box is exactly one pixel right of and below the given one",
    "before": "the first box is exactly one pixel left of and above the given one",
    "half": "the first box is half a pixel off the given one, as pysot's family writes it; nothing to do",
    "larger": "the first box is exactly one pixel wider and higher than the given one",
    "smaller": "the first box is exactly one pixel narrower and lower than the given one",
    "corners": "the first box is given by its corners, the others by their size, as some of pysot's are; nothing to do",
    "all corners": "the boxes look like corners but are scored as x, y, width, height; write sizes if they are corners",
    "other": "the first box is not the given one",
    "spelt": "found under another spelling",
    "truth": "read from what its file calls ground truth",
    "images": "a row for every image: those of the scored frames are taken",
    "cut": "rows beyond the last frame are cut",
    "unneeded": "no rows for the last frames, which are not annotated; the last row stands for them",
    "coded": "frames with a code instead of a box are misses",
    "repaired": "rows that are no box are the row before, as the MATLAB toolkit has it",
    "times": "the time file does not fit, so its times are not used",
    "sizeless": "boxes without a size are replaced by the box before",
}
_AS_PUBLISHED = "scored as they are, and so are published numbers of such files"
_AGAIN = "track the sequence again"
_LISTED = "metrics.json of score --out has all"
_SHORTER = {("lasot_ext", "paddle-1", 2500): "its toolkit's own annotation is as short, the data set's is not"}
_SAYS_NOTHING = re.compile(r"default|baseline|unsupervised|(\w+_)?results?", re.IGNORECASE)


class _How(NamedTuple):
    repairs: bool | None
    as_written: bool


Oddities = defaultdict[str, dict[str, str]]  # key of `_NOTES` → sequence → detail, once for all runs


class NothingUsable(UserError):
    """A tracker has results of a test set, and none that can be used."""


class Foreign(NamedTuple):
    """The results of one tracker on one test set; as text, where they were found."""

    layout: str
    home: Path  # the first run's folder; in GOT-10k's layout that of the sequences' folders
    runs: Sequence[files.Run]  # the same sequences in every run; boxes as ours, x, y, w, h from 0
    missing: tuple[str, ...]  # clips without a result, or without one in every run
    notes: tuple[str, ...]  # what a person should know, a line each
    refused: Mapping[str, str]  # clip → why its result cannot be used, which a note says too

    @property
    def label(self) -> str:
        """What the folder calls its tracker; of ours, the evaluation's folder."""
        home = self.home.resolve()
        if self.layout == "lorat":
            return home.parent.parent.name if home.parent.name == "results" else home.name
        if _SAYS_NOTHING.fullmatch(named := tracker_of(home)):
            return tracker_of(home.parent)
        return named.removesuffix(".zip").removesuffix(".json")

    def __str__(self) -> str:
        return told(self.layout, self.home, self.runs)


def read_foreign(
    place: Path,
    clips: Sequence[Clip],
    layout: str = "auto",
    progress: Update | None = None,
    *,
    repairs: bool | None = None,
    as_written: bool = False,
) -> Foreign:
    """Read the results that a tracker wrote of some clips, at least one and all of one split, from what docs/results.md
    names; it may hold other data sets' too. First tracks are the ground truth. Boxes are as toolkits score them, or
    `as_written`. Rows that are no box (not finite, negative size) stay where the convention `repairs` them, else are
    refused (None: the set has no convention that would). A `UserError` if the layout is unknown, or the place is
    missing, has no result of the clips (`NothingUsable`: none that can be used), or can be read in several ways.
    """
    with unpacked(place) as folder:
        found = _read_all(folder, Names(clips), layout, progress, _How(repairs, as_written))
    home, *notes = (text.replace(str(folder), str(place)) for text in (str(found.home), *found.notes))
    refused = {name: why.replace(str(folder), str(place)) for name, why in found.refused.items()}
    return found._replace(home=Path(home), notes=tuple(notes), refused=refused)


def _read_all(folder: Path, names: Names, layout: str, progress: Update | None, how: _How) -> Foreign:
    layout, home, found = place = find(folder, names, layout)
    whole = [clip for clip in names.clips if all(clip.name in run for run in found)]
    missing = [clip.name for clip in names.clips if any(clip.name not in run for run in found)]
    partly = [name for name in missing if any(name in run for run in found)]
    notes = [f"{_sequences(partly)}: not in every run, so left out"] if partly else []
    if not whole:
        raise NothingUsable(f"{folder}: no sequence has a result in every run; {notes[0]}")
    notes += [f"{n}: no result of it; {like} is there, to be renamed if it is one" for n, like in names.alike(place)]
    odd, refused = Oddities(dict), dict[str, str]()
    runs: list[dict[str, files.SequenceResult]] = [{} for _ in found]
    for done, clip in enumerate(whole, start=1):
        try:
            read = [_read(clip, run[clip.name], number, layout, how, odd) for number, run in enumerate(found)]
        except UserError as error:
            refused[clip.name] = error.message
            for details in odd.values():
                details.pop(clip.name, None)
        else:
            for run, result in zip(runs, read, strict=True):
                run[clip.name] = result
            if layout != "lorat" and (called := place.called(clip.name)) not in names.exact(clip.name):
                odd["spelt"][clip.name] = called
        if progress:
            progress(done, len(whole))
    if not runs[0]:
        few = f"{folder}: none of its {len(refused)} results of {names.test_set} can be used: "
        raise NothingUsable(f"{few if len(refused) > 1 else ''}{some(list(refused.values()))}")
    used = [clip for clip in whole if clip.name not in refused]
    notes += [*_note_lines(odd, used, layout), *(f"left out: {why}" for why in summed_up(refused.items(), _LISTED))]
    return Foreign(layout, home, runs, tuple(missing), tuple(notes), refused)


def _note_lines(odd: Oddities, clips: Sequence[Clip], layout: str) -> list[str]:
    dataset = clips[0].dataset
    remedies = {
        "after": f"{_AS_PUBLISHED}; if all are shifted by a mistake, take 1 from every x and y",
        "before": f"{_AS_PUBLISHED}; if all are shifted by a mistake, add 1 to every x and y",
        "larger": "scored as they are",
        "smaller": "scored as they are",
        "other": "the given one is scored there",
    }
    if dataset.startswith("nfs"):
        remedies["larger"] = "made on pytracking's tree, which counts the last pixel in: score them on that tree"
        remedies["smaller"] = "made on the official tree, which leaves the last pixel out: score them on that tree"
    if DATASETS[dataset].one_based:
        shift, base, other = ("after", 1, "otb") if layout == "lorat" else ("before", 0, "lorat")
        remedies[shift] = f"{_AS_PUBLISHED}; score --layout {other} would read them as counting from {base}"
    right = len(clips) - len(set().union(*(odd.get(kind, ()) for kind in remedies)))
    lines = []
    for kind, details in ((kind, details) for kind, details in odd.items() if details):
        if kind == "spelt":
            pairs = some([f"{name} as {called}" for name, called in details.items()], 5)
            lines.append(f"{counted(len(details), 'sequence')} {_NOTES[kind]}: {pairs}")
            continue
        name, detail = next(iter(details.items()))
        detail = f"{name}: {detail}" if detail and len(details) > 1 else detail
        line = f"{_sequences(list(details))}: {_NOTES[kind]}{f' ({detail})' if detail else ''}"
        if kind in remedies:
            line += f"; {right} of {len(clips)} begin with the given box; {remedies[kind]}"
        lines.append(line)
    return lines


def _sequences(names: Sequence[str]) -> str:
    """Return how many sequences there are, with the first ones by name."""
    return names[0] if len(names) == 1 else f"{len(names)} sequences ({some(names)})"


def _read(clip: Clip, path: Path, run: int, layout: str, how: _How, odd: Oddities) -> files.SequenceResult:
    """Read one run of a clip's result; returns what is scored."""
    source = f"{path}: {clip.name}"
    if layout == "lorat":
        ours = files.read_result(path.parent, clip.name)
        rows, scores, times = Rows(ours.boxes.copy(), np.zeros(len(ours.boxes), np.bool_)), ours.scores, ours.times
    else:
        rows = read_rows(path, clip.dataset, source)
        rows.boxes[:, :2] -= 1.0 if DATASETS[clip.dataset].one_based else 0.0
        if rows.key == "gt_rect":
            odd["truth"][clip.name] = rows.key
        scores = np.full(len(rows.boxes), np.nan)
        times = _times(clip, path, (run if layout == "got10k" else None), rows, odd)
    taken = _rows_of_frames(clip, len(rows.boxes), source, odd)
    boxes, coded = rows.boxes[taken], rows.coded[taken]
    bad = ~coded & ~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= 0.0).all(axis=1))
    if bad.any():
        which = f"line {taken[np.argmax(bad)] + 1} is not finite or has a negative size"
        if not how.repairs:
            matlab = "" if how.repairs is None else "; --convention matlab takes the row before it"
            raise UserError(f"{source}: {which}; {files.REMEDY}{matlab}")
        boxes[~np.isfinite(boxes).all(axis=1)] = np.nan
        odd["repaired"].setdefault(clip.name, counted(int(bad.sum()), "row"))
    if coded[1:].any():
        odd["coded"].setdefault(clip.name, counted(int(coded[1:].sum()), "frame"))
    if not how.as_written:
        boxes = _as_scored(clip, boxes, bool(coded[0]), layout, odd)
    return files.SequenceResult(clip.name, boxes, scores[taken], times[taken])


def _times(clip: Clip, path: Path, run: int | None, rows: Rows, odd: Oddities) -> NDArray[np.float64]:
    """Return (N,) seconds a row, from the time file beside or in ``times``; one column may be that of all runs."""
    name, number = f"{path.stem if run is None else path.parent.name}_time.txt", len(rows.boxes)
    beside = next((file for file in (path.with_name(name), path.parent / "times" / name) if file.is_file()), None)
    if beside is None:
        return np.full(number, rows.seconds)
    table = parse_table(read_text(beside, files.REMEDY).rstrip(), f"{beside}: {clip.name}", remedy=files.REMEDY)
    if 1 in table.shape and len(table) != number:
        table = table.reshape(-1, 1)  # all on one line
    if len(table) == number:
        return table[:, min(run or 0, table.shape[1] - 1)]
    odd["times"].setdefault(clip.name, f"{counted(len(table), 'time')} for {counted(number, 'row')}")
    return np.full(number, np.nan)


def _rows_of_frames(clip: Clip, rows: int, source: str, odd: Oddities) -> NDArray[np.int64]:
    """Return which of a file's rows are those of the clip's frames, of the annotated ones at least."""
    frames, truth = max(len(clip.frames), clip.annotated), clip.tracks[0].boxes[: clip.annotated]
    if rows > frames and rows == clip.images:
        odd["images"].setdefault(clip.name, f"rows {clip.before + 1} to {clip.before + frames} of {rows}")
        return np.arange(clip.before, clip.before + frames)
    if rows > frames and clip.before:
        raise UserError(f"{source}: {rows} rows for {frames} of {clip.images} images: which are theirs? {_AGAIN}")
    if rows > frames:
        odd["cut"].setdefault(clip.name, f"{counted(rows, 'row')} for {counted(frames, 'frame')}")
    # A frame without annotation needs no row.
    needed = np.flatnonzero(np.isfinite(truth).all(axis=1) & (truth[:, 2:] > truth[:, :2]).all(axis=1))
    if rows <= (needed[-1] if len(needed) else 0):
        why = _SHORTER.get((clip.dataset, clip.name, rows), _AGAIN)
        raise UserError(f"{source}: {counted(rows, 'row')} for {counted(clip.annotated, 'frame')}; {why}")
    if rows < clip.annotated:
        odd["unneeded"].setdefault(clip.name, f"{counted(rows, 'row')} for {counted(clip.annotated, 'frame')}")
    return np.minimum(np.arange(max(min(rows, frames), clip.annotated)), rows - 1)


def _as_scored(clip: Clip, boxes: NDArray[np.float64], coded: bool, layout: str, odd: Oddities) -> NDArray[np.float64]:
    """Return (N, 4) boxes as toolkits score them: from the given box, which a code may stand for, each with a size."""
    truth = clip.tracks[0].boxes
    given = xyxy_to_xywh(truth[0])
    if what := None if coded else _compare(boxes, given):
        odd[what].setdefault(clip.name, "")
    elif layout == "lorat":
        return boxes
    boxes[0] = given
    if clip.dataset not in _AS_THEY_ARE:
        for row in np.flatnonzero((boxes[1:, 2:] == 0.0).any(axis=1)) + 1:
            # In order: a row may repeat one that was itself replaced.
            if row < len(truth) and np.isfinite(truth[row]).all():
                boxes[row] = boxes[row - 1]
                odd["sizeless"].setdefault(clip.name, "")
    return boxes


def _compare(boxes: NDArray[np.float64], given: NDArray[np.float64]) -> str | None:
    """Return what is odd about the first of (N, 4) boxes, a key of `_NOTES`, or None."""
    difference = boxes[0] - given
    for what, by, more in _SHIFTS:
        if (np.abs(difference - [by, by, more, more]) <= _SAME).all():
            return what
    whole = bool((boxes == np.round(boxes)).all())  # some trackers write whole numbers, which may be truncated
    if (np.abs(difference) < 1.0 if whole else np.abs(difference) <= _SAME).all():
        return None
    end = given[:2] + given[2:]
    if (np.abs(boxes[0] - [*given[:2], *end]) > 1.0 + _SAME).any():  # counted from 0, 1, or with the last pixel in
        return "other"
    nearer = np.abs(boxes[1:2, 2:] - given[2:]).sum() < np.abs(boxes[1:2, 2:] - end).sum()
    return "corners" if nearer else "all corners"
