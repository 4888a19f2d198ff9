"""Our results in the layouts of other toolkits, as the published LoRAT writes them.

x and y count from 1 where the data set's annotations do (LaSOT, VastTrack). Boxes are not rounded to whole pixels.
Promise: a file is whole or not there; what is there with other content is refused before anything is written.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from lorat.evaluate.results.files import Run, table_text
from lorat.evaluate.results.find import PREFIXES
from lorat.prep.trees.base.clip import Dataset
from lorat.shards.base.disk import explain_disk
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import write_together

ExportLayout = Literal["pytracking", "otb", "got10k"]


class ResultSet(NamedTuple):
    """Our results of one test set."""

    name: str  # ``<dataset>-<split>``
    dataset: Dataset
    runs: Sequence[Run]  # the same sequences in every run

    def untimed(self) -> list[str]:
        """Return the sequences without a time for every frame of every run."""
        return [name for name in self.runs[0] if not all(np.isfinite(run[name].times).all() for run in self.runs)]

    def files(self, layout: ExportLayout, label: str) -> Iterator[tuple[str, str]]:
        """Yield the path and the text of each file in a layout."""
        base = np.array([1.0, 1.0, 0.0, 0.0]) if self.dataset.one_based else 0.0
        # OTB's prefix is known from some archives only; pytracking writes none.
        prefix = PREFIXES.get(self.dataset.name, "") if self.dataset.name != "otb" else ""
        for number, run in enumerate(self.runs, start=1):
            tracker = f"{label}_{number:03d}" if len(self.runs) > 1 else label
            for name, result in run.items():
                boxes = result.boxes + base
                if layout == "pytracking":
                    yield f"{tracker}/{prefix}{name}.txt", table_text(boxes, 3, "\t")
                elif layout == "otb":
                    yield f"{tracker}_tracking_result/{name}.txt", table_text(boxes, 3, "\t")
                else:
                    yield f"{label}/{name}/{name}_{number:03d}.txt", table_text(boxes, 4)
        if layout == "got10k":
            for name in sorted(self.runs[0].keys() - set(self.untimed())):
                times = np.stack([run[name].times for run in self.runs], axis=1)
                yield f"{label}/{name}/{name}_time.txt", table_text(times, 8)


def layout_files(sets: Sequence[ResultSet], layout: ExportLayout, label: str) -> dict[str, str]:
    """Return path → text of the files of results in a layout; `label` names the tracker. A `UserError` if two test sets
    have a sequence of the same name, which no layout keeps apart.
    """
    files: dict[str, str] = {}
    owners: dict[str, str] = {}
    for item in sets:
        for path, text in item.files(layout, label):
            if (other := owners.setdefault(path, item.name)) != item.name:
                remedy = "export them apart with --datasets and another --label or --out"
                raise UserError(f"{path}: {other} and {item.name} both have a sequence of this name; {remedy}")
            files[path] = text
    return files


def write_files(folder: Path, files: Mapping[str, str], *, overwrite: bool) -> int:
    """Write text files below a folder and return how many were not there as they are. A `UserError` before anything is
    written if one is there with other content and `overwrite` is off.
    """
    changed: dict[Path, bytes] = {}
    for path, data in ((folder / name, text.encode("ascii")) for name, text in files.items()):
        with explain_disk(path):
            if not path.exists() or path.read_bytes() != data:
                changed[path] = data
    other = [path for path in changed if path.exists()]
    if other and not overwrite:
        more = f", as do {len(other) - 1:,} more of its files" if len(other) > 1 else ""
        raise UserError(f"{other[0]}: exists with other content{more}; use --overwrite, another --label or --out")
    write_together(changed)
    return len(changed)
