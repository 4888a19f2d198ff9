"""VOT, and what is laid out as its workspaces are (DiDi): rectangles, polygons or masks, and one or several objects."""

import re
from pathlib import Path

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles
from lorat.prep.trees.base.folders import annotation_files, listed_sequences, numbered_images
from lorat.prep.trees.base.reading import cut_clip, note, read_each
from lorat.prep.trees.base.regions import parse_regions
from lorat.prep.trees.base.text import RESTORE_FILE, read_text

_CHANNELS = ("color", "ir", "depth")
_NO_OBJECT = "groundtruth__"


def read(dataset: Dataset, split: str, root: Path) -> list[Clip]:
    """Read VOT: ``<sequence>/color/%08d.jpg`` (the first challenges: without ``color``) and ``groundtruth.txt``.
    Polygons and masks are read as the boxes around them, a lone number as a frame that is not annotated. A sequence
    with ``groundtruth_<id>.txt`` gives a clip for each object, ``<sequence>_<id>``. The first channel that the file
    ``sequence`` names, or that is there, holds the frames. `root` may be a workspace with ``sequences/``. A
    ``list.txt`` beside the sequences decides, as in VOT's toolkit.
    """

    def clip(file: Path) -> Clip:
        images = _images(file.parent)
        xywh, _ = parse_regions(read_text(file).rstrip(), file, f"correct the line or {RESTORE_FILE}")
        return cut_clip(dataset, split, _name(file), FrameFiles(images, numbered_images(images)), xywh)

    return read_each(truth_files(root), clip)


def truth_files(root: Path) -> dict[str, Path]:
    """Return the annotation of each object by its clip's name, in the order of ``list.txt``. What an object's id begins
    with _ (``_ignore``: pixels that do not count) is none.
    """
    root = root / "sequences" if (root / "sequences").is_dir() else root
    found = {folder.name: files for folder, files in annotation_files(root, "groundtruth*.txt").items()}
    note(listed := root / "list.txt")
    names = listed_sequences(listed, found) if listed.is_file() else found
    return {_name(file): file for name in names for file in found[name] if not file.stem.startswith(_NO_OBJECT)}


def _name(file: Path) -> str:
    return file.parent.name + file.stem.removeprefix("groundtruth")


def _images(folder: Path) -> Path:
    """Return the folder of a sequence's frames."""
    note(about := folder / "sequence")
    named = dict(re.findall(r"(?m)^channels?\.(\w+)\s*=\s*(\S+)", read_text(about) if about.is_file() else ""))
    places = [folder / named[key] for key in sorted(named, key=(*_CHANNELS, *named).index)]
    places = [place.parent if "%" in place.name else place for place in places]
    return next((place for place in (*places, *(folder / name for name in _CHANNELS)) if place.is_dir()), folder)
