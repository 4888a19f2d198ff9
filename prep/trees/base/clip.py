"""What a tree reader yields: sequences of image files with the tracks annotated in them.

Boxes are xyxy float64 in continuous pixels of the original frame, 0-based (pixel column i covers
[i, i + 1)), as read: not clipped, not cleaned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.shards.pixels.jpeg import image_size

__all__ = ["Clip", "FrameFiles", "Track"]


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """The image files of one sequence in order, kept compactly."""

    folder: Path
    names: tuple[str, ...] | range
    """File names, or a range of numbers that `pattern` turns into names."""
    pattern: str = ""
    """printf pattern such as ``%08d.jpg``, used when `names` is a range."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Path:
        name = self.names[index]
        return self.folder / (name if isinstance(name, str) else self.pattern % name)

    def __iter__(self) -> Iterator[Path]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, eq=False, slots=True)
class Track:
    """One object through a sequence of N frames."""

    boxes: NDArray[np.float64]
    """(N, 4) xyxy; NaN rows where the tree gives no annotation."""
    visible: NDArray[np.bool_]
    """(N,) the tree's flags and a usable box (finite, positive width and height)."""
    cover: NDArray[np.int64] | None = None
    """(N,) GOT-10k's cover.label, 0 … 8; None elsewhere."""


@dataclass(frozen=True, eq=False, slots=True)
class Clip:
    """One sequence (a still image is a sequence of one frame) and its tracks."""

    dataset: str
    split: str
    name: str
    frames: FrameFiles
    tracks: tuple[Track, ...]
    annotated: int
    """Rows of ground truth in the tree: fewer than the frames where a test set hides them."""
    size: tuple[int, int] | None = None
    """(width, height) where the annotations tell it; None elsewhere."""
    first: int = 0
    """Frames that cleaning cut from the head: frame i here is frame first + i of the tree."""

    def frame_size(self) -> tuple[int, int]:
        """Return (width, height): from the annotations, else from the first image's header.

        Raises:
            ImageError: if the first image is missing or its header is damaged.
        """
        return self.size if self.size is not None else image_size(self.frames[0])
