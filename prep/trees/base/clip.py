"""What a data set is, and what its reader yields: sequences of image files with their tracks.

Boxes are xyxy float64 in continuous pixels of the original frame, 0-based (pixel column i covers [i, i + 1)), as read:
not clipped, not cleaned.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorat.shards.base.errors import UserError
from lorat.shards.pixels.jpeg import Range16, image_size, range_of, read_image


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """The image files of one sequence in order, kept compactly."""

    folder: Path
    names: tuple[str, ...] | range  # file names, or numbers that `pattern` turns into names
    pattern: str = ""  # printf pattern such as ``%08d.jpg``, used when `names` is a range
    range16: Range16 | None = None  # how `read` stretches 16 bits a pixel

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Path:
        name = self.names[index]
        return self.folder / (name if isinstance(name, str) else self.pattern % name)

    def __iter__(self) -> Iterator[Path]:
        return (self[i] for i in range(len(self)))

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return a frame as (H, W, 3) uint8 RGB; errors as of `read_image`."""
        return read_image(self[index], self.range16 and range_of(self[0], self.range16))


@dataclass(frozen=True, eq=False, slots=True)
class Track:
    """One object through a sequence of N frames."""

    boxes: NDArray[np.float64]  # (N, 4) xyxy; NaN rows where the tree gives no annotation
    visible: NDArray[np.bool_]  # (N,) the tree's flags and a usable box (finite, positive width and height)
    cover: NDArray[np.int64] | None = None  # (N,) GOT-10k's cover.label, 0 … 8; None elsewhere
    flagged: NDArray[np.bool_] | None = None  # (N,) absent, as the tree's own flags say; None where it has none


@dataclass(frozen=True, eq=False, slots=True)
class Clip:
    """One sequence (a still image is a sequence of one frame) and its tracks."""

    dataset: str
    split: str
    name: str
    frames: FrameFiles
    tracks: tuple[Track, ...]
    annotated: int  # rows of ground truth in the tree: fewer than the frames where a test set hides them
    size: tuple[int, int] | None = None  # (width, height) where the annotations tell it; None elsewhere
    first: int = 0  # frames that cleaning cut from the head: frame i here is frame first + i of the tree
    before: int = 0  # images of the sequence's folder before its first frame
    images: int = 0  # images in that folder, where only a span of them is annotated; else 0

    def stretched(self, range16: Range16 | None) -> "Clip":
        """Return the clip with frames that are read so."""
        return replace(self, frames=replace(self.frames, range16=range16)) if range16 else self

    def frame_size(self) -> tuple[int, int]:
        """Return (width, height): from the annotations, else the first image's header; an `ImageError` of that."""
        return self.size if self.size is not None else image_size(self.frames[0])


Reader = Callable[["Dataset", str, Path], list[Clip]]
"""``read(dataset, split, root)``: the split's clips that are on disk, in a fixed order."""


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """A data set that can be read: its row in the table of data sets."""

    name: str  # short, as commands, recipes and result folders write it
    folder: str | Mapping[str, str]  # under RAW; split → folder where the splits are separate trees
    splits: tuple[str, ...]  # empty where any folder name is one
    read: Reader
    prep_split: str | None = None  # that a bare name means when shards are built; None: not built without a split
    eval_split: str | None = None  # that a bare name means when a tracker is scored; None: not scored
    one_based: bool = False  # whether boxes on disk are 1-based: read minus 1, exported plus 1 (x and y only)
    looks: str | Mapping[str, str] = ""  # globs of what a tree, or a split's, has under its root, with " or " between

    def __post_init__(self) -> None:
        wrong = None
        odd = {self.prep_split, self.eval_split}.difference([None, *self.splits])
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            wrong = "a name is lower-case letters, digits and _, without the - before a split"
        elif isinstance(self.splits, str):
            wrong = "splits must be a tuple, as in ('train',)"
        elif self.splits and odd:
            wrong = f"default split '{odd.pop()}' is none of its splits, {', '.join(self.splits)}"
        elif isinstance(self.folder, Mapping) and self.folder.keys() != set(self.splits):
            wrong = "folder must be one name, or a name for each of its splits"
        if wrong:
            raise UserError(f"data set '{self.name}': {wrong}")

    def folders(self, split: str | None = None) -> list[str]:
        """Return the folder of a split under RAW, or those of all."""
        if isinstance(self.folder, str):
            return [self.folder]
        return [self.folder[split]] if split else list(self.folder.values())


def make_track(
    xywh: NDArray[np.float64],
    frames: int,
    *,
    one_based: bool = False,
    absent: NDArray | None = None,
    cover: NDArray[np.int64] | None = None,
) -> Track:
    """Build a track of N `frames` from the boxes of a tree, (R, 4) as written; rows R … N - 1 have no annotation.
    `one_based` subtracts 1 from x and y; `absent`, (R,), is non-zero where the tree says that the object is not
    visible; `cover`, (R,), is GOT-10k's share of the object that is visible.
    """
    rows = len(xywh)
    boxes, visible = np.full((frames, 4), np.nan), np.zeros(frames, np.bool_)
    boxes[:rows, :2] = xywh[:, :2] - (1.0 if one_based else 0.0)
    boxes[:rows, 2:] = boxes[:rows, :2] + xywh[:, 2:]
    visible[:rows] = np.isfinite(xywh).all(axis=1) & (xywh[:, 2:] > 0).all(axis=1)
    flagged = None
    if absent is not None:
        visible[:rows] &= absent == 0
        flagged = np.concatenate([absent != 0, np.zeros(frames - rows, np.bool_)])
    if cover is not None:
        cover = np.concatenate([cover, np.zeros(frames - rows, dtype=np.int64)])
    return Track(boxes, visible, cover, flagged)


def make_clip(
    dataset: Dataset,
    split: str,
    name: str,
    frames: FrameFiles,
    xywh: NDArray[np.float64],
    whole: Sequence[str] = (),
    **flags: NDArray | None,
) -> Clip:
    """Build a clip of one track from the fields of `Clip`, the `whole` folder's images in order, and `make_track`'s."""
    track = make_track(xywh, len(frames), one_based=dataset.one_based, **flags)
    before = whole.index(frames[0].name) if len(frames) and frames[0].name in whole else 0
    images = len(whole) if len(whole) > min(len(xywh), len(frames)) else 0
    return Clip(dataset.name, split, name, frames, (track,), len(xywh), before=before, images=images)
