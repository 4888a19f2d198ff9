"""The annotations of a tree, read once: an index of cleaned clips that later commands open.

Promise: an index is used again only while everything that the reader read or listed has the size
and the time of change it had, the exclusions are the same, and so is `_VERSION`. It appears whole
or not at all. Not noticed: images that go, or are replaced by others of another size, and a file of
the same size that changes within milliseconds of being read.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from lorat.prep.annotations.cleaning import clean
from lorat.prep.annotations.clips import ClipIndex, NotClips, write_clips
from lorat.prep.annotations.exclude import Exclusions, exclude_clips
from lorat.prep.trees.base.clip import Clip, Dataset
from lorat.prep.trees.base.reading import note, reading, stamp
from lorat.prep.trees.registry import read_clips
from lorat.prep.trees.sources import Source
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file, remove_leftovers
from lorat.shards.pixels.jpeg import ImageError, image_size

_LOG = logging.getLogger("lorat")
_VERSION = 1  # raise it when a reader of ours or cleaning gives other clips of the same tree
_SIZE_TRIES = 5  # images of a sequence that are tried for its size

CountProgress = Callable[[int, int], None]
"""Called with (done, in all)."""

_elsewhere: dict[Path, Path] = {}
"""Cache folder that cannot be written → the temporary one of this process."""


def cache_folder() -> Path:
    """Return the folder of everything that can be made again.

    ``LORAT_CACHE``, else ``XDG_CACHE_HOME/lorat``, else ``~/.cache/lorat``.
    """
    if named := os.environ.get("LORAT_CACHE"):
        return Path(named).expanduser()
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named).expanduser() / "lorat"
    return Path.home() / ".cache" / "lorat"


def indexed_clips(
    dataset: Dataset,
    split: str,
    root: Path,
    exclude: Exclusions | None = None,
    cache: Path | None = None,
    progress: CountProgress | None = None,
) -> ClipIndex:
    """Return the cleaned clips of a split, from the cache where nothing changed.

    A sequence whose first images are all unreadable is left out; the index's `lost` says why. Where
    only the first is damaged, a warning says which image gave the size. Where the cache cannot be
    written, a warning says so and the index lies in a temporary folder until the process ends.

    Args:
        dataset: a row of `lorat.prep.trees.DATASETS`, or one's own.
        split: one of its splits.
        root: the data set's folder.
        exclude: sequences and frames to leave out.
        cache: the folder of caches; the index lies in its folder ``index``. None takes
            `cache_folder`.
        progress: of sequences, first while annotations are read, then while they are indexed.

    Raises:
        UserError: from the reader; if no sequence has a visible object; if neither the cache nor a
            temporary folder can be written.
    """
    source, left_out = Source(dataset, split, root.resolve()), exclude or Exclusions()
    if exclude is not None and source.name not in exclude.sequences:
        _LOG.warning(
            "the report of the check says nothing about %s: all of it is used", source.name
        )
    folder = ((cache or cache_folder()) / "index").absolute()
    name = _file_name(source, left_out)
    for place in {folder, _elsewhere.get(folder, folder)}:
        if found := _open_current(place / name):
            return found
    try:
        return _write(_elsewhere.get(folder, folder) / name, source, left_out, progress)
    except _CannotWrite as error:
        if folder in _elsewhere:
            raise
        _elsewhere[folder] = _temporary(error)
        return _write(_elsewhere[folder] / name, source, left_out, progress)


class _CannotWrite(UserError):
    """An index that could not be written where it was tried."""

    def __init__(self, trouble: str) -> None:
        self.trouble = trouble
        super().__init__(
            f"{trouble}; there is no place for an index of annotations, set LORAT_CACHE to a "
            "folder with room"
        )


def _file_name(source: Source, exclude: Exclusions) -> str:
    """Return an index's name: one for each split, tree, reader and set of exclusions."""
    left_out = exclude.of(source.name).fingerprint()
    reader = f"{_module(source.dataset)}\0{source.dataset.one_based}"
    key = f"{source.name}\0{source.root}\0{left_out}\0{reader}"
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{source.name}-{digest[:12]}.index"


