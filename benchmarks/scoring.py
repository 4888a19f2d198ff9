"""Scores of a test set as long as LaSOT's, from files: reading the annotations and the results too.

The tree and the results are made: 280 sequences with the official numbers of frames (685,360 in all), in LaSOT's layout
and ours, without images, which scoring does not open. The files have just been written, so they are in the page cache.
Against it stands numpy.loadtxt of the same files, which is what reading their numbers costs and no more.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.timing import in_turn
from lorat.evaluate.measure.scores import dataset_scores, never_moving_results
from lorat.evaluate.results.files import SequenceResult, read_results, write_result
from lorat.prep.trees.base.official import expected_frames
from lorat.prep.trees.registry import DATASETS, read_clips

__all__ = ["run"]

_ABSENT = 0.03  # of the frames, in LaSOT


def run(quick: bool) -> dict[str, float | str]:
    """Measure both ways.

    Args:
        quick: the first ten sequences, one round.

    Returns:
        Sequences, frames, seconds and processor seconds to score them beside a tracker that never moves (one thread:
        the two differ by what other processes took), frames a second, and how many times the processor time that is of
        loading the same files.
    """
    counts = dict(expected_frames("lasot", "test") or {})
    if quick:
        counts = dict(list(counts.items())[:10])
    with tempfile.TemporaryDirectory(prefix="lorat-bench-scoring-") as folder:
        tree, results = Path(folder) / "LaSOT", Path(folder) / "results"
        rng = np.random.default_rng(0)
        for name, frames in counts.items():
            _write(tree / name.rpartition("-")[0] / name, results, frames, rng)
        times = in_turn(
            1 if quick else 3, {"score": lambda: _score(tree, results), "load": lambda: _load(tree, results)}
        )
    frames, seconds = sum(counts.values()), times.median("score") * len(counts)
    cpu = statistics.median(times.cpu_seconds["score"]) * len(counts)
    return {
        "scoring_sequences": len(counts),
        "scoring_frames": frames,
        "scoring_s": round(seconds, 2),
        "scoring_cpu_s": round(cpu, 2),
        "scoring_frames_per_s": round(frames / seconds),
        "scoring_of_load": round(times.cpu_ratio("score", "load"), 3),
    }


def _write(sequence: Path, results: Path, frames: int, rng: np.random.Generator) -> None:
    """Write one sequence's annotations and a result that stays near them."""
    start = rng.uniform((0, 0, 40, 40), (900, 500, 300, 200))
    walk = start + rng.normal(0.0, 1.5, (frames, 4)).cumsum(axis=0)
    truth = np.clip(walk, (1, 1, 12, 12), (1200, 700, 600, 400)).round()
    flags = {"full_occlusion": rng.random(frames) < _ABSENT, "out_of_view": rng.random(frames) < _ABSENT}
    sequence.mkdir(parents=True)
    rows = "".join(f"{x:.0f},{y:.0f},{w:.0f},{h:.0f}\n" for x, y, w, h in truth)
    (sequence / "groundtruth.txt").write_text(rows, encoding="ascii")
    for name, values in flags.items():
        line = ",".join(map(str, values.astype(int)))
        (sequence / f"{name}.txt").write_text(line + "\n", encoding="ascii")
    boxes = truth + rng.normal(0.0, 4.0, (frames, 4))
    boxes[:, 2:] = np.abs(boxes[:, 2:]) + 1.0
    boxes[0] = truth[0]
    boxes[:, :2] -= 1.0  # the tree's boxes count from 1
    confidence, seconds = rng.random(frames), rng.uniform(0.01, 0.02, frames)
    write_result(results, SequenceResult(sequence.name, boxes, confidence, seconds))


def _score(tree: Path, results: Path) -> int:
    clips = read_clips(DATASETS["lasot"], "test", tree)
    run = read_results(results, [clip.name for clip in clips])
    scores = dataset_scores(clips, [run])
    dataset_scores(clips, [never_moving_results(clips)])
    return len(scores.sequences) if scores else 0


def _load(tree: Path, results: Path) -> int:
    files = [*tree.glob("*/*/*.txt"), *results.glob("*.txt")]
    for file in files:
        np.loadtxt(file, delimiter=",")
    return len(files) // 6


if __name__ == "__main__":
    print(json.dumps(run("--quick" in sys.argv), indent=1))
