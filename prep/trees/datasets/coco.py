"""COCO 2017 detection: ``annotations/instances_<split>2017.json`` and the images.

Each image is a clip of one frame, each object in it a track of one box. Crowd annotations are left
out, and with them images without other objects. Images lie in ``images/<split>2017/`` or
``<split>2017/``; those that are not on disk are left out. Sizes come from the JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.prep.trees.base.common import image_names, make_track
from lorat.prep.trees.base.dataset import Dataset
from lorat.prep.trees.base.text import read_text
from lorat.shards.base.errors import UserError

__all__ = ["read"]


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read a split's images that have objects and are on disk, in the order of their names."""
    path = root / "annotations" / f"instances_{split}2017.json"
    images, objects = _load(path)
    folder = root / f"{split}2017"
    if not folder.is_dir():
        folder = root / "images" / f"{split}2017"
    if not objects:
        return []
    there = set(image_names(folder))
    boxes = _boxes(path, objects)
    tracks = make_track(boxes, len(boxes), one_based=dataset.one_based)
    owner = np.array([_integer(path, "annotation", row, "image_id") for row in objects], np.int64)
    order = np.argsort(owner, kind="stable")
    ids, starts = np.unique(owner[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    spans = {int(i): (int(a), int(b)) for i, a, b in zip(ids, starts, ends, strict=True)}
    # In this order an image's objects are neighbours, so each track is a view of one large array.
    grouped = Track(tracks.boxes[order], tracks.visible[order])
    clips = []
    for row in images:
        span = spans.pop(_integer(path, "image", row, "id"), None)
        if span is not None and row.get("file_name") in there:
            clips.append(_clip(path, dataset, split, folder, row, _views(grouped, *span)))
    if spans:
        raise UserError(f"{path}: annotations of image {min(spans)}, which is not among its images")
    return sorted(clips, key=lambda clip: clip.name)


def _clip(
    path: Path,
    dataset: Dataset,
    split: str,
    folder: Path,
    row: dict[str, Any],
    tracks: tuple[Track, ...],
) -> Clip:
    size = (_integer(path, "image", row, "width"), _integer(path, "image", row, "height"))
    name = row["file_name"]
    frames = FrameFiles(folder, (name,))
    return Clip(dataset.name, split, Path(name).stem, frames, tracks, 1, size)


def _views(grouped: Track, start: int, end: int) -> tuple[Track, ...]:
    return tuple(
        Track(grouped.boxes[k : k + 1], grouped.visible[k : k + 1]) for k in range(start, end)
    )


def _load(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of images and of annotations that are no crowd."""
    try:
        document = json.loads(read_text(path), object_hook=_without_outline)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: line {error.lineno}: is no JSON ({error.msg}); download it again"
        ) from None
    images = _rows(path, document, "images")
    annotations = _rows(path, document, "annotations")
    return images, [row for row in annotations if not row.get("iscrowd")]


def _rows(path: Path, document: object, key: str) -> list[dict[str, Any]]:
    table = document.get(key) if isinstance(document, dict) else None
    if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
        raise UserError(f"{path}: lacks the list '{key}' of objects; download it again")
    return table


def _without_outline(row: dict[str, Any]) -> dict[str, Any]:
    # Outlines are nine tenths of the file; dropped while parsing, they never pile up in memory.
    row.pop("segmentation", None)
    return row


def _boxes(path: Path, objects: list[dict[str, Any]]) -> NDArray[np.float64]:
    boxes = [row.get("bbox") for row in objects]
    try:
        array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        if len(array) == len(boxes):
            return array
    except (TypeError, ValueError):
        pass  # the loop below names the annotation
    for row, box in zip(objects, boxes, strict=True):
        if not _is_box(box):
            _refuse(path, "annotation", row, f"bbox {box!r} is not 4 numbers")
    raise UserError(f"{path}: its boxes are not 4 numbers each; download it again")


def _is_box(box: object) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)


def _integer(path: Path, kind: str, row: dict[str, Any], key: str) -> int:
    value = row.get(key)
    if not isinstance(value, int):
        _refuse(path, kind, row, f"{key} {value!r} is no whole number")
    return value


def _refuse(path: Path, kind: str, row: dict[str, Any], what: str) -> NoReturn:
    raise UserError(
        f"{path}: {kind} {row.get('id')}: {what}; correct it or download the file again"
    )
