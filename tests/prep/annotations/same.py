"""What the clips of an index must be: those of the reader, cleaned, in every field."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lorat.prep.annotations.cleaning import clean
from lorat.prep.trees.base.clip import Clip, Dataset
from lorat.prep.trees.registry import read_clips


def fresh(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Return the cleaned clips without an index."""
    read = [replace(c, size=c.frame_size()) for c in read_clips(dataset, split, root.resolve())]
    return [c for clip in read if (c := clean(clip, clip.size)) is not None]


def same_clips(found: Sequence[Clip], expected: Sequence[Clip]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.frames == b.frames and type(a.frames.names) is type(b.frames.names)
        for field in ("dataset", "split", "name", "annotated", "size", "first"):
            assert getattr(a, field) == getattr(b, field)
        for one, other in zip(a.tracks, b.tracks, strict=True):
            assert (one.cover is None) == (other.cover is None)
            for mine, theirs in ((one.boxes, other.boxes), (one.visible, other.visible), (one.cover, other.cover)):
                np.testing.assert_array_equal(mine, theirs)
                assert mine is None or mine.dtype == theirs.dtype
