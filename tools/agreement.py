"""Prints how far the boxes of evaluations overlap those of a first one: what another number type or engine changes.

python tools/agreement.py SET NAME=DIR FIRST EVAL [EVAL ...]

SET is a test set (otb), NAME=DIR its tree as `lorat-eval --root` takes it, FIRST and each EVAL what `lorat-eval --out`
wrote. Frames count, after a sequence's first, in which both boxes overlap the truth by at least half: where one has
lost the object, the two have nothing to do with each other.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.measure.ope import overlaps
from lorat.evaluate.results.files import read_result
from lorat.evaluate.track.folder import result_folder
from lorat.evaluate.track.testsets import TestSet, choose_test_sets
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.pixels.geometry import xywh_to_xyxy

FOLLOWED = 0.5  # overlap with the truth


def agreements(tests: TestSet, first: Path, other: Path) -> Iterator[NDArray[np.float64]]:
    """Yield the overlaps (N,) of the boxes of two evaluations in the N frames of each sequence that count."""
    for clip in tests.clips:
        track = clip.tracks[0]
        one, two = (xywh_to_xyxy(read_result(result_folder(e, tests.name), clip.name).boxes) for e in (first, other))
        both = track.visible & (overlaps(one, track.boxes) >= FOLLOWED) & (overlaps(two, track.boxes) >= FOLLOWED)
        both[0] = False
        yield overlaps(one, two)[both]


def main(name: str, root: str, first: str, *others: str) -> None:
    """Print a line for each evaluation."""
    (tests,) = choose_test_sets([name], [], TreeOptions(root=(root,)))
    for other in others:
        found = np.concatenate(list(agreements(tests, Path(first), Path(other))))
        print(f"{other}: {found.mean():.3f} in the mean of {found.size:,} frames")


if __name__ == "__main__":
    main(*sys.argv[1:])
