"""The annotations of a tree, read once: an index of cleaned clips that later commands open.

Promise: an index is used again only while everything that the reader read or listed has the size and the time of change
it had, the exclusions are the same, and so is `_VERSION`. It appears whole or not at all. Not noticed: images that go,
or are replaced by others of another size, and a file of the same size that changes within milliseconds of being read.
"""

import functools
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from lorat.prep.annotations.cleaning import clean
from lorat.prep.annotations.clips import ClipIndex, write_clips
from lorat.prep.annotations.exclude import Exclusions, exclude_clips
from lorat.prep.trees.base.clip import Clip, Dataset
from lorat.prep.trees.base.reading import Reading, note, stamp
from lorat.prep.trees.registry import read_clips
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file, remove_leftovers
from lorat.shards.pixels.jpeg import ImageError, image_size

_LOG = logging.getLogger("lorat")
_VERSION = 2  # raise it when a reader of ours or cleaning gives other clips of the same tree
_SIZE_TRIES = 5  # images of a sequence that are tried for its size
_CountProgress = Callable[[int, int], None]  # called with (done, in all)


def cache_folder() -> Path:
    """Return the folder of what can be made again: ``LORAT_CACHE``, else ``lorat`` in ``XDG_CACHE_HOME``, ~/.cache."""
    if named := os.environ.get("LORAT_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lorat"


def indexed_clips(
    dataset: Dataset,
    split: str,
    root: Path,
    exclude: Exclusions | None = None,
    cache: Path | None = None,
    progress: _CountProgress | None = None,
) -> ClipIndex:
    """Return the cleaned clips of a split, from the cache where nothing changed.

    A sequence whose first images are all unreadable is left out; the index's `lost` says why. Where only the first is
    damaged, a warning says which image gave the size. `root` is the data set's folder; the index lies in the folder
    ``index`` of `cache`, or of `cache_folder`. `progress` is of sequences, first read, then indexed. A `UserError` is
    the reader's, or says that no sequence has a visible object, or that the cache cannot be written.
    """
    root, out = root.resolve(), exclude or Exclusions(f"{dataset.name}-{split}")
    what = (out.split, root, out.fingerprint(), _module(dataset), dataset.one_based)
    key = hashlib.sha256("\0".join(map(str, what)).encode("utf-8", "surrogatepass")).hexdigest()
    path = ((cache or cache_folder()) / "index" / f"{out.split}-{key[:12]}.index").absolute()
    try:
        index = ClipIndex(path)
        ours = index.header["version"] == _VERSION
        if ours and all(stamp(source) == tuple(then) for source, then in index.extra().items()):
            return index
    except (OSError, ValueError):
        pass  # there is none, or not a whole one
    try:  # before time is spent on reading a tree
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            remove_leftovers(path.parent)
    except OSError as error:
        trouble = f"{path.parent}: cannot be written ({error.strerror})"
        raise UserError(f"{trouble}; set LORAT_CACHE to a folder with room for annotations") from None
    return _write(path, dataset, split, root, out, progress)


def _module(dataset: Dataset) -> str:
    """Return the name of the module that defines a data set's reader."""
    read = dataset.read
    while isinstance(read, functools.partial):
        read = read.func
    return read.__module__


def _write(
    path: Path, dataset: Dataset, split: str, root: Path, out: Exclusions, progress: _CountProgress | None
) -> ClipIndex:
    """Read a tree and write its index."""
    lost: dict[str, str] = {}
    root_before = stamp(root)
    with Reading(skip=out.sequences, progress=progress) as how:
        seen = how.seen
        clips = exclude_clips(read_clips(dataset, split, root), out)
        # A tree of which a reader noted nothing, or a reader without a file, may change unnoticed.
        noticed = any(Path(place).is_relative_to(root) for place in seen)
        if not _module(dataset).startswith("lorat."):  # ours have `_VERSION`
            file = getattr(sys.modules.get(_module(dataset)), "__file__", None)
            noticed = noticed and file is not None
            note(file or root)
        seen.setdefault(str(root), root_before)  # what a reader only asked about, such as whether a folder exists
        cleaned = _cleaned(clips, lost, progress)
        first = next(cleaned, None)
        if first is None:
            reason = f" ({len(lost)} lost: {next(iter(lost.values()))})" if lost else ""
            raise UserError(
                f"{root}: no sequence of {out.split} has a visible object{reason}; nothing to build, check the tree "
                "with lorat-prep check"
            )
        version = _VERSION if noticed else None
        about = {"version": version, "dataset": dataset.name, "split": split, "lost": lost}
        try:
            with atomic_file(path) as opened:
                write_clips(opened, chain([first], cleaned), about, seen)
        except UserError as error:
            raise UserError(f"{error.message}; or set LORAT_CACHE to a folder with room") from None
    return ClipIndex(path)


def _cleaned(clips: list[Clip], lost: dict[str, str], progress: _CountProgress | None) -> Iterator[Clip]:
    """Yield what training draws from; empties `clips` on the way, since a tree may fill memory."""
    total = len(clips)
    clips.reverse()
    while clips:
        clip = clips.pop()
        try:
            size = clip.size or _image_size(clip)
        except ImageError as error:
            lost[clip.name] = error.message
        else:
            if (cleaned := clean(replace(clip, size=size), size)) is not None:
                yield cleaned
        if progress:
            progress(total - len(clips), total)


def _image_size(clip: Clip) -> tuple[int, int]:
    """Return a sequence's frame size, from the first image that has a readable header."""
    bad: list[ImageError] = []
    for path in islice(clip.frames, _SIZE_TRIES):
        try:
            size = image_size(path)
        except ImageError as error:
            note(path)  # an index without this sequence is out of date once the image is repaired
            bad.append(error)
            continue
        if bad:
            _LOG.warning("%s; the sequence's size is taken from %s", bad[0].message, path.name)
        return size
    raise bad[0] if bad else ImageError(f"{clip.frames.folder}: holds no frames; restore them")
