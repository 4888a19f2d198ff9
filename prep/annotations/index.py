"""The annotations of a tree, read once: an index of cleaned clips that later commands open.

Promise: an index is used again only while everything that the reader read or listed has the size and the time of change
it had, the exclusions are the same, and so is `_VERSION`. It appears whole or not at all. Not noticed: images that go,
or are replaced by others of another size, and a file of the same size that changes within milliseconds of being read.
"""

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

CountProgress = Callable[[int, int], None]
"""Called with (done, in all)."""


def cache_folder() -> Path:
    """Return the folder of everything that can be made again.

    ``LORAT_CACHE``, else ``XDG_CACHE_HOME/lorat``, else ``~/.cache/lorat``.
    """
    if named := os.environ.get("LORAT_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lorat"


def indexed_clips(
    dataset: Dataset,
    split: str,
    root: Path,
    exclude: Exclusions | None = None,
    cache: Path | None = None,
    progress: CountProgress | None = None,
) -> ClipIndex:
    """Return the cleaned clips of a split, from the cache where nothing changed.

    A sequence whose first images are all unreadable is left out; the index's `lost` says why. Where only the first is
    damaged, a warning says which image gave the size. Where the cache cannot be written, a warning says so and the
    index lies in a temporary folder until the process ends.

    The data set is a row of `lorat.prep.trees.DATASETS` or one's own, `root` its folder. The index lies in the folder
    ``index`` of `cache`, or of `cache_folder`. `progress` is of sequences, first while annotations are read, then while
    they are indexed.

    Raises:
        UserError: from the reader; if no sequence has a visible object; if neither the cache nor a temporary folder can
            be written.
    """
    root, out = root.resolve(), exclude or Exclusions(f"{dataset.name}-{split}")
    what = (out.split, root, out.fingerprint(), _module(dataset), dataset.one_based)
    key = hashlib.sha256("\0".join(map(str, what)).encode("utf-8", "surrogatepass")).hexdigest()
    name = f"{out.split}-{key[:12]}.index"
    folder = ((cache or cache_folder()) / "index").absolute()
    if found := _open_current(folder / name):
        return found
    if (place := _writable(folder)) != folder and (found := _open_current(place / name)):
        return found
    return _write(place / name, dataset, split, root, out, progress)


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
    except (OSError, ValueError):
        return None
    current = index.header["version"] == _VERSION and all(
        stamp(source) == tuple(then) for source, then in index.extra().items()
    )
    return index if current else None


def _write(
    path: Path, dataset: Dataset, split: str, root: Path, out: Exclusions, progress: CountProgress | None
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
        # What a reader only asked about, such as whether a folder exists.
        seen.setdefault(str(root), root_before)
        cleaned = _cleaned(clips, lost, progress)
        first = next(cleaned, None)
        if first is None:
            reason = f" ({len(lost)} lost: {next(iter(lost.values()))})" if lost else ""
            raise UserError(
                f"{root}: no sequence of {out.split} has a visible object{reason}; nothing to "
                "build, check the tree with lorat-prep check"
            )
        version = _VERSION if noticed else None
        about = {"version": version, "dataset": dataset.name, "split": split, "lost": lost}
        try:
            with atomic_file(path) as opened:
                write_clips(opened, chain([first], cleaned), about, seen)
        except UserError as error:
            raise UserError(f"{error.message}; or set LORAT_CACHE to a folder with room") from None
    return ClipIndex(path)


def _cleaned(clips: list[Clip], lost: dict[str, str], progress: CountProgress | None) -> Iterator[Clip]:
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


@functools.cache
def _writable(folder: Path) -> Path:
    """Return a folder of indices, or where it cannot be written a temporary one of this process.

    Found out before time is spent on reading a tree.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            remove_leftovers(folder)
        return folder
    except OSError as error:
        trouble = f"{folder}: cannot be written ({error.strerror})"
    try:
        place = Path(tempfile.mkdtemp(prefix="lorat-index-"))
    except OSError as error:
        raise UserError(f"{trouble}; {error}; set LORAT_CACHE to a folder with room for annotations") from None
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    _LOG.warning(
        "%s; annotations are indexed for this command only, in %s: LORAT_CACHE can name a folder with room",
        *(trouble, place),
    )
    return place
