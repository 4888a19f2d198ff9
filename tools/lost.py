"""Draws docs/lost.png and prints the tables of docs/lost.md: how well a judge's "lost" fits frames without the object.

python tools/lost.py RAW OUT.png EVAL [EVAL ...]

RAW holds LaSOT's tree, each EVAL what lorat-eval wrote of its test set, with --redetect or without. The picture is of
those without, whose scores do not depend on the judge: other thresholds are judged anew.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.measure.ope import overlaps
from lorat.evaluate.results.files import read_result
from lorat.evaluate.track.folder import read_identity, result_folder
from lorat.evaluate.track.judge import Judge
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.pixels.geometry import xywh_to_xyxy

ON = 0.3  # overlap from which a box is on the object
THRESHOLDS = np.arange(0.3, 0.975, 0.025)
KINDS = {
    "recall: absent frames called lost": "#0b6e4f",
    "precision: lost frames in which it is absent": "#c44900",
    "lost frames whose box is off the object": "#3d5a80",
}


@dataclass(frozen=True, eq=False, slots=True)
class Tracked:
    """What is known of the T frames of a tracked sequence, the first left out."""

    scores: NDArray[np.float64]
    lost: NDArray[np.bool_]  # as it was judged
    absent: NDArray[np.bool_]
    overlap: NDArray[np.float64]  # 0 where it is absent


def read_sequences(raw: Path, out: Path) -> Iterator[Tracked]:
    """Yield the sequences of an evaluation."""
    for clip in read_clips(DATASETS["lasot"], "test", raw / "LaSOT"):
        result, track = read_result(result_folder(out, "lasot-test"), clip.name), clip.tracks[0]
        assert result.states is not None
        overlap = np.where(track.visible, overlaps(xywh_to_xyxy(result.boxes), track.boxes), 0.0)
        yield Tracked(result.scores[1:], result.states[1:] == "lost", ~track.visible[1:], overlap[1:])


def auc(sequences: Sequence[Tracked]) -> float:
    """Return the mean AUC over the frames after the first, absent ones as misses."""
    return float(np.mean([(s.overlap[:, None] > np.linspace(0, 1, 21)).mean() for s in sequences]))


def figures(sequences: Sequence[Tracked], lost: Sequence[NDArray[np.bool_]]) -> tuple[float, float, float]:
    """Return `KINDS` of judgements."""
    said, absent = np.concatenate(lost), np.concatenate([s.absent for s in sequences])
    off = np.concatenate([s.overlap for s in sequences]) <= ON
    where = (said[absent], absent[said], off[said])
    recall, precision, right = (float(values.mean()) if len(values) else np.nan for values in where)
    return recall, precision, right


def judged_anew(sequences: Sequence[Tracked], judge: Judge) -> list[NDArray[np.bool_]]:
    """Return what another judge says of the same scores."""
    return [np.array(judge.states(s.scores)[1:]) == "lost" for s in sequences]


def main() -> None:
    """Print and draw."""
    raw, picture, *folders = map(Path, sys.argv[1:])
    curves, default = [], Judge()
    print("| | AUC | recall | precision | box off |\n|---|---:|---:|---:|---:|")
    for out in folders:
        sequences, identity = list(read_sequences(raw, out)), read_identity(out)
        assert identity is not None
        now = (auc(sequences), *figures(sequences, [s.lost for s in sequences]))
        print(f"| {out.name} | " + " | ".join(f"{100 * value:.1f}" for value in now) + " |")
        if not identity.redetect:
            judges = [replace(default, lost=at, found=min(at + default.found - default.lost, 1.0)) for at in THRESHOLDS]
            curves.append([figures(sequences, judged_anew(sequences, judge)) for judge in judges])
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for number, (kind, colour) in enumerate(KINDS.items()):
        each = 100 * np.array(curves)[..., number]
        axes.plot(THRESHOLDS, each.T, color=colour, linewidth=0.7, alpha=0.5)
        axes.plot(THRESHOLDS, each.mean(axis=0), color=colour, linewidth=2.2, label=kind)
    axes.axvline(default.lost, color="0.4", linestyle=":", label=f"default, {default.lost}")
    axes.set(xlabel="lost below this share of the usual score, twice in a row", ylabel="per cent", ylim=(0, 101))
    axes.grid(alpha=0.25)
    axes.legend(loc="lower left", fontsize=9)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
