"""The join of results and ground truth: from boxes to the scores of a data set, all fractions of 1.

All are functions of arrays, but for GOT-10k's frame sizes: image headers where annotations do not tell them. Sequences
weigh the same in OPE; GOT-10k pools frames. Of repeated runs curves are the mean, and pooled are the frames of all.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.measure import ope, toolkits
from lorat.evaluate.measure.attributes import AttributeScores, attribute_scores, attributes_of
from lorat.evaluate.measure.matlab import MATLAB_SETS, matlab_curves, matlab_mean
from lorat.evaluate.measure.ope import ConventionName, Curves, mean_curves
from lorat.evaluate.results.files import Run, SequenceResult
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.registry import DATASETS
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import xywh_to_xyxy, xyxy_to_xywh

NEVER_MOVING = "never moving"  # what reports call the tracker that repeats its first box
_MEANS = {"published": mean_curves, "matlab": matlab_mean}


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class SequenceScores:
    """OPE scores of one sequence, read off its curves."""

    name: str
    frames: int  # annotated, the denominator of the curves
    invalid_frames: int  # those of them in which the object is absent or its box has no size
    curves: Curves
    norm_precision_corrected: float | None  # at 0.20, misses in invalid frames; None where these are the convention
    fps: float | None  # tracked frames over seconds, of all runs; None where times are missing


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class DatasetScores:
    """Scores of a data set's split."""

    dataset: str
    split: str
    sequences: tuple[SequenceScores, ...]
    curves: Curves  # the mean over the sequences, which stand in the order of the tree, as the convention takes it
    norm_precision_corrected: float | None  # the mean; None where that is the convention, or no frame is invalid
    fps: float | None  # all tracked frames of all runs over all their seconds, initialisation included
    latency: float | None = None  # milliseconds from a frame to its box, of one sequence alone, where that was measured
    got10k: toolkits.Got10kScores | None = None  # its own measures, where the tree has cover labels
    trackingnet: toolkits.TrackingNetScores | None = None  # its own measures, for its splits with ground truth
    unscored: tuple[str, ...] = ()  # sequences whose ground truth beyond the first frame the tree does not give
    convention: ConventionName = "published"  # the one that the scores are in, which need not be the one asked for
    runs: int = 1  # repeated runs that the scores are the mean of
    attributes: tuple[AttributeScores, ...] = ()

    @property
    def name(self) -> str:
        """``<dataset>-<split>``."""
        return f"{self.dataset}-{self.split}"


class Entry(NamedTuple):
    """A tracker's scores of a test set, and what it is called."""

    label: str
    scores: DatasetScores


def score(
    clips: Sequence[Clip], runs: Sequence[Run], label: str, convention: ConventionName = "published"
) -> list[Entry]:
    """Score results as `dataset_scores` does, and after them the tracker that never moves; nothing without truth."""
    ours = dataset_scores(clips, runs, convention)
    still = dataset_scores(clips, [never_moving_results(clips)], convention)
    return [Entry(label, ours), Entry(NEVER_MOVING, still)] if ours and still else []


def never_moving_results(clips: Sequence[Clip]) -> Run:
    """Return what the tracker that never moves its first box says of sequences; it has no scores and no times."""
    results = {}
    for clip in clips:
        boxes, none = np.tile(clip.tracks[0].boxes[0], (len(clip.frames), 1)), np.full(len(clip.frames), np.nan)
        results[clip.name] = SequenceResult(clip.name, xyxy_to_xywh(boxes), none, none)
    return results


def dataset_scores(
    clips: Sequence[Clip], runs: Sequence[Run], convention: ConventionName = "published"
) -> DatasetScores | None:
    """Score the results of a data set's split; None where the tree hides the truth of every sequence. The clips are of
    one data set and split; their first tracks are the ground truth. Of the runs, at least one, other sequences and
    boxes beyond the annotated frames are ignored; a `UserError` if one lacks a sequence, or has fewer boxes than
    annotated frames. The convention is taken where the data set has it; elsewhere scores are as published.
    """
    scored = [clip for clip in clips if not hides_truth(clip)]
    if not scored:
        return None
    dataset, split = scored[0].dataset, scored[0].split
    if missing := [clip.name for clip in scored if any(clip.name not in run for run in runs)]:
        lacking = f"no result{' in every run' if len(runs) > 1 else ''}, the first is {missing[0]}; track them first"
        raise UserError(f"{dataset}-{split}: {len(missing)} of {len(scored)} sequences have {lacking}")
    if dataset not in MATLAB_SETS:
        convention = "published"
    tracked = [_Tracked(clip, [run[clip.name] for run in runs]) for clip in scored]
    sequences = tuple(_sequence_scores(each, convention) for each in tracked)
    return combined(
        sequences,
        dataset,
        split,
        convention,
        fps=_fps([times for each in tracked for times in each.times]),
        got10k=_got10k(tracked) if dataset == "got10k" else None,
        trackingnet=_trackingnet(tracked) if dataset == "trackingnet" else None,
        unscored=tuple(clip.name for clip in clips if hides_truth(clip)),
        runs=len(runs),
    )


