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

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.results.files import SequenceResult, parse_boxes, read_result
from lorat.evaluate.results.find import ResultPlace, find_results
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.base.text import parse_table, read_text
from lorat.prep.trees.registry import DATASETS
from lorat.shards.base.errors import UserError, some
from lorat.shards.pixels.geometry import xyxy_to_xywh

_SAME = 0.01  # pixels; the coarsest files with decimals have two
_AS_THEY_ARE = ("got10k", "trackingnet")
"""Data sets whose own toolkits score boxes without a size, as overlaps of 0."""
_REMEDY = "correct it or track the sequence again"
_NOTES = {
    "after": "the first box is exactly one pixel right of and below the given one",
    "before": "the first box is exactly one pixel left of and above the given one",
    "other": "the first box is not the given one",
    "cut": "rows beyond the last frame are cut",
    "times": "the time file does not fit, so its times are not used",
    "sizeless": "boxes without a size are replaced by the box before",
}
_FIRST = ("after", "before", "other")

Oddities = defaultdict[str, dict[str, str]]
"""Key of `_NOTES` → sequence → detail; a sequence that is odd in several runs is there once."""


@dataclass(frozen=True, eq=False, slots=True)
class Foreign:
    """The results of one tracker on one test set."""

    place: ResultPlace
    """Where they were found, and in which layout."""
    runs: tuple[dict[str, SequenceResult], ...]
    """By sequence name, the same sequences in every run; boxes as ours, x, y, w, h from 0."""
    missing: tuple[str, ...]
    """Clips without a result, or without one in every run."""
    notes: tuple[str, ...]
    """What a person should know, a line each."""


def read_foreign(
    folder: Path,
    clips: Sequence[Clip],
    layout: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Foreign:
    """Read the results that a tracker wrote of some clips.

    Args:
        folder: where they are; see `find_results` for what it may be.
        clips: at least one, all of one split; their first tracks are the ground truth.
        layout: one of `Layout`.
        progress: called with the number of results read, and of all.

    Raises:
        UserError: as `find_results`; if a file does not parse, has too few rows, or a row that is
            not finite or has a negative size.
    """
    place = find_results(folder, clips, layout)
    whole = [clip for clip in clips if all(clip.name in run for run in place.runs)]
    missing = [clip.name for clip in clips if any(clip.name not in run for run in place.runs)]
    partly = [name for name in missing if any(name in run for run in place.runs)]
    notes = [f"{_sequences(partly)}: not in every run, so left out"] if partly else []
    if not whole:
        raise UserError(f"{folder}: no sequence has a result in every run; {notes[0]}")
    odd: Oddities = defaultdict(dict)
    runs = []
    for number, files in enumerate(place.runs):
        results = {}
        for index, clip in enumerate(whole, start=1):
            results[clip.name] = _read(clip, files[clip.name], number, place.layout, odd)
            progress(number * len(whole) + index, len(place.runs) * len(whole))
        runs.append(results)
    notes += _note_lines(odd, whole, place.layout)
    return Foreign(place, tuple(runs), tuple(missing), tuple(notes))


def _note_lines(odd: Oddities, clips: Sequence[Clip], layout: str) -> list[str]:
    begin_wrong = set().union(*(odd.get(kind, {}) for kind in _FIRST))
    one_based = DATASETS[clips[0].dataset].one_based
    lines = []
    for kind, details in odd.items():
        detail = next(iter(details.values()))
        line = f"{_sequences(list(details))}: {_NOTES[kind]}{f' ({detail})' if detail else ''}"
        if kind in _FIRST:
            right = len(clips) - len(begin_wrong)
            line += f"; {right} of {len(clips)} begin with the given box; "
        if kind == "other":
            line += "the given one is scored there"
        elif kind == "after" and one_based and layout == "lorat":
            line += "scored as they are: if they count from 1, read them with --layout otb"
        elif kind == "before" and one_based and layout != "lorat":
            line += "scored as they are: if they count from 0, read them with --layout lorat"
        elif kind in _FIRST:
            change = "take 1 from" if kind == "after" else "add 1 to"
            line += f"scored as they are: if all are shifted, {change} every x and y"
        lines.append(line)
    return lines


def _sequences(names: Sequence[str]) -> str:
    """Return how many sequences there are, with the first ones by name."""
    return names[0] if len(names) == 1 else f"{len(names)} sequences ({some(names)})"


def _read(clip: Clip, path: Path, run: int, layout: str, odd: Oddities) -> SequenceResult:
    """Read one run of a clip's result; returns what is scored."""
    if layout == "lorat":
        ours = read_result(path.parent, clip.name)
        boxes, scores, times = ours.boxes.copy(), ours.scores, ours.times
    else:
        boxes = parse_boxes(read_text(path, _REMEDY).rstrip(), f"{path}: {clip.name}")
        boxes[:, :2] -= 1.0 if DATASETS[clip.dataset].one_based else 0.0
        scores = np.full(len(boxes), np.nan)
        stem, column = (clip.name, run) if layout == "got10k" else (path.stem, 0)
        times = _read_times(path.with_name(f"{stem}_time.txt"), column, clip.name, scores, odd)
    if len(boxes) < clip.annotated:
        raise UserError(
            f"{path}: {clip.name}: {len(boxes)} rows for {clip.annotated} frames; every frame "
            "needs a row, so track the sequence again"
        )
    count = min(len(boxes), max(len(clip.frames), clip.annotated))
    if len(boxes) > count:
        odd["cut"].setdefault(clip.name, f"{len(boxes)} rows for {count} frames")
    boxes = _as_scored(clip, boxes[:count], layout, odd)
    return SequenceResult(clip.name, boxes, scores[:count], times[:count])


def _read_times(
    path: Path, run: int, name: str, unknown: NDArray[np.float64], odd: Oddities
) -> NDArray[np.float64]:
    """Return (N,) seconds a frame: `unknown` where there is no file, or one of another length."""
    if not path.is_file():
        return unknown
    times = parse_table(read_text(path, _REMEDY).rstrip(), f"{path}: {name}", remedy=_REMEDY)
    if 1 in times.shape and len(times) != len(unknown):
        times = times.reshape(-1, 1)  # all on one line
    if len(times) != len(unknown):
        odd["times"].setdefault(name, f"{len(times)} times for {len(unknown)} rows")
        return unknown
    # One column may be the first run's, or that of all of them.
    return times[:, min(run, times.shape[1] - 1)]


def _as_scored(
    clip: Clip, boxes: NDArray[np.float64], layout: str, odd: Oddities
) -> NDArray[np.float64]:
    """Return (N, 4) boxes as toolkits score them: from the given box, each with a size."""
    truth = clip.tracks[0].boxes
    given = xyxy_to_xywh(truth[0])
    what = _compare(boxes, given)
    if what:
        odd[what].setdefault(clip.name, "")
    if layout == "lorat" and what is None:
        return boxes
    boxes[0] = given
    if clip.dataset in _AS_THEY_ARE:
        return boxes
    sizeless = np.flatnonzero((boxes[1:, 2:] == 0.0).any(axis=1)) + 1
    for row in sizeless:  # in order: a row may repeat one that was itself replaced
        if row < len(truth) and np.isfinite(truth[row]).all():
            boxes[row] = boxes[row - 1]
            odd["sizeless"].setdefault(clip.name, "")
    return boxes


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
