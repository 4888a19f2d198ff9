"""The annotations of a tree, read once: an index of cleaned clips that later commands open.

Promise: an index is used again only while everything that the reader read or listed has the size
and the time of change it had, the exclusions are the same, and so is the code that reads and
cleans. It appears whole or not at all. Not noticed: images that go, or are replaced by others of
another size, and a file of the same size that changes within milliseconds of being read.
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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from lorat.prep.annotations.cleaning import Removed, clean_counted
from lorat.prep.annotations.clipstore import ClipIndex, write_clips
from lorat.prep.annotations.columns import ColumnWriter, NotColumns
from lorat.prep.annotations.exclude import Exclusions, exclude_clips
from lorat.prep.trees.base.clip import Clip, Dataset
from lorat.prep.trees.base.reading import Stamp, note, reading, stamp
from lorat.prep.trees.registry import read_clips
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file, remove_leftovers
from lorat.shards.pixels.jpeg import ImageError, image_size

__all__ = ["ClipIndex", "cache_folder", "indexed_clips"]

_LOG = logging.getLogger("lorat")
_SIZE_TRIES = 5  # images of a sequence that are tried for its size
# What decides what an index says: this package, clipping of boxes, and frame sizes.
_CODE = (
    *("prep/*.py", "prep/trees/*.py", "prep/trees/data/*"),
    *("shards/pixels/geometry.py", "shards/pixels/jpeg.py"),
)

Progress = Callable[[int, int], None]

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
    progress: Progress | None = None,
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
        progress: called with (sequences done, in all), first while annotations are read, then
            while they are indexed.

    Raises:
        UserError: from the reader; if no sequence has a visible object; if neither the cache nor a
            temporary folder can be written.
    """
    job = _Job(dataset, split, root.resolve(), exclude)
    folder = ((cache or cache_folder()) / "index").absolute()
    if exclude is not None and job.name not in exclude.sequences:
        _LOG.warning("the report of the check says nothing about %s: all of it is used", job.name)
    for place in {folder, _elsewhere.get(folder, folder)}:
        found = _open_current(place / job.file_name(), job.code())
        if found is not None:
            return found
    if folder not in _elsewhere:
        try:
            return _write(job, folder, progress)
        except _CannotWrite as error:
            _elsewhere[folder] = _temporary(str(error))
    try:
        return _write(job, _elsewhere[folder], progress)
    except _CannotWrite as error:
        raise _no_room(str(error)) from None


class _CannotWrite(Exception):
    """An index that could not be written where it was tried."""


class _Nothing(Exception):
    """A tree of which nothing is left."""


@dataclass(frozen=True, slots=True)
class _Job:
    dataset: Dataset
    split: str
    root: Path
    exclude: Exclusions | None

    @property
    def name(self) -> str:
        return f"{self.dataset.name}-{self.split}"

    def excluded(self) -> str:
        """Return a hash of what is left out of this split; empty where that is nothing."""
        return self.exclude.of(self.name).fingerprint() if self.exclude else ""

    def file_name(self) -> str:
        """Return the index's name: one for each split, tree and set of exclusions."""
        key = f"{self.name}\0{self.root}\0{self.excluded()}".encode("utf-8", "surrogatepass")
        return f"{self.name}-{hashlib.sha256(key).hexdigest()[:12]}.index"

    def code(self) -> str | None:
        """Return a hash of the code that decides what is read, or None where it has no file."""
        read = self.dataset.read
        while isinstance(read, functools.partial):
            read = read.func
        file = getattr(sys.modules.get(read.__module__), "__file__", None)
        if file is None:
            return None
        return _code_hash(file, f"{read.__module__}\0{self.dataset.one_based}")

    def skip(self) -> frozenset[str]:
        """Return the sequences that are excluded whole: they are not opened."""
        return self.exclude.sequences.get(self.name, frozenset()) if self.exclude else frozenset()

    def read(self) -> list[Clip]:
        """Read the tree, without what is excluded."""
        clips = read_clips(self.dataset, self.split, self.root)
        return exclude_clips(clips, self.exclude) if self.exclude and self.excluded() else clips


@dataclass(slots=True)
class _Tally:
    """What did not get into an index."""

    removed: Removed = field(default_factory=Removed)
    lost: dict[str, str] = field(default_factory=dict)


