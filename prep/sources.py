"""Which trees a command line asks for: names, splits and folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from lorat.prep.trees import DATASETS, Dataset, parse_name
from lorat.prep.trees.roots import find_root, missing_roots
from lorat.shards.errors import UserError

__all__ = ["ALL", "Source", "find_sources", "tree_options"]

ALL = ("lasot", "got10k", "trackingnet", "coco", "got10k-val")


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


def tree_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --raw, --root and --datasets, which `find_sources` reads."""
    command = click.option(
        "--datasets",
        default="all",
        show_default=True,
        help=f"Names separated by commas, such as lasot,got10k-train; 'all' is {','.join(ALL)}.",
    )(command)
    command = click.option(
        "--root", "roots", multiple=True, metavar="NAME=DIR", help="Where one tree is."
    )(command)
    return click.option(
        "--raw",
        type=click.Path(path_type=Path),
        default=Path("data/raw"),
        show_default=True,
        help="Folder of all trees (RAW/LaSOT, RAW/GOT-10k, …).",
    )(command)


def find_sources(datasets: str, raw: Path, roots: dict[str, Path]) -> list[Source]:
    """Return the splits that ``--datasets`` names, each with its folder.

    Raises:
        UserError: for an unknown name, a data set that is not trained on, or missing trees; all of
            these are listed, with the command that works without them.
    """
    everything = datasets.strip() == "all"
    names = ALL if everything else tuple(n.strip() for n in datasets.split(",") if n.strip())
    if not names:
        raise UserError("--datasets names no data set; write for example lasot,got10k or all")
    wanted = [_with_split(name) for name in names]
    missing = missing_roots(wanted, raw, roots)
    if missing:
        there = [n for n, w in zip(names, wanted, strict=True) if _name(*w) not in missing]
        remedy = f"; without them: --datasets {','.join(there)}" if there else ""
        places = ", ".join(f"{name}: no folder {place}" for name, place in missing.items())
        raise UserError(f"{places}{remedy}")
    return [Source(d, s, find_root(d, raw, roots, s)) for d, s in wanted]


def _name(dataset: Dataset, split: str) -> str:
    return f"{dataset.name}-{split}"


def _with_split(name: str) -> tuple[Dataset, str]:
    dataset, split = parse_name(name)
    split = split or dataset.prep_split
    if split is None:
        trained = [d.name for d in DATASETS.values() if d.prep_split]
        raise UserError(
            f"{name} is a test set and is not trained on; prep builds {', '.join(trained)}"
        )
    return dataset, split
