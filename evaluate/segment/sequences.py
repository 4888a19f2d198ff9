"""Masks of whole sequences of an evaluation.

Promise: masks are made from the boxes that tracking wrote, so tracking knows nothing of them, and what is tracked
already gets masks without being tracked again. A sequence's masks appear when it ends, and the same command goes on
behind them. Objects of one sequence are looked at together, each of its frames decoded once; memory does not grow with
the length.
"""

import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.pictures import Picture, draw_boxes, tint
from lorat.evaluate.results.files import read_result
from lorat.evaluate.segment.files import Layout, mask_files, place_of
from lorat.evaluate.segment.segmenter import Segmenter
from lorat.evaluate.segment.settings import MaskFileSettings
from lorat.evaluate.track.folder import Identity, result_folder
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.disk import explain_disk
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file, read_json, write_json
from lorat.shards.pixels.geometry import xywh_to_xyxy
from lorat.shards.pixels.jpeg import ImageError, encode

if TYPE_CHECKING:
    from lorat.evaluate.track.ranks import Ranks
    from lorat.evaluate.track.session import Evaluation, Show

_IDENTITY = "masks.json"  # whose masks there are
_VERSION = {"version": 1}
_SHOWN, _QUALITY = 6, 85  # pictures of a strip, and of their JPEG


def segment_sequence(
    segmenter: Segmenter,
    clips: Sequence[Clip],
    boxes: NDArray[np.float64],
    stems: Sequence[Path],
    layout: Layout,
    on_frame: Callable[[], None] = lambda: None,
) -> None:
    """Write the masks of objects that share frames, a clip each, by their (N, F, 4) xyxy boxes, to `stems` as
    `mask_files` does, and beside them a strip of frames, ``.jpg``. A frame that does not decode keeps the last masks.
    """
    frames, count = clips[0].frames, boxes.shape[1]
    names = [path.stem for path in frames]
    if len(set(names)) < len(names):
        names = [f"{number + 1:08d}" for number in range(len(names))]
    shown = set(np.linspace(0, count - 1, min(count, _SHOWN)).round().astype(int).tolist())
    strips: list[list[Picture]] = [[] for _ in clips]
    with ExitStack() as stack, ThreadPoolExecutor(1, thread_name_prefix="decode") as reader:
        writers = [stack.enter_context(mask_files(stem, layout)) for stem in stems]
        coming, masks = reader.submit(frames.read, 0), None
        for index, own in enumerate(boxes.swapaxes(0, 1)):
            here = coming
            if index + 1 < count:
                coming = reader.submit(frames.read, index + 1)
            try:
                frame = here.result()
                masks = segmenter(frame, own)
            except ImageError:
                if masks is None:
                    raise
            for write, mask, strip, box in zip(writers, masks, strips, own, strict=True):
                write(names[index], mask)
                if index in shown:
                    strip.append(draw_boxes(tint(frame, mask), box, None))
            on_frame()
        for stem, strip in zip(stems, strips, strict=True):
            with atomic_file(stem.with_name(f"{stem.name}.jpg")) as file:
                file.write(encode(_side_by_side(strip), _QUALITY))


def _side_by_side(pictures: Sequence[Picture]) -> Picture:
    height = max(picture.shape[0] for picture in pictures)
    return np.hstack([np.pad(each, ((0, height - each.shape[0]), (0, 4), (0, 0))) for each in pictures])


def masks_folder(out: Path) -> Path:
    """Return where an evaluation's masks stand: ``<dataset>-<split>/<sequence>`` in it."""
    return out / "masks"


def segment_results(
    outcome: "Evaluation",
    out: Path,
    segmenter: Segmenter,
    settings: MaskFileSettings,
    ranks: "Ranks",
    *,
    overwrite: bool = False,
    progress: "Show" = lambda done, total, text: None,
) -> None:
    """Write the masks of every tracked sequence that has none in `masks_folder` yet, of the first run where there are
    several. Each of several `ranks` calls. A `UserError` if there are masks of another tracker or network, and these
    are not to be overwritten.
    """
    if ranks.speaks:
        _claim(masks_folder(out), outcome.identity, settings, overwrite)
    groups = {
        f"{item.name}/{clips[0].name}": (item.name, clips)
        for item in outcome.sets
        for clips in _sharing_frames(outcome.done(item))
    }

    def stems(name: str) -> list[Path]:
        test_set, clips = groups[name]
        return [masks_folder(out) / test_set / clip.name for clip in clips]

    def is_done(name: str) -> bool:
        return all(place_of(stem, settings.segment_files).exists() for stem in stems(name))

    todo = [name for name in sorted(groups, key=lambda name: -len(groups[name][1][0].frames)) if not is_done(name)]
    todo, topic = ranks.first((todo, uuid.uuid4().hex))
    total = sum(len(groups[name][1][0].frames) for name in todo)

    def advance(frames: int = 1) -> None:
        progress(ranks.add(f"{topic}/frames", frames), total, "masks, frame")

    def work() -> None:
        for index in ranks.taken(len(todo), f"{topic}/next"):
            test_set, clips = groups[todo[index]]
            results = [read_result(result_folder(out, test_set), clip.name) for clip in clips]
            boxes = xywh_to_xyxy(np.stack([result.boxes for result in results]))
            segment_sequence(segmenter, clips, boxes, stems(todo[index]), settings.segment_files, advance)

    ranks.together(work, lambda: advance(0))


def _sharing_frames(clips: Sequence[Clip]) -> Iterator[list[Clip]]:
    """Yield the clips of each sequence of images: several where it has several objects."""
    groups = defaultdict[object, list[Clip]](list)
    for clip in clips:
        groups[clip.frames.folder, clip.frames.names].append(clip)
    yield from groups.values()


def _claim(folder: Path, tracker: Identity, settings: MaskFileSettings, overwrite: bool) -> None:
    """Note whose masks a folder's are; a `UserError` if those that are there are of another tracker or network."""
    if overwrite and folder.is_dir():
        with explain_disk(folder):
            shutil.rmtree(folder)
    identity = _VERSION | {"tracker": asdict(tracker), "segment": settings.identity()}
    if (folder / _IDENTITY).is_file() and read_json(folder / _IDENTITY) != identity:
        raise UserError(f"{folder}: holds masks of another tracker or network; give another --out, or --overwrite")
    write_json(folder / _IDENTITY, identity)
