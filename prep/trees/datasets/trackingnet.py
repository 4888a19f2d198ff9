"""TrackingNet: ``<chunk>/anno/<name>.txt`` and ``<chunk>/frames/<name>/%d.jpg`` from 0.

The training split is the chunks TRAIN_0 to TRAIN_11 that are there, and in each the sequences that have annotations and
frames. TEST gives the first box only: frames are counted on disk. There are no visibility flags, only boxes without
size or outside the frame.
"""

from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles, make_clip
from lorat.prep.trees.base.folders import counted_images, subfolders
from lorat.prep.trees.base.reading import in_threads, note, read_each, report_fault, report_lack
from lorat.prep.trees.base.text import read_boxes
from lorat.shards.base.errors import UserError, counted

_CHUNKS = {"train": tuple(f"TRAIN_{k}" for k in range(12)), "test": ("TEST",)}


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read the chunks of a split that are on disk."""
    chunks = [root / chunk for chunk in _CHUNKS[split] if (root / chunk).is_dir()]

    def clip(file: Path) -> Clip:
        folder, xywh = file.parent.parent / "frames" / file.stem, read_boxes(file)
        frames = FrameFiles(folder, range(len(xywh)), "%d.jpg")
        if split == "test":
            frames = FrameFiles(folder, counted_images(folder, 0))
        return make_clip(dataset, split, folder.name, frames, xywh[: len(frames)])

    annotations = {file.stem: file for files in in_threads(_annotations, chunks) for file in files}
    report_lack(root, "the {} of the split", "folder", _CHUNKS[split], [chunk.name for chunk in chunks])
    return read_each(annotations, clip)


def _annotations(chunk: Path) -> list[Path]:
    if not (chunk / "frames").is_dir():
        raise UserError(f"{chunk}: no folder frames; extract each file of zips/ to frames/<name>/")
    there = set(subfolders(chunk / "frames"))
    note(chunk / "anno")
    named = sorted((chunk / "anno").glob("*.txt"))
    stems = [file.stem for file in named]
    report_lack(chunk / "anno", "the {} in frames", "annotated sequence", stems, there, others=True)
    files = [file for file in named if file.stem in there]
    if lone := there.difference(stems):
        what = f"{counted(len(lone), 'folder')} of frames without a file in anno, such as {min(lone)}: not read"
        report_fault(chunk.name, f"{chunk}: {what}")
    return files
