"""Writes the toy world's sequences and lists in the layouts of the real data sets.

Promise: every file stands where the real tree has it and says what the real file says, in its number format; test
splits of GOT-10k and TrackingNet give the first box only. A job writes one sequence (or one COCO image) and needs
nothing of the others. The readers of this package read boxes as exact as they are written, 1-based in LaSOT alone.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.prep.pool import Tell
from lorat.prep.toy.looks import SHAPES, Look
from lorat.prep.toy.scene import POOLS, Pool, ToyScene, plan_scene, plan_still, render
from lorat.shards.pixels.jpeg import encode

_QUALITY = 90
_COVER_BOUNDS = (0.15, 0.30, 0.45, 0.60, 0.75, 0.90)
_COCO_LEAST_VISIBLE = 0.3
_META_INFO = """\
[METAINFO]
url: none
begin: 00:00:00
end: 00:00:{seconds:02d}
anno_fps: 10Hz
object_class: {shape}
motion_class: wandering
major_class: toy
root_class: artifact
motion_adverb: smoothly
resolution: {size}"""


@dataclass(frozen=True, slots=True)
class Job:
    """One sequence, or one image of COCO."""

    folder: str  # The tree, one of `FOLDERS`
    split: Pool  # Also decides where the objects come from
    index: int  # Number within the split, from 0
    name: str  # The sequence's name, or the image's number
    seed: int
    size: tuple[int, int]  # (width, height) of the frames
    length: int
    leaving: float = 0.1  # share of objects that leave the frame for a while


class _Truth(NamedTuple):
    """What is known of a written sequence of T frames; the tracked object is the only one."""

    boxes: NDArray[np.float64]  # (T, 4) xyxy, cut at the frame; zeros where nothing is left
    cut: NDArray[np.bool_]  # (T,) whether the frame's border cuts the object
    outside: NDArray[np.bool_]  # (T,) whether nothing of it is in the frame
    visible: NDArray[np.float64]  # (T,) the share of it that is in sight
    absent: NDArray[np.bool_]  # (T,) whether that is none
    look: Look


def plan_job(job: Job) -> ToyScene:
    """Return the scene that a job renders."""
    key = (job.seed, job.folder, job.split, job.index)
    if job.folder != "COCO":
        return plan_scene(key, job.split, job.size, job.length, job.leaving)
    # Some real images are portraits, some show nothing annotated, some show a crowd.
    size = job.size[::-1] if job.index % 4 == 3 else job.size
    count = 0 if job.index % 25 == 24 else 3 + job.index % 3
    return plan_still(key, job.split, size, count, crowd=job.index % 16 == 5)


def run_job(shared: tuple[Path, list[Job]], number: int, tell: Tell) -> None:
    """Render a job of (the trees' folder, all jobs) into its tree, and tell its number and what `write_lists` needs."""
    trees, jobs = shared
    tell((number, _WRITERS[jobs[number].folder](trees / jobs[number].folder, jobs[number])))


def write_lists(trees: Path, jobs: list[Job], results: Mapping[int, Any]) -> None:
    """Write the files that speak of more than one sequence, from all jobs and what they told."""

    def of(folder: str, split: Pool) -> list[int]:
        return [n for n, job in enumerate(jobs) if (job.folder, job.split) == (folder, split)]

    for split in POOLS:
        if split != "val" and (trees / "LaSOT").is_dir():
            _write_lines(trees / f"LaSOT/{split}ing_set.txt", [jobs[n].name for n in of("LaSOT", split)])
        if sequences := of("GOT-10k", split):
            _write_lines(trees / "GOT-10k" / split / "list.txt", [jobs[n].name for n in sequences])
        if images := [results[n] for n in of("COCO", split)]:
            annotations = [annotation for result in images for annotation in result["annotations"]]
            content = {
                "info": {"description": "toy world", "version": "1.0", "year": 2017},
                "licenses": [{"id": 1, "name": "Apache-2.0", "url": ""}],
                "images": [result["image"] for result in images],
                "annotations": [row | {"id": number} for number, row in enumerate(annotations, start=1)],
                "categories": [{"supercategory": "toy", "id": _category(shape), "name": shape} for shape in SHAPES],
            }
            path = trees / f"COCO/annotations/instances_{split}2017.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content), encoding="utf-8")


def _write_lasot(root: Path, job: Job) -> None:
    """Write LaSOT, which counts from 1, or its extension: whole numbers, flags, a sentence."""
    folder = root / job.name.rpartition("-")[0] / job.name
    truth = _write_frames(job, folder / "img", "%08d.jpg", 1)
    xywh = _whole_boxes(truth, job.size)
    xywh[:, :2] += job.folder == "LaSOT"
    xywh[truth.outside] = 0  # occluded frames keep their box, as in the real tree
    _write_rows(folder / "groundtruth.txt", xywh, "%d")
    _write_rows(folder / "full_occlusion.txt", [truth.absent & ~truth.outside], "%d")
    _write_rows(folder / "out_of_view.txt", [truth.outside], "%d")
    _write_lines(folder / "nlp.txt", [f"{truth.look} moving over the ground"])


def _write_got10k(root: Path, job: Job) -> None:
    """Write GOT-10k: 4 decimals, labels a line each, meta data; in test only the first box."""
    folder = root / job.split / job.name
    truth = _write_frames(job, folder, "%08d.jpg", 1)
    xywh = _xywh(np.where(truth.absent[:, None], 0.0, truth.boxes))
    if job.split == "test":
        _write_rows(folder / "groundtruth.txt", xywh[:1], "%.4f")
        return
    _write_rows(folder / "groundtruth.txt", xywh, "%.4f")
    # Level k is the k-th interval of visible shares; 7 and 8 tell "nearly all" from "all".
    cover = 1 + np.searchsorted(_COVER_BOUNDS, truth.visible, side="left")
    cover = np.where(truth.visible >= 1, 8, np.where(truth.absent, 0, cover))
    for name, values in {"absence": truth.absent, "cover": cover, "cut_by_image": truth.cut}.items():
        _write_rows(folder / f"{name}.label", values[:, None], "%d")
    meta = {"seconds": job.length // 10, "shape": truth.look.shape, "size": job.size}
    _write_lines(folder / "meta_info.ini", [_META_INFO.format_map(meta)])


def _write_trackingnet(root: Path, job: Job) -> None:
    """Write TrackingNet: 2 decimals, no flags; a box without size where nothing is in view."""
    chunk = root / ("TEST" if job.split == "test" else f"TRAIN_{job.index % 3}")
    truth = _write_frames(job, chunk / "frames" / job.name, "%d.jpg", 0)
    rows = 1 if job.split == "test" else job.length
    _write_rows(chunk / f"anno/{job.name}.txt", _xywh(truth.boxes[:rows]), "%.2f")


def _write_tnl2k(root: Path, job: Job) -> None:
    """Write TNL2K: whole numbers, zeros where absent, JPEG or PNG with any stems, a sentence."""
    folder = root / job.name
    stem = ("%05d.jpg", "frame_%04d.jpg", "%08d.png", "img%05d.jpg")[job.index % 4]
    truth = _write_frames(job, folder / "imgs", stem, 1)
    xywh = np.where(truth.absent[:, None], 0, _whole_boxes(truth, job.size))
    _write_rows(folder / "groundtruth.txt", xywh, "%d")
    _write_lines(folder / "language.txt", [f"{truth.look} moving over the ground"])


def _write_coco(root: Path, job: Job) -> dict[str, Any]:
    """Write an image; return what the list of all says of it and its objects, a crowd as one run-length coded box."""
    scene, number = plan_job(job), int(job.name)
    frame, name = next(render(scene)), f"{number:012d}.jpg"
    _write_image(root / f"images/{job.split}2017" / name, frame.image)
    width, height = scene.size
    annotations: list[dict[str, Any]] = []

    def annotate(outline: Any, area: float, box: list[float], layer: int, crowd: int = 0) -> None:
        about = {"segmentation": outline, "area": area, "iscrowd": crowd, "image_id": number, "bbox": box}
        annotations.append(about | {"category_id": _category(scene.layers[layer].look.shape)})

    boxes = _xywh(_cut(frame.boxes, scene.size)).round(2).tolist()
    for k, index in enumerate(scene.tracked):
        if frame.visible[k] >= _COCO_LEAST_VISIBLE:
            layer = scene.layers[index]
            parts = [np.clip(layer.motion.place(part, 0), 0, scene.size) for part in layer.look.parts]
            annotate([part.round(2).ravel().tolist() for part in parts], float(frame.pixels[k]), boxes[k], index)
    if scene.crowd:
        each = np.array([scene.layers[index].box(0) for index in scene.crowd])
        around = np.rint(np.concatenate([each[:, :2].min(0), each[:, 2:].max(0)]))
        x1, y1, x2, y2 = _cut(around, scene.size).astype(int).tolist()
        inside = y2 - y1
        runs = [x1 * height + y1, *[inside, height - inside] * (x2 - x1)]
        runs[-1] += (width - x2) * height - y1
        box = [float(v) for v in (x1, y1, x2 - x1, inside)]
        annotate({"counts": runs, "size": [height, width]}, float((x2 - x1) * inside), box, scene.crowd[0], crowd=1)
    image = {"license": 1, "file_name": name, "height": height, "width": width, "id": number}
    return {"image": image, "annotations": annotations}


def _category(shape: str) -> int:
    return 1 + 2 * SHAPES.index(shape)  # real category ids have gaps too


def _write_frames(job: Job, folder: Path, name: str, first: int) -> _Truth:
    """Render a sequence into `folder`; `name` formats a frame's number, counted from `first`."""
    scene = plan_job(job)
    frames = []
    for number, frame in enumerate(render(scene), start=first):
        _write_image(folder / (name % number), frame.image)
        frames.append((frame.boxes[0], frame.in_frame[0], frame.visible[0]))
    boxes, in_frame, visible = (np.array(column) for column in zip(*frames, strict=True))
    kept, outside = _cut(boxes, job.size), in_frame == 0
    cut = (kept != boxes).any(1) & ~outside
    kept[outside] = 0
    return _Truth(kept, cut, outside, visible, visible == 0, scene.layers[scene.tracked[0]].look)


def _write_image(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        data = encode(image, _QUALITY)
    else:
        data = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    path.write_bytes(data)


def _cut(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    return np.clip(boxes, 0, [*size, *size])


def _xywh(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def _whole_boxes(truth: _Truth, size: tuple[int, int]) -> NDArray[np.int64]:
    """Return (T, 4) xywh rounded to whole pixels, at least one pixel large and inside the frame."""
    first = np.minimum(np.floor(truth.boxes[:, :2] + 0.5), np.array(size) - 1)
    last = np.maximum(np.floor(truth.boxes[:, 2:] + 0.5), first + 1)
    return np.concatenate([first, last - first], axis=1).astype(np.int64)


def _write_rows(path: Path, rows: Iterable[NDArray], number: str) -> None:
    _write_lines(path, [",".join(number % value for value in row) for row in rows])


def _write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


_WRITERS: dict[str, Callable[[Path, Job], dict[str, Any] | None]] = {
    "LaSOT": _write_lasot,
    "LaSOT_Extension": _write_lasot,
    "GOT-10k": _write_got10k,
    "TrackingNet": _write_trackingnet,
    "COCO": _write_coco,
    "TNL2K_TRAIN": _write_tnl2k,
    "TNL2K_TEST": _write_tnl2k,
}
FOLDERS = tuple(_WRITERS)
"""The trees of a toy world, in the order they are written."""
