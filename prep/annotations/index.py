"""The annotations of a tree, read once: an index of cleaned clips that later commands open.

Promise: an index is used again only while everything that the reader read or listed has the size and the time of change
it had, the exclusions are the same, and so is `_VERSION`. It appears whole or not at all, under a name that tells its
content, so that nobody who uses one, on whatever machine, sees it change; one that nobody used for a month goes. What
was warned of while it was made is warned of again. Not noticed: images that go, or are replaced by others of another
size, and a file of the same size that changes within milliseconds of being read.
"""

import functools
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lorat.prep.annotations.cleaning import clean
from lorat.prep.annotations.clips import ClipIndex, write_clips
from lorat.prep.annotations.exclude import Exclusions, exclude_clips
from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles
from lorat.prep.trees.base.notation import Notation
from lorat.prep.trees.base.reading import Reading, TreeFault, in_threads, note, stamp, summed_up
from lorat.prep.trees.registry import read_clips
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file, cache_folder, remove_leftovers, remove_old
from lorat.shards.pixels.jpeg import ImageError, image_size

_LOG = logging.getLogger("lorat")
_VERSION = 8  # raise it when a reader of ours or cleaning gives other clips of the same tree
_SIZE_TRIES = 5  # images of a sequence that are tried for its size
_UNUSED_AFTER = 30 * 86400.0  # seconds
_CountProgress = Callable[[int, int], None]  # called with (done, in all)


def indexed_clips(
    dataset: Dataset,
    split: str,
    root: Path,
    exclude: Exclusions | None = None,
    cache: Path | None = None,
    progress: _CountProgress | None = None,
) -> ClipIndex:
    """Return the cleaned clips of a split, from the cache where nothing changed. A sequence whose annotations are
    damaged (by more than one or two spare rows), or whose first images are all unreadable, is left out; the index's
    `lost` says why, `odd` what looks wrong about the boxes of all. Where only the first image is damaged, a warning
    says which gave the size. `root` is the data set's folder; the index lies in the folder ``index`` of `cache`, or of
    `cache_folder`. `progress` is of sequences, first read, then indexed. A `UserError` is the reader's, or says that no
    sequence has a visible object, or that the cache cannot be written.
    """
    root, out = root.resolve(), exclude or Exclusions(f"{dataset.name}-{split}")
    what = (_VERSION, out.split, root, out.fingerprint(), _module(dataset), dataset.one_based)
    key = hashlib.sha256("\0".join(map(str, what)).encode("utf-8", "surrogatepass")).hexdigest()
    path = ((cache or cache_folder()) / "index" / f"{out.split}-{key[:12]}.index").absolute()
    if index := _current(path):
        for message in index.warned:
            _LOG.warning("%s", message)
        return index
    try:  # before time is spent on reading a tree
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            remove_leftovers(path.parent)
            remove_old(path.parent.glob("*.index"), _UNUSED_AFTER)
    except OSError as error:
        trouble = f"{path.parent}: cannot be written ({error.strerror})"
        raise UserError(f"{trouble}; set LORAT_CACHE to a folder with room for annotations") from None
    return _write(path, dataset, split, root, out, progress)


def _current(path: Path) -> ClipIndex | None:
    """Return the newest index of those named `path` and their content whose tree did not change since."""
    found = path.parent.glob(f"{path.stem}-*{path.suffix}")
    for file in sorted(found, key=lambda file: stamp(file)[1], reverse=True):
        with suppress(OSError):
            try:
                index = ClipIndex(file)
            except ValueError:  # damaged; a new one may get the same name
                file.unlink()
                continue
            same = in_threads(lambda source: stamp(source[0]) == tuple(source[1]), index.extra().items())
            if index.header["noticed"] and all(same):
                with suppress(OSError):  # another user's
                    os.utime(file)
                return index
    return None


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
    faults, root_before = list[TreeFault](), stamp(root)
    found: dict[str, Any] = {"lost": dict[str, str](), "odd": list[str](), "outside": 0}
    lost = found["lost"]
    with Reading(skip=out.sequences, faults=faults, progress=progress) as how:
        seen = how.seen
        clips = exclude_clips(read_clips(dataset, split, root), out)
        for fault in faults:
            if fault.damage and not fault.spare:
                lost.setdefault(fault.sequence, fault.message)
        told = [(fault.sequence, fault.message) for fault in faults if fault.spare or not fault.damage]
        for message in (*summed_up(told), *map(str, how.lacks)):
            _LOG.warning("%s", message)
        clips = [clip for clip in clips if clip.name not in lost]
        # A tree of which a reader noted nothing, or a reader without a file, may change unnoticed.
        noticed = any(Path(place).is_relative_to(root) for place in seen)
        if not _module(dataset).startswith("lorat."):  # ours have `_VERSION`
            file = getattr(sys.modules.get(_module(dataset)), "__file__", None)
            noticed = noticed and file is not None
            note(file or root)
        seen.setdefault(str(root), root_before)  # what a reader only asked about, such as whether a folder exists
        cleaned = _cleaned(clips, found, progress)
        if (first := next(cleaned, None)) is None:
            reason = f" ({len(lost)} lost: {next(iter(lost.values()))})" if lost else ""
            remedy = "nothing to build, check the tree with lorat-prep check"
            raise UserError(f"{root}: no sequence of {out.split} has a visible object{reason}; {remedy}")
        found |= {"noticed": noticed, "dataset": dataset.name, "split": split, "warned": how.warned}
        digest = ""
        try:
            with atomic_file(path, lambda: f"{path.stem}-{digest}{path.suffix}") as opened:
                digest = write_clips(opened, chain([first], cleaned), found, seen)
        except UserError as error:
            raise UserError(f"{error.message}; or set LORAT_CACHE to a folder with room") from None
    return ClipIndex(path.with_stem(f"{path.stem}-{digest}"))


def _cleaned(clips: list[Clip], found: dict[str, Any], progress: _CountProgress | None) -> Iterator[Clip]:
    """Yield what training draws from; empties `clips` on the way, since a tree may fill memory. What is `found`:
    sequences that are ``lost``, how many visible boxes lie ``outside`` their images, and at last what is ``odd``.
    """
    total, notation = len(clips), Notation()
    clips.reverse()
    with closing(in_threads(_image_size, [clip.frames for clip in reversed(clips) if not clip.size])) as sizes:
        while clips:
            clip = clips.pop()
            size, said = (clip.size, "") if clip.size else next(sizes)
            if size is None:
                found["lost"][clip.name] = said
            else:
                if said:
                    _LOG.warning("%s", said)
                notation.add(clip, size)
                cleaned = clean(replace(clip, size=size), size)
                found["outside"] += _visible(clip) - (_visible(cleaned) if cleaned else 0)
                if cleaned is not None:
                    yield cleaned
            if progress:
                progress(total - len(clips), total)
    found["odd"] += notation.oddities()


def _visible(clip: Clip) -> int:
    return sum(int(track.visible.sum()) for track in clip.tracks)


def _image_size(frames: FrameFiles) -> tuple[tuple[int, int] | None, str]:
    """Return the frame size, of the first image that has a readable header, and a warning; or None, and why."""
    bad: list[str] = []
    for path in islice(frames, _SIZE_TRIES):
        try:
            size = image_size(path)
        except ImageError as error:
            note(path)  # an index without this sequence is out of date once the image is repaired
            bad.append(error.message)
            continue
        return size, f"{bad[0]}; the sequence's size is taken from {path.name}" if bad else ""
    return None, bad[0] if bad else f"{frames.folder}: holds no frames; restore them"
