"""The join of results and ground truth: from boxes to the scores of a data set.

Everything here is a function of arrays, apart from GOT-10k's frame sizes, which come from image
headers where the annotations do not tell them. All scores are fractions of 1. Every sequence weighs
the same in the OPE scores; GOT-10k's own measures pool frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.metrics import CORRECTED, Curves, convention_of, mean_curves, ope_curves
from lorat.evaluate.results import SequenceResult, never_moves
from lorat.evaluate.toolkits import (
    Got10kScores,
    TrackingNetScores,
    got10k_overlaps,
    got10k_scores,
    trackingnet_curves,
    trackingnet_scores,
)
from lorat.prep.trees.clip import Clip
from lorat.shards.errors import UserError
from lorat.shards.geometry import xywh_to_xyxy, xyxy_to_xywh

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
    """Without hits in frames that have no object; None where the published value has none."""
    success_curve: NDArray[np.float64]
    """(21,)"""
    precision_curve: NDArray[np.float64]
    """(51,)"""
    norm_precision_curve: NDArray[np.float64]
    """(51,)"""
    fps: float | None
    """Tracked frames over seconds; None where times are missing."""


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
    """At 0.20, as published."""
    norm_precision_corrected: float | None
    """At 0.20 with misses in all frames that have no object. None where that is the published
    convention, or where there are no such frames."""
    success_curve: NDArray[np.float64]
    """(21,) over `metrics.OVERLAP_THRESHOLDS`."""
    precision_curve: NDArray[np.float64]
    """(51,) over `metrics.CENTRE_THRESHOLDS`."""
    norm_precision_curve: NDArray[np.float64]
    """(51,) over `metrics.NORM_THRESHOLDS`."""
    fps: float | None
    """All tracked frames over all their seconds, initialisation included; None without times."""
    got10k: Got10kScores | None = None
    """GOT-10k's own measures, where the tree has cover labels."""
    trackingnet: TrackingNetScores | None = None
    """TrackingNet's own measures, for its splits with ground truth."""
    unscored: tuple[str, ...] = ()
    """Sequences whose ground truth beyond the first frame the tree does not give."""


def sequence_scores(clip: Clip, result: SequenceResult) -> SequenceScores:
    """Score the result of one sequence against its annotated frames.

    Args:
        clip: its first track is the ground truth.
        result: boxes for at least the annotated frames; those beyond are ignored.

    Raises:
        UserError: if there are fewer boxes than annotated frames.
    """
    predicted, truth, visible = _paired(clip, result)
    convention = convention_of(clip.dataset)
    curves = ope_curves(predicted, truth, visible, convention)
    invalid = int((~visible).sum())
    corrected = None
    if convention.flatters and invalid:
        corrected = ope_curves(predicted, truth, visible, CORRECTED).norm_precision_20
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
        fps=_fps([result]),
    )


def dataset_scores(
    clips: Sequence[Clip], results: Mapping[str, SequenceResult]
) -> DatasetScores | None:
    """Score the results of a data set's split.

    Args:
        clips: the sequences to score, all of one data set and split, at least one.
        results: by sequence name; more than the clips' are ignored.

    Returns:
        The scores, or None where the tree hides the ground truth beyond the first frame of every
        sequence (the test splits of GOT-10k and TrackingNet).

    Raises:
        UserError: if a sequence has no result or too few boxes.
    """
    scored = [clip for clip in clips if not _hides_truth(clip)]
    if not scored:
        return None
    missing = [clip.name for clip in scored if clip.name not in results]
    if missing:
        raise UserError(
            f"{clips[0].dataset}-{clips[0].split}: {len(missing)} of {len(scored)} sequences have "
            f"no result, the first is {missing[0]}; track them first"
        )
    pairs = [(clip, results[clip.name]) for clip in scored]
    sequences = tuple(sequence_scores(clip, result) for clip, result in pairs)
    mean = mean_curves([_curves(scores) for scores in sequences])
    return DatasetScores(
        dataset=clips[0].dataset,
        split=clips[0].split,
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
        fps=_fps([result for _, result in pairs]),
        got10k=_got10k(pairs),
        trackingnet=_trackingnet(pairs),
        unscored=tuple(clip.name for clip in clips if _hides_truth(clip)),
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


def _paired(
    clip: Clip, result: SequenceResult
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return predictions, ground truth (both xyxy) and visibility of the annotated frames."""
    track = clip.tracks[0]
    truth, visible = track.boxes[: clip.annotated], track.visible[: clip.annotated]
    if len(result.boxes) < len(truth):
        raise UserError(
            f"{clip.dataset}-{clip.split}: the result of {clip.name} has {len(result.boxes)} boxes "
            f"for {len(truth)} annotated frames; track the sequence again"
        )
    return xywh_to_xyxy(result.boxes[: len(truth)]), truth, visible


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


def _got10k(pairs: Sequence[tuple[Clip, SequenceResult]]) -> Got10kScores | None:
    values = []
    for clip, result in pairs:
        cover = clip.tracks[0].cover
        if clip.dataset != "got10k" or cover is None:
            return None
        predicted, truth, _ = _paired(clip, result)
        values.append(got10k_overlaps(predicted, truth, cover[: len(truth)], clip.frame_size()))
    return got10k_scores(values)


def _trackingnet(pairs: Sequence[tuple[Clip, SequenceResult]]) -> TrackingNetScores | None:
    if pairs[0][0].dataset != "trackingnet":
        return None
    matched = (_paired(clip, result) for clip, result in pairs)
    return trackingnet_scores([trackingnet_curves(p, truth) for p, truth, _ in matched])
