"""Results that any tracker wrote, read into our coordinates and prepared as toolkits do it.

A row is x, y, w, h with commas, tabs or spaces between. In the layouts of other toolkits x and y
count as the data set's annotations do: from 1 in LaSOT and VastTrack, from 0 elsewhere. In ours
they count from 0 always.

Promise: nothing is made up. A sequence with fewer rows than annotated frames, or a row that is no
box, is refused by name and line; rows beyond the last frame are cut, and a note says so. The first
row is compared with the given box, which would show a wrong base; nothing is shifted silently.
Then, as toolkits do: the first row becomes the given box, and a row without a size becomes the row
before it (not in GOT-10k and TrackingNet, whose toolkits do not). Our own results begin with the
given box, and are scored as they are, as the evaluation scored them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.results.files import SequenceResult, read_result
from lorat.evaluate.results.find import LAYOUTS, PREFIXES, Files, Place, find_place
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.registry import DATASETS
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import xyxy_to_xywh

__all__ = ["LAYOUTS", "PREFIXES", "Foreign", "read_foreign"]

_SAME = 0.01  # pixels; the coarsest files with decimals have two
_SHOWN = 3  # sequences that a note lists by name
_AS_THEY_ARE = ("got10k", "trackingnet")
"""Data sets whose own toolkits score boxes without a size, as overlaps of 0."""
_EMPTY_FIELD = re.compile(r"(?m)(?:,|^)[ \t]*,")


@dataclass(frozen=True, eq=False, slots=True)
class Foreign:
    """The results of one tracker on one test set."""

    layout: str
    """The one found, or given."""
    runs: tuple[dict[str, SequenceResult], ...]
    """By sequence name, the same sequences in every run; boxes as ours, x, y, w, h from 0."""
    missing: tuple[str, ...]
    """Clips without a result, or without one in every run."""
    notes: tuple[str, ...]
    """What a person should know, a line each."""
    place: Place | None = None
    """Where the results were found."""


def read_foreign(
    folder: Path,
    clips: Sequence[Clip],
    layout: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Foreign:
    """Read the results that a tracker wrote of some clips.

    Args:
        folder: where they are; see `find_place` for what it may be.
        clips: at least one, all of one split; their first tracks are the ground truth.
        layout: one of `LAYOUTS`; ``auto`` tells it by what is there.
        progress: called with the number of results read, and of all.

    Raises:
        UserError: as `find_place`; if a file does not parse, has too few rows, or a row that is not
            finite or has a negative size.
    """
    place = find_place(folder, clips, layout)
    whole = [clip for clip in clips if all(clip.name in run for run in place.runs)]
    complete = {clip.name for clip in whole}
    missing = [clip.name for clip in clips if clip.name not in complete]
    notes = _Notes(place)
    runs = []
    for number, files in enumerate(place.runs):
        results = {}
        for index, clip in enumerate(whole):
            results[clip.name] = _read(clip, files[clip.name], number, notes)
            progress(number * len(whole) + index + 1, len(place.runs) * len(whole))
        runs.append(results)
    partly = [name for name in missing if any(name in run for run in place.runs)]
    lines = [f"{_some(partly)}: not in every run, so left out"] if partly else []
    if not whole:
        raise UserError(f"{folder}: no sequence has a result in every run; {lines[0]}")
    lines += notes.lines(clips[0].dataset, [clip.name for clip in whole])
    return Foreign(place.layout, tuple(runs), tuple(missing), tuple(lines), place)


@dataclass(eq=False, slots=True)
class _Notes:
    """What was odd in which sequences; a sequence that is odd in several runs counts once."""

    place: Place
    odd: dict[str, dict[str, str]] = field(default_factory=dict)
    """What → sequence → what to say of the first one."""

    def add(self, what: str, name: str, detail: str = "") -> None:
        self.odd.setdefault(what, {}).setdefault(name, detail)

    def lines(self, dataset: str, names: Sequence[str]) -> list[str]:
        lines = []
        right = sum(all(name not in self.odd.get(kind, ()) for kind in _FIRST) for name in names)
        for what, found in self.odd.items():
            detail = next(iter(found.values()))
            line = f"{_some(found)}: {what}{f' ({detail})' if detail else ''}"
            if what in _FIRST:
                line += f"; {right} of {len(names)} begin with the given box"
                line += _remedy(what, dataset, self.place.layout)
            lines.append(line)
        return lines


_AFTER = "the first box is exactly one pixel right of and below the given one"
_BEFORE = "the first box is exactly one pixel left of and above the given one"
_OTHER = "the first box is not the given one"
_FIRST = (_AFTER, _BEFORE, _OTHER)
_CUT = "rows beyond the last frame are cut"
_TIMES = "the time file does not fit, so its times are not used"
_SIZELESS = "boxes without a size are replaced by the box before"


def _remedy(what: str, dataset: str, layout: str) -> str:
    """Return what to do about first boxes that are a pixel off."""
    one_based = DATASETS[dataset].one_based
    if what == _AFTER and one_based and layout == "lorat":
        return "; scored as they are: if they count from 1, read them with --layout otb"
    if what == _BEFORE and one_based and layout != "lorat":
        return "; scored as they are: if they count from 0, read them with --layout lorat"
    if what == _OTHER:
        return "; the given one is scored there"
    change = "take 1 from" if what == _AFTER else "add 1 to"
    return f"; scored as they are: if all are shifted, {change} every x and y"


def _read(clip: Clip, files: Files, run: int, notes: _Notes) -> SequenceResult:
    """Read one run of a clip's result; returns what is scored."""
    layout = notes.place.layout
    if layout == "lorat":
        whole = read_result(files.boxes.parent, clip.name)
        boxes, scores, times = whole.boxes.copy(), whole.scores, whole.times
    else:
        boxes = _read_boxes(files.boxes, clip.name)
        boxes[:, :2] -= 1.0 if DATASETS[clip.dataset].one_based else 0.0
        scores = np.full(len(boxes), np.nan)
        times = _read_times(files, clip.name, run if layout == "got10k" else 0, boxes, notes)
    if len(boxes) < clip.annotated:
        raise UserError(
            f"{files.boxes}: {clip.name}: {len(boxes)} rows for {clip.annotated} frames; every "
            "frame needs a row, so track the sequence again"
        )
    count = min(len(boxes), max(len(clip.frames), clip.annotated))
    if len(boxes) > count:
        notes.add(_CUT, clip.name, f"{len(boxes)} rows for {count} frames")
    boxes = _prepared(clip, boxes[:count], layout, notes)
    return SequenceResult(clip.name, boxes, scores[:count], times[:count])


