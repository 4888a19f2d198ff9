"""Where a data set's tree is: ``--root``, the environment, ``paths.yaml``, or the folder RAW.

The first of these that names the data set decides; a folder that it names and that is missing is an
error, never a reason to look further.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from lorat.configs.load import load_data_roots
from lorat.prep.trees.base.dataset import Dataset
from lorat.prep.trees.registry import DATASETS
from lorat.shards.base.errors import UserError, unknown

__all__ = ["find_root", "is_named", "missing_roots", "parse_roots"]


def parse_roots(texts: Iterable[str]) -> dict[str, Path]:
    """Read the values of ``--root``: ``lasot=/data/LaSOT``.

    Raises:
        UserError: if one is not NAME=DIR, or names an unknown data set.
    """
    roots = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or not folder:
            raise UserError(f"--root {text}: must be NAME=DIR, as in --root lasot=/data/LaSOT")
        if name not in DATASETS:
            raise unknown("data set", name, DATASETS)
        roots[name] = Path(folder).expanduser()
    return roots


def find_root(
    dataset: Dataset, raw: Path, roots: Mapping[str, Path], split: str | None = None
) -> Path:
    """Return the folder that `read_clips` takes for a data set.

    Looked up in this order: `roots` (from ``--root``), the variable ``LORAT_<NAME>``,
    ``paths.yaml`` in the working folder, `raw` with the data set's own folder name.

    Args:
        dataset: the data set.
        raw: the folder of all trees.
        roots: data set name → folder.
        split: which split is wanted, for a data set whose splits are separate trees. None accepts
            any of them and returns a folder from which the reader finds each.

    Raises:
        UserError: if the folder is missing, or ``paths.yaml`` names an unknown data set.
    """
    folder, source = _named_root(dataset, raw, roots, split)
    if not folder.is_dir():
        raise UserError(
            f"{dataset.name}: no folder {folder} ({source}); put the tree there, or give "
            f"--raw RAW, --root {dataset.name}=DIR or {_variable(dataset)}=DIR"
        )
    return folder


def missing_roots(
    wanted: Iterable[tuple[Dataset, str | None]], raw: Path, roots: Mapping[str, Path]
) -> dict[str, str]:
    """Return the wanted data sets whose tree is missing: ``name`` or ``name-split`` → the folder.

    For an error that lists all that is missing at once. The values read
    ``data/raw/LaSOT (LaSOT under --raw)``.

    Raises:
        UserError: if ``paths.yaml`` is no mapping or names an unknown data set.
    """
    missing = {}
    for dataset, split in wanted:
        folder, source = _named_root(dataset, raw, roots, split)
        if not folder.is_dir():
            name = dataset.name if split is None else f"{dataset.name}-{split}"
            missing[name] = f"{folder} ({source})"
    return missing


def is_named(dataset: Dataset, roots: Mapping[str, Path]) -> bool:
    """Return whether ``--root``, the environment or ``paths.yaml`` says where a tree is."""
    variable = os.environ.get(_variable(dataset))
    return dataset.name in roots or bool(variable) or dataset.name in load_data_roots(Path())


def _named_root(
    dataset: Dataset, raw: Path, roots: Mapping[str, Path], split: str | None
) -> tuple[Path, str]:
    """Return the folder that decides, whether or not it is there, and what names it."""
    if dataset.name in roots:
        return Path(roots[dataset.name]), f"--root {dataset.name}"
    if value := os.environ.get(_variable(dataset)):
        return Path(value).expanduser(), _variable(dataset)
    listed = load_data_roots(Path())
    for name in listed:
        if name not in DATASETS:
            raise unknown("data set in paths.yaml", name, DATASETS)
    if dataset.name in listed:
        return listed[dataset.name], "paths.yaml"
    return _under_raw(dataset, raw, split)


def _under_raw(dataset: Dataset, raw: Path, split: str | None) -> tuple[Path, str]:
    if isinstance(dataset.folder, str):
        return raw / dataset.folder, f"{dataset.folder} under --raw"
    folders = [dataset.folder_of(split)] if split else list(dataset.folder.values())
    there = [folder for folder in folders if (raw / folder).is_dir()]
    if split is None and there:
        return raw, "--raw"
    return raw / folders[0], f"{' or '.join(folders)} under --raw"


def _variable(dataset: Dataset) -> str:
    return f"LORAT_{dataset.name.upper()}"
