"""One data set's row in the table of data sets: its names, folders, splits and reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lorat.prep.trees.clip import Clip

__all__ = ["Dataset", "Reader"]

Reader = Callable[["Dataset", str, Path], list[Clip]]
"""``read(dataset, split, root)``: the split's clips that are on disk, in a fixed order."""


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """A data set that can be read."""

    name: str
    """Short name, as commands, recipes and result folders write it."""
    folder: str | Mapping[str, str]
    """Folder under RAW; a mapping from split to folder where the splits are separate trees."""
    splits: tuple[str, ...]
    """Known splits; empty where any folder name is one."""
    prep_split: str | None
    """The split that a bare name means when shards are built; None: not built without a split."""
    eval_split: str | None
    """The split that a bare name means when a tracker is scored; None: not scored."""
    one_based: bool
    """Whether boxes on disk are 1-based: read minus 1, exported plus 1 (x and y only)."""
    read: Reader

    def folder_of(self, split: str) -> str:
        """Return the folder under RAW that holds `split`."""
        return self.folder if isinstance(self.folder, str) else self.folder[split]