def combined(
    sequences: Sequence[SequenceScores], dataset: str, split: str, convention: ConventionName = "published", **more: Any
) -> DatasetScores:
    """Return the scores of a split from those of its sequences, at least one, and further fields."""
    curves = {each.name: each.curves for each in sequences}
    invalid = any(each.invalid_frames for each in sequences)
    corrected = [v for each in sequences if (v := each.norm_precision_corrected) is not None]
    average = _MEANS[convention]
    return DatasetScores(
        dataset=dataset,
        split=split,
        sequences=tuple(sequences),
        curves=average(list(curves.values())),
        norm_precision_corrected=float(np.mean(corrected)) if corrected and invalid else None,
        convention=convention,
        attributes=attribute_scores(attributes_of(dataset, split) or {}, curves, average),
        **more,
    )


def part(scores: DatasetScores, names: Collection[str]) -> DatasetScores:
    """Return the scores over the named ones of the sequences, at least one; a part loses what pools all frames."""
    sequences = [each for each in scores.sequences if each.name in names]
    if len(sequences) == len(scores.sequences):
        return scores
    fps = frames_a_second(sequences)
    return combined(sequences, scores.dataset, scores.split, scores.convention, fps=fps, runs=scores.runs)


def frames_a_second(sequences: Sequence[SequenceScores]) -> float | None:
    """Return the frames of sequences over their seconds; None where one was not timed."""
    seconds = [each.frames / each.fps for each in sequences if each.fps]
    return sum(each.frames for each in sequences) / sum(seconds) if len(seconds) == len(sequences) else None


def hides_truth(clip: Clip) -> bool:
    """Return whether the tree gives no ground truth beyond the first frame."""
    return clip.annotated <= 1 < len(clip.frames)


class _Tracked:
    """The annotated frames of a sequence, and what a tracker said of them in each run."""

    def __init__(self, clip: Clip, runs: Sequence[SequenceResult]) -> None:
        self.clip, track = clip, clip.tracks[0]
        self.truth, self.visible = track.boxes[: clip.annotated], track.visible[: clip.annotated]
        self.flagged = None if track.flagged is None else track.flagged[: clip.annotated]
        if short := [len(run.boxes) for run in runs if len(run.boxes) < len(self.truth)]:
            counts = f"{short[0]} boxes for {len(self.truth)} annotated frames; track the sequence again"
            raise UserError(f"{clip.dataset}-{clip.split}: the result of {clip.name} has {counts}")
        self.predicted = [xywh_to_xyxy(run.boxes[: len(self.truth)]) for run in runs]
        self.times = [run.times for run in runs]


def _sequence_scores(tracked: _Tracked, convention: ConventionName) -> SequenceScores:
    name, truth, visible = tracked.clip.dataset, tracked.truth, tracked.visible
    invalid, corrected = int((~visible).sum()), None

    def mean(counted: ope.Convention) -> Curves:
        return mean_curves([ope.ope_curves(boxes, truth, visible, counted) for boxes in tracked.predicted])

    if convention == "matlab":
        how = {"removes": MATLAB_SETS[name], "one_based": DATASETS[name].one_based}
        curves = mean_curves([matlab_curves(boxes, truth, tracked.flagged, **how) for boxes in tracked.predicted])
    else:
        published = ope.convention_of(name)
        curves = mean(published)
        if published.flatters:
            corrected = (mean(ope.CORRECTED) if invalid else curves).norm_precision_20
    return SequenceScores(
        name=tracked.clip.name,
        frames=len(truth),
        invalid_frames=invalid,
        curves=curves,
        norm_precision_corrected=corrected,
        fps=_fps(tracked.times),
    )


def _fps(times: Sequence[NDArray[np.float64]]) -> float | None:
    seconds = sum(float(of_run.sum()) for of_run in times)
    return sum(map(len, times)) / seconds if seconds > 0.0 else None  # NaN is not > 0


def _got10k(tracked: Sequence[_Tracked]) -> toolkits.Got10kScores | None:
    values = []
    for each in tracked:
        cover = each.clip.tracks[0].cover
        if cover is None:
            return None
        rest = each.truth, cover[: len(each.truth)], each.clip.frame_size()
        values += [toolkits.got10k_overlaps(boxes, *rest) for boxes in each.predicted]
    return toolkits.got10k_scores(values, [times for each in tracked for times in each.times])


def _trackingnet(tracked: Sequence[_Tracked]) -> toolkits.TrackingNetScores:
    of_runs = ([toolkits.trackingnet_curves(boxes, each.truth) for boxes in each.predicted] for each in tracked)
    return toolkits.trackingnet_scores([*map(mean_curves, of_runs)])
