"""Scores that GOT-10k's toolkit stored in a ``performance.json``, as it counted them: the file has no boxes.

The file has a tracker's scores ``overall`` and ``seq_wise``. Of most sets these are curves over the thresholds of
`ope`; of GOT-10k itself only AO, the share over 0.50, the speed and one pooled curve.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.measure.ope import CENTRE_THRESHOLDS, NORM_THRESHOLDS, OVERLAP_THRESHOLDS, Curves
from lorat.evaluate.measure.scores import DatasetScores, SequenceScores, combined, frames_a_second
from lorat.evaluate.measure.toolkits import Got10kScores
from lorat.evaluate.results.find import Names
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import UserError

_CURVES = {
    "success_curve": len(OVERLAP_THRESHOLDS),
    "precision_curve": len(CENTRE_THRESHOLDS),
    "normalized_precision_curve": len(NORM_THRESHOLDS),
}
_BINS = 101


def stored_scores(report: Mapping[str, Any], clips: Sequence[Clip], source: object) -> dict[str, DatasetScores]:
    """Return tracker → its scores of those of some clips, of one split, that a report has, of `toolkit_report`. Curves
    that it lacks are NaN. A `UserError` with `source` in it if it has no score of the clips, or not what the toolkit
    writes.
    """
    try:
        scores = {tracker: _scores(each, clips) for tracker, each in report.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source}: is not as GOT-10k's toolkit writes it ({error!r}); make its report again") from None
    if not all(scores.values()):
        raise UserError(f"{source}: has no score of {clips[0].dataset}-{clips[0].split}; give the report of that set")
    return {tracker: of for tracker, of in scores.items() if of}


def _scores(stored: Mapping[str, Any], clips: Sequence[Clip]) -> DatasetScores | None:
    overall, by_sequence, first = stored["overall"], stored["seq_wise"], clips[0]
    named = Names(clips).match(by_sequence)
    sequences = [_sequence(clip, by_sequence[named[clip.name]]) for clip in clips if clip.name in named]
    if not sequences:
        return None
    pooled = None
    if "ao" in overall and len(named) == len(by_sequence):
        frames = sum(int(each["length"]) for each in by_sequence.values())
        over = overall.get("succ_curve", [np.nan] * _BINS)  # the shares over 0, 0.01, …, 1
        if len(over) != _BINS:
            raise ValueError(f"succ_curve: {len(over)} values, not {_BINS}")
        pooled = Got10kScores(float(overall["ao"]), float(overall["sr"]), float(over[75]), frames, _speed(overall))
    return combined(sequences, first.dataset, first.split, fps=frames_a_second(sequences), got10k=pooled)


def _sequence(clip: Clip, stored: Mapping[str, Any]) -> SequenceScores:
    return SequenceScores(
        name=clip.name,
        frames=clip.annotated,
        invalid_frames=int((~clip.tracks[0].visible[: clip.annotated]).sum()),
        curves=Curves(*(_curve(stored, name, count) for name, count in _CURVES.items())),
        norm_precision_corrected=None,
        fps=_speed(stored),
    )


def _curve(stored: Mapping[str, Any], name: str, count: int) -> NDArray[np.float64]:
    if name not in stored:
        return np.full(count, np.nan)
    curve = np.array(stored[name], np.float64)
    if curve.shape != (count,):
        raise ValueError(f"{name}: {curve.shape} values, not {count}")
    return curve


def _speed(stored: Mapping[str, Any]) -> float | None:
    value = stored.get("speed_fps", stored.get("speed"))  # the second as GOT-10k's site writes it
    return float(value) if value and value > 0 else None  # -1 where it was not timed