@functools.cache  # the code that runs is the one that was there when this process began
def _code_hash(reader: str, rest: str) -> str:
    """Hash our reading and cleaning code and the file of a reader."""
    ours = Path(__file__).parent.parent
    files = [file for pattern in _CODE for file in sorted(ours.glob(pattern))]
    digest = hashlib.sha256(rest.encode())
    for file in [*files, Path(reader)]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _open_current(path: Path, code: str | None) -> ClipIndex | None:
    """Open an index if it is there, whole, by the same code, and of a tree that is as it was."""
    try:
        index = ClipIndex(path)
    except (OSError, NotColumns):
        return None
    if code is None or index.columns.header.get("code") != code:
        return None
    sources = index.columns.arrays["sources"].tobytes().decode("utf-8", "surrogatepass")
    stamps = index.columns.arrays["stamps"].tolist()
    same = all(
        stamp(source) == (size, changed)
        for source, (size, changed) in zip(sources.split("\0"), stamps, strict=True)
    )
    return index if same else None


def _write(job: _Job, folder: Path, progress: Progress | None) -> ClipIndex:
    """Read the tree and write its index.

    Raises:
        _CannotWrite: if it cannot be written to `folder`.
    """
    _try_writing(folder)
    path, tally = folder / job.file_name(), _Tally()
    root_before = stamp(job.root)
    with reading(skip=job.skip(), progress=progress) as seen:
        clips = job.read()
        # Where a reader noted nothing of the tree, its index never counts as current.
        watched = any(Path(place).is_relative_to(job.root) for place in seen)
        code = job.code() if watched else None
        # What a reader only asked about, such as whether a folder exists.
        seen.setdefault(str(job.root), root_before)
        try:
            with atomic_file(path) as file:
                writer = ColumnWriter(file)
                counts = write_clips(writer, _cleaned(clips, tally, progress))
                if not counts.sequences:
                    raise _Nothing
                _put_sources(writer, seen)
                about = {**asdict(counts), **asdict(tally), "code": code}
                writer.finish({**about, "dataset": job.dataset.name, "split": job.split})
        except _Nothing:
            raise _no_object(job, tally) from None
        except UserError as error:
            raise _CannotWrite(error.message) from None
    return ClipIndex(path)


def _cleaned(clips: list[Clip], tally: _Tally, progress: Progress | None) -> Iterator[Clip]:
    """Yield what training draws from; empties `clips` on the way, since a tree may fill memory."""
    total = len(clips)
    clips.reverse()
    while clips:
        clip = clips.pop()
        try:
            size = _frame_size(clip)
        except ImageError as error:
            tally.lost[clip.name] = error.message
        else:
            cleaned = clean_counted(replace(clip, size=size), size)
            tally.removed += cleaned.removed
            if cleaned.clip is not None:
                yield cleaned.clip
        if progress:
            progress(total - len(clips), total)


def _frame_size(clip: Clip) -> tuple[int, int]:
    """Return a sequence's frame size, from the first image that has a readable header.

    Raises:
        ImageError: the first image's, if none of the first few is readable.
    """
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


def _put_sources(writer: ColumnWriter, seen: dict[str, Stamp]) -> None:
    text = "\0".join(seen).encode("utf-8", "surrogatepass")
    writer.put("sources", np.frombuffer(text, np.uint8))
    writer.put("stamps", np.array(list(seen.values()), np.int64))


def _no_object(job: _Job, tally: _Tally) -> UserError:
    reason = f" ({len(tally.lost)} lost: {next(iter(tally.lost.values()))})" if tally.lost else ""
    return UserError(
        f"{job.root}: no sequence of {job.name} has a visible object{reason}; nothing to build, "
        "check the tree with lorat-prep check"
    )


def _try_writing(folder: Path) -> None:
    """Raise _CannotWrite before time is spent on reading a tree for a folder that takes nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        remove_leftovers(folder)
    except OSError as error:
        raise _CannotWrite(f"{folder}: cannot be written ({error.strerror})") from None


def _temporary(trouble: str) -> Path:
    """Return a temporary folder that stands in for a cache until this process ends."""
    try:
        place = Path(tempfile.mkdtemp(prefix="lorat-index-"))
    except OSError as error:
        raise _no_room(f"{trouble}; {error}") from None
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    _LOG.warning(
        "%s; annotations are indexed for this command only, in %s: LORAT_CACHE can name a folder "
        "with room",
        *(trouble, place),
    )
    return place


def _no_room(trouble: str) -> UserError:
    return UserError(
        f"{trouble}; there is no place for an index of annotations, set LORAT_CACHE to a folder "
        "with room"
    )
