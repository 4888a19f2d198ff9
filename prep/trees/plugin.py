"""Data sets that a user's own Python file defines: ``--tree my_trees.py``.

The file is run because the user named it. Every `Dataset` at its top level joins the table of data sets for as long as
the process lives. What its reader yields is checked before anyone uses it: a box array of the wrong length would
otherwise show as a wrong tracker. What the file itself raises keeps its traceback.
"""

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from lorat.prep.trees.base.clip import Clip, Dataset
from lorat.prep.trees.base.reading import note
from lorat.prep.trees.registry import DATASETS
from lorat.shards.base.errors import UserError


def add_trees(file: Path) -> list[Dataset]:
    """Run a Python file, add the data sets that it defines to `DATASETS`, in place of its former ones, and return them.
    A `UserError` if it is missing, does not import, defines no data set, or one whose name is taken.
    """
    file = file.expanduser().resolve()
    rows = {id(value): value for value in vars(_run(file)).values() if isinstance(value, Dataset)}
    # A row of the table that the file imports is not the file's own.
    mine = [row for row in rows.values() if row is not DATASETS.get(row.name)]
    if not mine:
        what = "write at its top level NAME = Dataset(name=…, folder=…, splits=…, read=…)"
        raise UserError(f"{file}: defines no data set; {what}")
    for name, count in Counter(row.name for row in mine).items():
        owner = getattr(DATASETS[name].read, "file", "lorat") if name in DATASETS else file
        if owner != file or count > 1:
            raise UserError(f"{file}: the name '{name}' is taken, in {owner}; choose another")
    added = [replace(row, read=_CheckedReader(row, file)) for row in mine]
    DATASETS.update((row.name, row) for row in added)
    return added


def _run(file: Path) -> ModuleType:
    if file.suffix != ".py" or not file.is_file():
        raise UserError(f"--tree {file}: no such Python file; give the .py that defines a Dataset")
    spec = importlib.util.spec_from_file_location(f"lorat_tree_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--tree {file}: cannot be imported; rename it to letters, digits and _")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up there
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{file}: line {error.lineno}: is no Python ({error.msg})") from None
    except ImportError as error:
        raise UserError(f"{file}: {error}; install it, or add its folder to PYTHONPATH") from None
    return module


@dataclass(frozen=True, eq=False)
class _CheckedReader:
    """A user's reader, of a row that a file defines, whose clips are checked."""

    row: Dataset
    file: Path

    def __call__(self, dataset: Dataset, split: str, root: Path) -> list[Clip]:
        note(self.file)
        clips = self.row.read(self.row, split, root)
        for problem in _problems(self.row.name, split, clips):
            raise UserError(f"{self.file}: data set '{self.row.name}': {problem}")
        return clips


def _problems(name: str, split: str, clips: object) -> Iterable[str]:
    """Yield what is wrong with a reader's clips, worst first."""
    if not isinstance(clips, list) or not all(isinstance(clip, Clip) for clip in clips):
        kind = f"a list with {type(clips[0]).__name__}" if isinstance(clips, list) else type(clips)
        yield f"its reader must return a list of Clip, not {kind}"
        return
    for clip_name, count in Counter(clip.name for clip in clips).items():
        if count > 1:
            yield f"{count} clips are called '{clip_name}'; give each its own name"
    for clip in clips:
        which, frames = f"clip '{clip.name}'", len(clip.frames)
        if (clip.dataset, clip.split) != (name, split):
            says = f"says {clip.dataset}-{clip.split}, not {name}-{split}"
            yield f"{which} {says}; pass on the reader's own arguments"
        if not clip.tracks or not frames:
            yield f"{which} has no track or no frame; leave it out"
        for track in clip.tracks:
            boxes, visible = track.boxes, track.visible
            if boxes.shape != (frames, 4) or boxes.dtype != np.float64:
                yield f"{which}: boxes are {boxes.dtype} {boxes.shape}, not float64 ({frames}, 4)"
            if visible.shape != (frames,) or visible.dtype != np.bool_:
                yield f"{which}: visible is {visible.dtype} {visible.shape}, not bool ({frames},)"
            seen = boxes[visible]
            if not (np.isfinite(seen).all() and (seen[:, 2:] > seen[:, :2]).all()):
                yield f"{which}: a visible box has no size; boxes are xyxy, see make_track"