def _module(dataset: Dataset) -> str:
    """Return the name of the module that defines a data set's reader."""
    read = dataset.read
    while isinstance(read, functools.partial):
        read = read.func
    return read.__module__


def _open_current(path: Path) -> ClipIndex | None:
    """Open an index if it is there, whole, of this version, and of a tree that is as it was."""
    try:
        index = ClipIndex(path)
    except (OSError, NotClips):
        return None
    current = index.header["version"] == _VERSION and all(
        stamp(source) == tuple(then) for source, then in index.extra().items()
    )
    return index if current else None


def _write(
    path: Path, source: Source, exclude: Exclusions, progress: CountProgress | None
) -> ClipIndex:
    """Read a tree and write its index.

    Raises:
        _CannotWrite: if it cannot be written there.
    """
    _try_writing(path.parent)
    root, lost = source.root, dict[str, str]()
    root_before = stamp(root)
    skip = exclude.sequences.get(source.name, frozenset())
    with reading(skip=skip, progress=progress) as seen:
        clips = exclude_clips(read_clips(source.dataset, source.split, root), exclude)
        # A tree of which a reader noted nothing, or a reader without a file, may change unnoticed.
        current = any(Path(place).is_relative_to(root) for place in seen)
        module = _module(source.dataset)
        if not module.startswith("lorat."):  # ours have `_VERSION`
            file = getattr(sys.modules.get(module), "__file__", None)
            current = current and file is not None
            if file is not None:
                note(file)
        cleaned = _cleaned(clips, lost, progress)
        first = next(cleaned, None)
        if first is None:
            reason = f" ({len(lost)} lost: {next(iter(lost.values()))})" if lost else ""
            raise UserError(
                f"{root}: no sequence of {source.name} has a visible object{reason}; nothing to "
                "build, check the tree with lorat-prep check"
            )
        # What a reader only asked about, such as whether a folder exists.
        seen.setdefault(str(root), root_before)
        about = {
            "version": _VERSION if current else None,
            "dataset": source.dataset.name,
            "split": source.split,
            "lost": lost,
        }
        try:
            with atomic_file(path) as opened:
                write_clips(opened, chain([first], cleaned), about, seen)
        except UserError as error:
            raise _CannotWrite(error.message) from None
    return ClipIndex(path)


def _cleaned(
    clips: list[Clip], lost: dict[str, str], progress: CountProgress | None
) -> Iterator[Clip]:
    """Yield what training draws from; empties `clips` on the way, since a tree may fill memory."""
    total = len(clips)
    clips.reverse()
    while clips:
        clip = clips.pop()
        try:
            size = _frame_size(clip)
        except ImageError as error:
            lost[clip.name] = error.message
        else:
            cleaned = clean(replace(clip, size=size), size)
            if cleaned is not None:
                yield cleaned
        if progress:
            progress(total - len(clips), total)


def _frame_size(clip: Clip) -> tuple[int, int]:
    """Return a sequence's frame size, from the first image that has a readable header."""
    if clip.size is not None:
        return clip.size
    first: ImageError | None = None
    for number in range(min(_SIZE_TRIES, len(clip.frames))):
        path = clip.frames[number]
        try:
            size = image_size(path)
        except ImageError as error:
            note(path)  # an index without this sequence is out of date once the image is repaired
            first = first or error
            continue
        if first is not None:
            _LOG.warning("%s; the sequence's size is taken from %s", first.message, path.name)
        return size
    raise first or ImageError(f"{clip.frames.folder}: holds no frames; restore them")


def _try_writing(folder: Path) -> None:
    """Raise _CannotWrite before time is spent on reading a tree for a folder that takes nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        remove_leftovers(folder)
    except OSError as error:
        raise _CannotWrite(f"{folder}: cannot be written ({error.strerror})") from None


def _temporary(refused: _CannotWrite) -> Path:
    """Return a temporary folder that stands in for a cache until this process ends."""
    try:
        place = Path(tempfile.mkdtemp(prefix="lorat-index-"))
    except OSError as error:
        raise _CannotWrite(f"{refused.trouble}; {error}") from None
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    _LOG.warning(
        "%s; annotations are indexed for this command only, in %s: LORAT_CACHE can name a folder "
        "with room",
        *(refused.trouble, place),
    )
    return place
