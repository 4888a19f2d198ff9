"""Which trees a command line asks for: names, splits and folders.

Where a tree is, the first of these says that names its data set: ``--root``, the environment (``LORAT_<NAME>``),
``paths.yaml`` in the working folder, the folder RAW. A folder that it names and that is missing is an error, never a
reason to look further.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lorat.configs.load import load_data_roots
from lorat.prep.trees.base.clip import Dataset
from lorat.prep.trees.base.folders import held
from lorat.prep.trees.plugin import add_trees
from lorat.prep.trees.registry import DATASETS, parse_name
from lorat.shards.base.errors import UserError, unknown
from lorat.shards.base.options import option

ALL = ("lasot", "got10k", "trackingnet", "coco", "got10k-val")
RAW = Path("data/raw")
"""Where all trees are unless --raw says otherwise."""
_DATA = {"section": "Data"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeOptions:
    """Where trees are. Making one runs the files of ``tree``: names are looked up afterwards."""

    raw: Path | None = option(
        None, kind="folder", help=f"Folder of all raw trees (RAW/LaSOT, RAW/GOT-10k, …).  [default: {RAW}]", **_DATA
    )
    root: tuple[str, ...] = option((), metavar="NAME=DIR", help="Where one data set's tree is.", **_DATA)
    tree: tuple[Path, ...] = option(
        (), metavar="FILE.py", help="A Python file of yours that defines data sets (docs/data.md); it is run.", **_DATA
    )
    roots: Mapping[str, Path] = field(init=False, repr=False, compare=False)  # of ``root``: data set → folder

    def __post_init__(self) -> None:
        for file in self.tree:
            add_trees(file)
        roots = {}
        for text in self.root:
            name, equals, folder = text.partition("=")
            if not equals or not folder:
                raise UserError(f"--root {text}: must be NAME=DIR, as in --root lasot=/data/LaSOT")
            if name not in DATASETS:
                raise unknown("data set", name, DATASETS)
            roots[name] = Path(folder).expanduser()
        object.__setattr__(self, "roots", roots)

    @property
    def folder(self) -> Path:
        """RAW, the folder of all trees."""
        return self.raw or RAW

    @property
    def named(self) -> bool:
        """Whether the command line says where any tree is."""
        return self.raw is not None or bool(self.root)

    def names(self, dataset: Dataset) -> bool:
        """Return whether ``--root``, the environment or ``paths.yaml`` says where a tree is."""
        return self._named(dataset) is not None

    def find(self, dataset: Dataset, split: str | None = None) -> Path:
        """Return the folder of a data set, or of its `split`, for `read_clips`; a `UserError` if it is missing."""
        folder, source = self._place(dataset, split)
        if not folder.is_dir():
            places = f"--raw RAW, --root {dataset.name}=DIR or {_variable(dataset)}=DIR"
            what = f"no folder {folder} ({source}){self._beside(folder)}"
            raise UserError(f"{dataset.name}: {what}; put the tree there, or give {places}")
        return folder

    def missing(self, wanted: Iterable[tuple[Dataset, str]]) -> dict[str, str]:
        """Return ``name-split`` → ``data/raw/LaSOT (LaSOT under --raw)`` of all missing trees."""
        places = {f"{d.name}-{split}": self._place(d, split) for d, split in wanted}
        return {n: f"{folder} ({by})" for n, (folder, by) in places.items() if not folder.is_dir()}

    @staticmethod
    def _beside(folder: Path) -> str:
        """Return what lies where a folder is missing, for a message."""
        return f"; {held(folder.parent)}" if folder.parent.is_dir() else ""

    def _named(self, dataset: Dataset) -> tuple[Path, str] | None:
        """Return the folder that is given for a data set, whether or not it is there, and by what."""
        if dataset.name in self.roots:
            return self.roots[dataset.name], f"--root {dataset.name}"
        if value := os.environ.get(_variable(dataset)):
            return Path(value).expanduser(), _variable(dataset)
        listed = load_data_roots(Path())
        if odd := listed.keys() - DATASETS.keys():
            raise unknown("data set in paths.yaml", min(odd), DATASETS)
        return (listed[dataset.name], "paths.yaml") if dataset.name in listed else None

    def _place(self, dataset: Dataset, split: str | None) -> tuple[Path, str]:
        """Return the folder that decides, whether or not it is there, and what names it."""
        if named := self._named(dataset):
            return named
        folders = dataset.folders(split)
        if len(folders) > 1 and any((self.folder / folder).is_dir() for folder in folders):
            return self.folder, "--raw"
        return self.folder / folders[0], f"{' or '.join(folders)} under --raw"


@dataclass(frozen=True, slots=True)
class TreeSplit:
    """A split of a data set and the folder of its tree."""

    dataset: Dataset
    split: str
    root: Path

    @property
    def name(self) -> str:
        """``<dataset>-<split>``."""
        return f"{self.dataset.name}-{self.split}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceOptions(TreeOptions):
    """Splits of data sets, and where their trees are."""

    datasets: str = option(
        "all", help=f"Names separated by commas, such as lasot,got10k-train; 'all' is {','.join(ALL)}.", **_DATA
    )

    def wanted(self, *, trained: bool = True) -> dict[str, tuple[Dataset, str]]:
        """Return the splits that ``--datasets`` names, as it does; without `trained` a test set's bare name is what is
        scored. A `UserError` for an unknown name, or a data set that is not trained on.
        """
        names = ALL if self.datasets.strip() == "all" else tuple(dict.fromkeys(split_names(self.datasets)))
        if not names:
            raise UserError("--datasets names no data set; write for example lasot,got10k or all")
        wanted = {}
        for name in names:
            dataset, split = parse_name(name)
            split = split or dataset.prep_split or (None if trained else dataset.eval_split)
            if split is None:
                builds = ", ".join(d.name for d in DATASETS.values() if d.prep_split)
                raise UserError(f"{name} is a test set and is not trained on; prep builds {builds}")
            wanted[name] = dataset, split
        return wanted

    def sources(self, *, trained: bool = True) -> list[TreeSplit]:
        """Return what is `wanted` and its trees; a `UserError` also for missing ones, all of them listed."""
        wanted = self.wanted(trained=trained)
        if missing := self.missing(wanted.values()):
            there = [n for n, (d, s) in wanted.items() if f"{d.name}-{s}" not in missing]
            remedy = f"; without them: --datasets {','.join(there)}" if there else ""
            places = ", ".join(f"{name}: no folder {place}" for name, place in missing.items())
            raise UserError(f"{places}{self._beside(self.folder / 'all')}{remedy}")
        return [TreeSplit(d, s, self.find(d, s)) for d, s in wanted.values()]


def split_names(text: str | None) -> list[str]:
    """Return the names of an option that takes several with commas between."""
    return [name for part in (text or "").split(",") if (name := part.strip())]


def _variable(dataset: Dataset) -> str:
    return f"LORAT_{dataset.name.upper()}"
