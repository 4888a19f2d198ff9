"""Which trees a command line asks for: names, splits and folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorat.prep.trees.base.dataset import Dataset
from lorat.prep.trees.registry import DATASETS, parse_name
from lorat.prep.trees.roots import find_root, missing_roots
from lorat.shards.base.errors import UserError

__all__ = ["ALL", "RAW", "Source", "find_sources", "split_names"]

ALL = ("lasot", "got10k", "trackingnet", "coco", "got10k-val")
RAW = Path("data/raw")
"""Where all trees are unless --raw says otherwise."""


@dataclass(frozen=True, slots=True)
class Source:
    """A split of a data set and the folder of its tree."""

    dataset: Dataset
    split: str
    root: Path

    @property
    def name(self) -> str:
        """``<dataset>-<split>``."""
        return _name(self.dataset, self.split)


def split_names(text: str | None) -> list[str]:
    """Return the names of an option that takes several with commas between."""
    return [name for part in (text or "").split(",") if (name := part.strip())]


def find_sources(
    datasets: str, raw: Path, roots: dict[str, Path], *, trained: bool = True
) -> list[Source]:
    """Return the splits that ``--datasets`` names, each with its folder.

    Args:
        datasets: names separated by commas, or ``all``.
        raw: the folder of all trees.
        roots: data set name → folder.
        trained: whether only data sets that are trained on make sense; otherwise the bare name of
            a test set means the split that is scored.

    Raises:
        UserError: for an unknown name, a data set that is not trained on, or missing trees; all of
            these are listed, with the command that works without them.
    """
    everything = datasets.strip() == "all"
    names = ALL if everything else tuple(dict.fromkeys(split_names(datasets)))
    if not names:
        raise UserError("--datasets names no data set; write for example lasot,got10k or all")
    wanted = [_with_split(name, trained) for name in names]
    missing = missing_roots(wanted, raw, roots)
    if missing:
        there = [n for n, w in zip(names, wanted, strict=True) if _name(*w) not in missing]
        remedy = f"; without them: --datasets {','.join(there)}" if there else ""
        places = ", ".join(f"{name}: no folder {place}" for name, place in missing.items())
        raise UserError(f"{places}{remedy}")
    return [Source(d, s, find_root(d, raw, roots, s)) for d, s in wanted]


def _name(dataset: Dataset, split: str) -> str:
    return f"{dataset.name}-{split}"


def _with_split(name: str, trained: bool) -> tuple[Dataset, str]:
    dataset, split = parse_name(name)
    split = split or dataset.prep_split or (None if trained else dataset.eval_split)
    if split is None:
        builds = ", ".join(d.name for d in DATASETS.values() if d.prep_split)
        raise UserError(f"{name} is a test set and is not trained on; prep builds {builds}")
    return dataset, split