def _prepared(
    clip: Clip, boxes: NDArray[np.float64], layout: str, notes: _Notes
) -> NDArray[np.float64]:
    """Return (N, 4) boxes as toolkits score them: from the given box, each with a size."""
    truth = clip.tracks[0].boxes
    given = xyxy_to_xywh(truth[0])
    what = _compare(boxes, given)
    if what:
        notes.add(what, clip.name)
    if layout == "lorat" and what is None:
        return boxes
    boxes[0] = given
    if clip.dataset in _AS_THEY_ARE:
        return boxes
    sizeless = np.flatnonzero((boxes[1:, 2:] == 0.0).any(axis=1)) + 1
    for row in sizeless:  # in order: a row may repeat one that was itself replaced
        if row < len(truth) and np.isfinite(truth[row]).all():
            boxes[row] = boxes[row - 1]
            notes.add(_SIZELESS, clip.name)
    return boxes


def _compare(boxes: NDArray[np.float64], given: NDArray[np.float64]) -> str | None:
    """Return what is odd about the first of (N, 4) boxes, or None."""
    difference = boxes[0] - given
    for what, shift in ((_AFTER, 1.0), (_BEFORE, -1.0)):
        if (np.abs(difference - [shift, shift, 0.0, 0.0]) <= _SAME).all():
            return what
    # Some trackers write whole numbers, which may be truncated.
    whole = bool((boxes == np.round(boxes)).all())
    same = np.abs(difference) < 1.0 if whole else np.abs(difference) <= _SAME
    return None if same.all() else _OTHER


def _read_boxes(path: Path, name: str) -> NDArray[np.float64]:
    boxes = _read_numbers(path, name, 4)
    bad = np.flatnonzero(~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0.0).any(axis=1))
    if len(bad):
        raise UserError(
            f"{path}: line {bad[0] + 1} of {name} is not finite or has a negative size, which no "
            "toolkit scores; correct it or track the sequence again"
        )
    return boxes


def _read_times(
    files: Files, name: str, run: int, boxes: NDArray[np.float64], notes: _Notes
) -> NDArray[np.float64]:
    """Return (N,) seconds a frame; NaN where there is no file, or one of another length."""
    unknown = np.full(len(boxes), np.nan)
    if files.times is None:
        return unknown
    times = _read_numbers(files.times, name, None)
    if 1 in times.shape and len(times) != len(boxes):
        times = times.reshape(-1, 1)  # all on one line
    if len(times) != len(boxes):
        notes.add(_TIMES, name, f"{len(times)} times for {len(boxes)} rows")
        return unknown
    # One column may be the first run's, or that of all of them.
    return times[:, min(run, times.shape[1] - 1)]


def _read_numbers(path: Path, name: str, columns: int | None) -> NDArray[np.float64]:
    """Read a table of numbers; all rows have `columns` of them, or as many as the first.

    Raises:
        UserError: naming the sequence, the file and the line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace").rstrip()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); replace the file") from None
    if not text:
        raise UserError(f"{path}: the result of {name} is empty; track the sequence again")
    lines = text.splitlines()
    if not _EMPTY_FIELD.search(text):
        try:
            rows = np.loadtxt(text.replace(",", " ").splitlines(), comments=None, ndmin=2)
        except ValueError:
            rows = np.empty((0, 0))
        if len(rows) == len(lines) and columns in (None, rows.shape[1]):
            return rows
    raise _bad_line(path, name, lines, columns)


def _bad_line(path: Path, name: str, lines: Sequence[str], columns: int | None) -> UserError:
    """Build the error that names the first line at fault."""
    wanted = columns or len(lines[0].replace(",", " ").split())
    for number, line in enumerate(lines, start=1):
        fields = re.split(r"\s*,\s*|\s+", line.strip().removesuffix(",").rstrip())
        if len(fields) != wanted or not all(map(_is_number, fields)):
            return UserError(
                f"{path}: line {number} of {name} is '{line.strip()[:60]}' and should be {wanted} "
                f"number{'s' if wanted > 1 else ''}; correct it or track the sequence again"
            )
    return UserError(f"{path}: the result of {name} is no table of numbers; replace the file")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _some(names: Mapping[str, str] | Sequence[str]) -> str:
    """Return how many sequences there are, with the first ones by name."""
    shown = ", ".join(list(names)[:_SHOWN])
    if len(names) == 1:
        return shown
    return f"{len(names)} sequences ({shown}{', …' if len(names) > _SHOWN else ''})"
