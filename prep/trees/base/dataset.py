"""One data set's row in the table of data sets: its names, folders, splits and reader."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import UserError

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
    read: Reader
    prep_split: str | None = None
    """The split that a bare name means when shards are built; None: not built without a split."""
    eval_split: str | None = None
    """The split that a bare name means when a tracker is scored; None: not scored."""
    one_based: bool = False
    """Whether boxes on disk are 1-based: read minus 1, exported plus 1 (x and y only)."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise UserError(
                f"data set '{self.name}': a name is lower-case letters, digits and _, without the "
                "- that comes before a split; rename it"
            )
        if isinstance(self.splits, str):
            raise UserError(f"data set '{self.name}': splits must be a tuple, as in ('train',)")
        for split in (self.prep_split, self.eval_split):
            if split is not None and self.splits and split not in self.splits:
                raise UserError(
                    f"data set '{self.name}': '{split}' is none of its splits, "
                    f"{', '.join(self.splits)}; correct prep_split or eval_split"
                )
        if isinstance(self.folder, Mapping) and self.folder.keys() != set(self.splits):
            raise UserError(
                f"data set '{self.name}': folder must be one name, or a name for each of its splits"
            )

    def folder_of(self, split: str) -> str:
        """Return the folder under RAW that holds `split`."""
        return self.folder if isinstance(self.folder, str) else self.folder[split]
