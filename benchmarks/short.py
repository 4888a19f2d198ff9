"""Many short sequences: what their beginnings and their results cost.

- Beginnings: the engine with S-224 (`benchmarks.tracking`), sequences of 8 frames, 16 side by side and 16 opened ahead,
  where listing a folder takes 100 ms, as of a remote disk, against the same where it takes nothing.
- Results: of 60 sequences of 10 frames, written together as behind the tracking, against one file after another, each
  with flushes of its own.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.frames import SIZES, TreeSize, hd_clips
from benchmarks.timing import in_turn
from benchmarks.tracking import all_cores, longer, steady_predictor
from lorat.evaluate.results.files import SequenceResult, result_files
from lorat.evaluate.track import batch
from lorat.evaluate.track.batch import Work, track_clips
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.behind import written_behind
from lorat.shards.base.machine import usable_cores
from lorat.shards.base.storage import atomic_file

__all__ = ["run"]

_SIDE_BY_SIDE, _FRAMES, _LISTING = 16, 8, 0.1
_RESULTS, _LINES = 60, 10


def run(quick: bool) -> dict[str, float | str]:
    """Measure both.

    Args:
        quick: a narrow network, few sequences, one round.
    """
    return {**_beginnings(quick), **_results(1 if quick else 5)}


def _beginnings(quick: bool) -> dict[str, float | str]:
    predictor = steady_predictor(quick)
    clips = [clip for clip in hd_clips(TreeSize(4, 8)) if clip.frame_size() == SIZES[0]]
    short = longer(clips, _SIDE_BY_SIDE * (2 if quick else 4), 2 if quick else _FRAMES)
    look = batch.check_images

    def side(listing: float) -> Callable[[], int]:
        def late(clip: Clip) -> None:
            time.sleep(listing)
            look(clip)

        def track() -> int:
            work, threads = [Work(clip) for clip in short], usable_cores()
            with patch.object(batch, "check_images", late):
                for _ in track_clips(predictor, work, batch=_SIDE_BY_SIDE, threads=threads, ahead=_SIDE_BY_SIDE):
                    pass
            return sum(len(clip.frames) for clip in short)

        return track

    with all_cores():
        times = in_turn(1 if quick else 3, {"late": side(_LISTING), "soon": side(0.0)})
    return {
        "late_listing_fps": round(1.0 / times.median("late"), 2),
        "late_listing_of_soon": round(times.ratio("soon", "late"), 3),
    }


def _results(rounds: int) -> dict[str, float | str]:
    numbers = np.random.default_rng(0).uniform(0.0, 300.0, (_LINES, 4))
    results = [
        SequenceResult(f"sequence-{number}", numbers, numbers[:, 0], numbers[:, 1], np.full(_LINES, "tracked"))
        for number in range(_RESULTS)
    ]
    with tempfile.TemporaryDirectory(prefix="lorat-bench-short-", dir=".") as folder:  # often in memory elsewhere

        def together() -> int:
            with written_behind() as files:
                for result in results:
                    files.add(result_files(Path(folder) / "together", result))
            return _RESULTS

        def apart() -> int:
            for result in results:
                for path, data in result_files(Path(folder) / "apart", result).items():
                    with atomic_file(path) as file:
                        file.write(data)
            return _RESULTS

        times = in_turn(rounds, {"together": together, "apart": apart})
    return {
        "result_ms": round(1e3 * times.median("together"), 3),
        "results_together_speedup": round(times.ratio("apart", "together"), 2),
    }
