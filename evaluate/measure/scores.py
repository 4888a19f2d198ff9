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
from lorat.evaluate.results.files import SequenceResult, never_moves
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.registry import DATASETS
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.geometry import xywh_to_xyxy, xyxy_to_xywh

__all__ = [
    "DatasetScores",
    "SequenceScores",
    "dataset_scores",
    "never_moving_results",
    "sequence_scores",
]


@dataclass(frozen=True, eq=False, slots=True)
class SequenceScores:
    """OPE scores of one sequence."""

    name: str
    frames: int
    """Annotated frames, the denominator of the curves."""
    invalid_frames: int
    """Those of them in which the object is absent or its box has no size."""
    auc: float
    op50: float
    op75: float
    precision: float
    norm_precision: float
    norm_precision_corrected: float | None
    """Without hits in frames that have no object; None where the convention has none."""
    success_curve: NDArray[np.float64]
    """(21,)"""
    precision_curve: NDArray[np.float64]
    """(51,)"""
    norm_precision_curve: NDArray[np.float64]
    """(51,)"""
    fps: float | None
    """Tracked frames over seconds, of all runs; None where times are missing."""


@dataclass(frozen=True, eq=False, slots=True)
class DatasetScores:
    """Scores of a data set's split: mean curves over the sequences, and what is read off them."""

    dataset: str
    split: str
    sequences: tuple[SequenceScores, ...]
    """In the order of the tree."""
    auc: float
    """Mean of the success curve's 21 points."""
    op50: float
    op75: float
    precision: float
    """At 20 pixels."""
    norm_precision: float
    """At 0.20, as the convention has it."""
    norm_precision_corrected: float | None
    """At 0.20 with misses in all frames that have no object. None where that is the convention,
    or where there are no such frames."""
    success_curve: NDArray[np.float64]
    """(21,) over `metrics.OVERLAP_THRESHOLDS`."""
    precision_curve: NDArray[np.float64]
    """(51,) over `metrics.CENTRE_THRESHOLDS`."""
    norm_precision_curve: NDArray[np.float64]
    """(51,) over `metrics.NORM_THRESHOLDS`."""
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


def sequence_scores(
    clip: Clip, runs: Sequence[SequenceResult], convention: ConventionName = "published"
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
    corrected = None
    if _used(clip.dataset, convention) == "matlab":
        one_based = DATASETS[clip.dataset].one_based
        curves = mean_curves(
            [matlab_curves(boxes, truth, visible, one_based=one_based) for boxes in predicted]
        )
    else:
        published = convention_of(clip.dataset)
        curves = _mean_ope(predicted, truth, visible, published)
        if published.flatters and invalid:
            corrected = _mean_ope(predicted, truth, visible, CORRECTED).norm_precision_20
    return SequenceScores(
        name=clip.name,
        frames=len(truth),
        invalid_frames=invalid,
        auc=curves.auc,
        op50=curves.op50,
        op75=curves.op75,
        precision=curves.precision_20,
        norm_precision=curves.norm_precision_20,
        norm_precision_corrected=corrected,
        success_curve=curves.success,
        precision_curve=curves.precision,
        norm_precision_curve=curves.norm_precision,
        fps=_fps(runs),
    )


def dataset_scores(
    clips: Sequence[Clip],
    runs: Sequence[Mapping[str, SequenceResult]],
    convention: ConventionName = "published",
) -> DatasetScores | None:
    """Score the results of a data set's split.

    Args:
        clips: the sequences to score, all of one data set and split, at least one.
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
    dataset, split = clips[0].dataset, clips[0].split
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
    curves = [_curves(scores) for scores in sequences]
    mean = average(curves)
    by_name = {clip.name: of_clip for clip, of_clip in zip(scored, curves, strict=True)}
    return DatasetScores(
        dataset=dataset,
        split=split,
        sequences=sequences,
        auc=mean.auc,
        op50=mean.op50,
        op75=mean.op75,
        precision=mean.precision_20,
        norm_precision=mean.norm_precision_20,
        norm_precision_corrected=_mean_corrected(sequences),
        success_curve=mean.success,
        precision_curve=mean.precision,
        norm_precision_curve=mean.norm_precision,
        fps=_fps([result for _, results in pairs for result in results]),
        got10k=_got10k(pairs),
        trackingnet=_trackingnet(pairs),
        unscored=tuple(clip.name for clip in clips if _hides_truth(clip)),
        convention=used,
        runs=len(runs),
        attributes=attribute_scores(attributes_of(dataset, split) or {}, by_name, average),
    )


def never_moving_results(clips: Sequence[Clip]) -> dict[str, SequenceResult]:
    """Return what the tracker that never moves its first box says of these sequences.

    Its scores and times are NaN, so there are no frames per second.
    """
    results = {}
    for clip in clips:
        boxes = never_moves(xyxy_to_xywh(clip.tracks[0].boxes[0]), len(clip.frames))
        unknown = np.full(len(boxes), np.nan)
        results[clip.name] = SequenceResult(clip.name, boxes, unknown, unknown)
    return results


def _hides_truth(clip: Clip) -> bool:
    return clip.annotated <= 1 < len(clip.frames)


def _used(dataset: str, convention: ConventionName) -> ConventionName:
    return convention if dataset in MATLAB_SETS else "published"


def _truth(clip: Clip) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return ground truth (xyxy) and visibility of the annotated frames."""
    track = clip.tracks[0]
    return track.boxes[: clip.annotated], track.visible[: clip.annotated]


def _predicted(clip: Clip, result: SequenceResult) -> NDArray[np.float64]:
    """Return predictions (xyxy) of the annotated frames."""
    frames = len(_truth(clip)[0])
    if len(result.boxes) < frames:
        raise UserError(
            f"{clip.dataset}-{clip.split}: the result of {clip.name} has {len(result.boxes)} boxes "
            f"for {frames} annotated frames; track the sequence again"
        )
    return xywh_to_xyxy(result.boxes[:frames])


def _mean_ope(
    predicted: Sequence[NDArray[np.float64]],
    truth: NDArray[np.float64],
    visible: NDArray[np.bool_],
    convention: Convention,
) -> Curves:
    return mean_curves([ope_curves(boxes, truth, visible, convention) for boxes in predicted])


def _curves(scores: SequenceScores) -> Curves:
    return Curves(scores.success_curve, scores.precision_curve, scores.norm_precision_curve)


def _mean_corrected(sequences: Sequence[SequenceScores]) -> float | None:
    if all(scores.norm_precision_corrected is None for scores in sequences):
        return None
    values = (
        scores.norm_precision
        if scores.norm_precision_corrected is None
        else scores.norm_precision_corrected
        for scores in sequences
    )
    return float(np.mean(list(values)))


def _fps(results: Sequence[SequenceResult]) -> float | None:
    seconds = sum(float(result.times.sum()) for result in results)
    frames = sum(len(result.times) for result in results)
    return frames / seconds if seconds > 0.0 else None  # NaN is not > 0


_Pairs = Sequence[tuple[Clip, Sequence[SequenceResult]]]  # a clip and its result in each run


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
    curves = []
    for clip, results in pairs:
        truth, _ = _truth(clip)
        curves.append(
            mean_curves([trackingnet_curves(_predicted(clip, r), truth) for r in results])
        )
    return trackingnet_scores(curves)
