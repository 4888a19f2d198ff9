"""The join of results and ground truth: from boxes to the scores of a data set.

Everything here is a function of arrays, apart from GOT-10k's frame sizes, which come from image
headers where the annotations do not tell them. All scores are fractions of 1. Every sequence weighs
the same in the OPE scores; GOT-10k's own measures pool frames.

Of repeated runs, a sequence's curves are the mean over the runs, and what pools frames pools those
of all runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.measure.attributes import AttributeScores, attribute_scores, attributes_of
from lorat.evaluate.measure.matlab import MATLAB_SETS, matlab_curves, matlab_mean
from lorat.evaluate.measure.ope import (
    CORRECTED,
    Convention,
    ConventionName,
    Curves,
    convention_of,
    mean_curves,
    ope_curves,
)
from lorat.evaluate.measure.toolkits import (
    Got10kScores,
    TrackingNetScores,
    got10k_overlaps,
    got10k_scores,
    trackingnet_curves,
    trackingnet_scores,
)
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.registry import DATASETS
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import xywh_to_xyxy, xyxy_to_xywh


class Trajectory(Protocol):
    """What a tracker returned for the N frames of a sequence."""

    @property
    def boxes(self) -> NDArray[np.float64]:
        """(N, 4) x, y, w, h, 0-based continuous pixels."""

    @property
    def times(self) -> NDArray[np.float64]:
        """(N,) seconds a frame; NaN where not measured."""


Run = Mapping[str, Trajectory]
"""One tracker's results by sequence name."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class SequenceScores:
    """OPE scores of one sequence, read off its curves."""

    name: str
    frames: int
    """Annotated frames, the denominator of the curves."""
    invalid_frames: int
    """Those of them in which the object is absent or its box has no size."""
    curves: Curves
    norm_precision_corrected: float | None
    """At 0.20 with misses in invalid frames; None where the convention has these anyway."""
    fps: float | None
    """Tracked frames over seconds, of all runs; None where times are missing."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class DatasetScores:
    """Scores of a data set's split."""

    dataset: str
    split: str
    sequences: tuple[SequenceScores, ...]
    """In the order of the tree."""
    curves: Curves
    """The mean over the sequences, as the convention takes it."""
    norm_precision_corrected: float | None
    """The mean over the sequences; None where that is the convention, or no frame is invalid."""
    fps: float | None
    """All tracked frames of all runs over all their seconds, initialisation included; None without
    times."""
    got10k: Got10kScores | None = None
    """GOT-10k's own measures, where the tree has cover labels."""
    trackingnet: TrackingNetScores | None = None
    """TrackingNet's own measures, for its splits with ground truth."""
    unscored: tuple[str, ...] = ()
    """Sequences whose ground truth beyond the first frame the tree does not give."""
    convention: ConventionName = "published"
    """The one that the scores are in, which need not be the one asked for."""
    runs: int = 1
    """Repeated runs that the scores are the mean of."""
    attributes: tuple[AttributeScores, ...] = ()
    """In the same convention; empty where the sequences' attributes are not known."""


@dataclass(frozen=True, eq=False, slots=True)
class Scored:
    """A tracker's scores of a test set, and those of the tracker that never moves its first box."""

    tracker: DatasetScores
    still: DatasetScores

    @property
    def name(self) -> str:
        """``<dataset>-<split>``."""
        return f"{self.tracker.dataset}-{self.tracker.split}"


def score(
    clips: Sequence[Clip], runs: Sequence[Run], convention: ConventionName = "published"
) -> Scored | None:
    """Score results as `dataset_scores` does, beside the tracker that never moves."""
    ours = dataset_scores(clips, runs, convention)
    still = dataset_scores(clips, [never_moving_results(clips)], convention)
    return Scored(ours, still) if ours and still else None


def dataset_scores(
    clips: Sequence[Clip], runs: Sequence[Run], convention: ConventionName = "published"
) -> DatasetScores | None:
    """Score the results of a data set's split.

    Args:
        clips: the sequences to score, all of one data set and split.
        runs: of each run, at least one: results by sequence name; more than the clips' are ignored.
        convention: taken where the data set has it; elsewhere scores are as published.

    Returns:
        The scores, or None where the tree hides the ground truth beyond the first frame of every
        sequence (the test splits of GOT-10k and TrackingNet).

    Raises:
        UserError: if a sequence has no result in a run, or too few boxes.
    """
    scored = [clip for clip in clips if not _hides_truth(clip)]
    if not scored:
        return None
    dataset, split = scored[0].dataset, scored[0].split
    missing = [clip.name for clip in scored if any(clip.name not in run for run in runs)]
    if missing:
        raise UserError(
            f"{dataset}-{split}: {len(missing)} of {len(scored)} sequences have no result"
            f"{' in every run' if len(runs) > 1 else ''}, the first is {missing[0]}; track them "
            "first"
        )
    pairs = [(clip, [run[clip.name] for run in runs]) for clip in scored]
    sequences = tuple(sequence_scores(clip, results, convention) for clip, results in pairs)
    used = _used(dataset, convention)
    average = matlab_mean if used == "matlab" else mean_curves
    curves = {each.name: each.curves for each in sequences}
    return DatasetScores(
        dataset=dataset,
        split=split,
        sequences=sequences,
        curves=average(list(curves.values())),
        norm_precision_corrected=_mean_corrected(sequences),
        fps=_fps([result for _, results in pairs for result in results]),
        got10k=_got10k(pairs),
        trackingnet=_trackingnet(pairs),
        unscored=tuple(clip.name for clip in clips if _hides_truth(clip)),
        convention=used,
        runs=len(runs),
        attributes=attribute_scores(attributes_of(dataset, split) or {}, curves, average),
    )


