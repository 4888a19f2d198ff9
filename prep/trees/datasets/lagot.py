"""LaGOT: more objects in sequences of LaSOT, their boxes in a JSON file, the images in LaSOT's tree.

Written from pytracking's reader of it; no annotation was at hand. The file has for each sequence ``frames``, paths in
LaSOT's tree, and ``xywh``, a list of boxes, or one for each object's id; what is negative is not annotated.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles
from lorat.prep.trees.base.reading import cut_clip, note, read_each, report_lack
from lorat.prep.trees.base.text import RESTORE_FILE, read_text
from lorat.shards.base.errors import UserError

_FILES = tuple(f"LaGOT_{count}_object_per_sequence_annotations_final.json" for count in ("one", "multiple"))


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read every object whose images are there, in ``LaSOT`` in the root or beside it, or in the root itself."""
    file = next((root / name for name in _FILES if (root / name).is_file()), root / _FILES[-1])
    objects: dict[str, tuple[list[str], Any]] = {}
    if not file.is_file():
        return []
    try:
        for name, row in json.loads(read_text(file)).items():
            several = isinstance(row["xywh"], dict)
            boxes = {f"{name}_{key}": rows for key, rows in row["xywh"].items()} if several else {name: row["xywh"]}
            for key, rows in boxes.items():
                objects[key] = row["frames"], np.array(rows, np.float64).reshape(-1, 4)
        first = {name: Path(frames[0]) for name, (frames, _) in objects.items()}
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise UserError(f"{file}: is not LaGOT's annotation ({error!r}); {RESTORE_FILE}") from None
    places = (root / "LaSOT", root.parent / "LaSOT", root)
    found = [place for place in places if any((place / frame).parent.is_dir() for frame in first.values())][:1]
    there = {name for name, frame in first.items() for images in found if (images / frame).parent.is_dir()}
    images = found[0] if found else root
    note(images)
    report_lack(file, f"the {{}} with images in {' or '.join(map(str, found or places))}", "object", objects, there)

    def clip(name: str) -> Clip:
        frames, boxes = objects[name]
        folder = (images / frames[0]).parent
        return cut_clip(dataset, split, name, FrameFiles(folder, tuple(Path(frame).name for frame in frames)), boxes)

    return read_each({name: name for name in objects if name in there}, clip)
