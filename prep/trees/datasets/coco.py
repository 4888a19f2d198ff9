"""COCO 2017 detection: ``annotations/instances_<split>2017.json`` and the images.

Each image is a clip of one frame, each object in it a track of one box. Crowd annotations are left out, and with them
images without other objects. Images lie in ``images/<split>2017/`` or ``<split>2017/``; those that are not on disk are
left out. Sizes come from the JSON.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles, Track, make_track
from lorat.prep.trees.base.folders import held, image_names
from lorat.prep.trees.base.reading import report_lack
from lorat.prep.trees.base.text import read_text
from lorat.shards.base.errors import UserError

Row = dict[str, Any]


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read a split's images that have objects and are on disk, in the order of their names."""
    path, folder = root / "annotations" / f"instances_{split}2017.json", root / f"{split}2017"
    value = partial(_value, path)
    if not path.is_file():
        return []
    images, annotations = _load(path)
    objects = [row for row in annotations if not row.get("iscrowd")]
    if not objects:
        return []
    if not folder.is_dir():
        folder = root / "images" / folder.name
    if not folder.is_dir():
        what = f"its images are looked for in {root / folder.name} and {folder}; {held(root)}; unpack them there"
        raise UserError(f"{path}: {what}")
    there = set(image_names(folder))
    boxes = np.array([value("annotation", row, "bbox") for row in objects], np.float64)
    track = make_track(boxes, len(boxes), one_based=dataset.one_based)
    owned: dict[int, list[int]] = {}
    for k, row in enumerate(objects):
        owned.setdefault(value("annotation", row, "image_id"), []).append(k)
    clips, names = [], []
    for row in images:
        mine = owned.pop(value("image", row, "id"), None)
        if not mine:
            continue
        names.append(name := str(row.get("file_name")))
        if name in there:
            size = (value("image", row, "width"), value("image", row, "height"))
            # Each track is a view of one large array.
            tracks = tuple(Track(track.boxes[k : k + 1], track.visible[k : k + 1]) for k in mine)
            clips.append(Clip(dataset.name, split, Path(name).stem, FrameFiles(folder, (name,)), tracks, 1, size))
    if owned:
        raise UserError(f"{path}: annotations of image {min(owned)}, which is not among its images")
    if names and not clips:
        what = f"none of the {len(names):,} images that the annotations name ({names[0]}) is in {folder}"
        raise UserError(f"{path}: {what}; unpack them there, and take folders out of file_name")
    report_lack(path, "{}", "annotated image", names, there)
    return sorted(clips, key=lambda clip: clip.name)


def _load(path: Path) -> tuple[list[Row], list[Row]]:
    """Return the rows of images and of annotations."""
    try:
        document = json.loads(read_text(path), object_hook=_without_outline)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}: is no JSON ({error.msg}); download it again") from None
    tables = []
    for key in ("images", "annotations"):
        table = document.get(key) if isinstance(document, dict) else None
        if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
            raise UserError(f"{path}: lacks the list '{key}' of objects; download it again")
        tables.append(table)
    return tables[0], tables[1]


def _without_outline(row: Row) -> Row:
    # Outlines are nine tenths of the file; dropped while parsing, they never pile up in memory.
    row.pop("segmentation", None)
    return row


def _value(path: Path, kind: str, row: Row, key: str) -> Any:
    """Return the 4 numbers of a ``bbox``, or the whole number that any other field is."""
    value = row.get(key)
    if key == "bbox":
        wanted = "4 numbers"
        good = isinstance(value, list) and len(value) == 4 and all(isinstance(v, int | float) for v in value)
    else:
        good, wanted = isinstance(value, int), "a whole number"
    if good:
        return value
    what = f"{kind} {row.get('id')}: {key} {value!r} is not {wanted}"
    raise UserError(f"{path}: {what}; correct it or download the file again")