def sequence_scores(
    clip: Clip, runs: Sequence[Trajectory], convention: ConventionName = "published"
) -> SequenceScores:
    """Score the results of one sequence against its annotated frames.

    Args:
        clip: its first track is the ground truth.
        runs: of each run, at least one: boxes for at least the annotated frames; those beyond are
            ignored.
        convention: taken where the data set has it; elsewhere scores are as published.

    Raises:
        UserError: if there are fewer boxes than annotated frames.
    """
    truth, visible = _truth(clip)
    predicted = [_predicted(clip, run) for run in runs]
    invalid = int((~visible).sum())

    def mean(counted: Convention) -> Curves:
        return mean_curves([ope_curves(boxes, truth, visible, counted) for boxes in predicted])

    corrected = None
    if _used(clip.dataset, convention) == "matlab":
        one_based = DATASETS[clip.dataset].one_based
        curves = mean_curves(
            [matlab_curves(boxes, truth, visible, one_based=one_based) for boxes in predicted]
        )
    else:
        published = convention_of(clip.dataset)
        curves = mean(published)
        if published.flatters:
            corrected = (mean(CORRECTED) if invalid else curves).norm_precision_20
    return SequenceScores(
        name=clip.name,
        frames=len(truth),
        invalid_frames=invalid,
        curves=curves,
        norm_precision_corrected=corrected,
        fps=_fps(runs),
    )


class _Still(NamedTuple):
    boxes: NDArray[np.float64]
    times: NDArray[np.float64]


def never_moving_results(clips: Sequence[Clip]) -> Run:
    """Return what the tracker that never moves its first box says of sequences; it has no times."""
    results = {}
    for clip in clips:
        first, frames = xyxy_to_xywh(clip.tracks[0].boxes[0]), len(clip.frames)
        results[clip.name] = _Still(np.tile(first, (frames, 1)), np.full(frames, np.nan))
    return results


def _hides_truth(clip: Clip) -> bool:
    return clip.annotated <= 1 < len(clip.frames)


def _used(dataset: str, convention: ConventionName) -> ConventionName:
    return convention if dataset in MATLAB_SETS else "published"


def _truth(clip: Clip) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return ground truth (xyxy) and visibility of the annotated frames."""
    track = clip.tracks[0]
    return track.boxes[: clip.annotated], track.visible[: clip.annotated]


def _predicted(clip: Clip, result: Trajectory) -> NDArray[np.float64]:
    """Return predictions (xyxy) of the annotated frames."""
    frames = len(_truth(clip)[0])
    if len(result.boxes) < frames:
        raise UserError(
            f"{clip.dataset}-{clip.split}: the result of {clip.name} has {len(result.boxes)} boxes "
            f"for {frames} annotated frames; track the sequence again"
        )
    return xywh_to_xyxy(result.boxes[:frames])


def _mean_corrected(sequences: Sequence[SequenceScores]) -> float | None:
    values = [each.norm_precision_corrected for each in sequences]
    known = [value for value in values if value is not None]  # all or none
    invalid = any(each.invalid_frames for each in sequences)
    return float(np.mean(known)) if known and invalid else None


def _fps(results: Sequence[Trajectory]) -> float | None:
    seconds = sum(float(result.times.sum()) for result in results)
    frames = sum(len(result.times) for result in results)
    return frames / seconds if seconds > 0.0 else None  # NaN is not > 0


_Pairs = Sequence[tuple[Clip, Sequence[Trajectory]]]  # a clip and its result in each run


def _got10k(pairs: _Pairs) -> Got10kScores | None:
    values = []
    for clip, results in pairs:
        cover = clip.tracks[0].cover
        if clip.dataset != "got10k" or cover is None:
            return None
        truth, _ = _truth(clip)
        of_frame, size = cover[: len(truth)], clip.frame_size()
        values += [got10k_overlaps(_predicted(clip, r), truth, of_frame, size) for r in results]
    return got10k_scores(values, [result.times for _, results in pairs for result in results])


def _trackingnet(pairs: _Pairs) -> TrackingNetScores | None:
    if pairs[0][0].dataset != "trackingnet":
        return None
    curves = [
        mean_curves([trackingnet_curves(_predicted(clip, r), _truth(clip)[0]) for r in results])
        for clip, results in pairs
    ]
    return trackingnet_scores(curves)
