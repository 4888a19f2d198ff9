"""Clips in one file of columns, and a sequence of clips over its memory map.

Promise: what is read equals what was written (boxes, flags, names of any characters). Opening takes
milliseconds, a clip some tens of microseconds; its arrays are read-only views into the map.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np

from lorat.prep.annotations.cleaning import Removed
from lorat.prep.annotations.columns import ColumnWriter, NotColumns, open_columns
from lorat.prep.annotations.fingerprint import AnnotationsDigest
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.shards.base.errors import UserError

__all__ = ["ClipCounts", "ClipIndex", "write_clips"]

_TEXTS = 4  # name, folder, pattern, frame names
_SEPARATOR = "\0"  # the only character besides / that no file name holds
_COLUMNS = ("boxes", "visible", "cover", "rows", "cover_rows", "facts", "text", "text_ends")


@dataclass(frozen=True, slots=True)
class ClipCounts:
    """What `write_clips` wrote."""

    sequences: int
    frames: int
    object_frames: int
    """Visible objects over all frames."""
    fingerprint: str
    """`lorat.prep.annotations.fingerprint.annotations_fingerprint` of the clips."""


class ClipIndex(Sequence[Clip]):
    """The cleaned clips of one data set split, read from a file when they are asked for.

    Picklable as its path: a worker process opens the same file.

    Args:
        path: written by `lorat.prep.annotations.index.indexed_clips`.

    Raises:
        OSError: if the file cannot be opened.
        NotColumns: if it is no whole index.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns = open_columns(path)
        header, arrays = self.columns.header, self.columns.arrays
        try:
            self.dataset: str = header["dataset"]
            self.split: str = header["split"]
            self.frames: int = header["frames"]
            self.object_frames: int = header["object_frames"]
            self.fingerprint: str = header["fingerprint"]
            self.lost: dict[str, str] = header["lost"]
            self.removed = Removed(**header["removed"])
            self._boxes, self._visible, self._cover, *rest = (arrays[name] for name in _COLUMNS)
            self._rows, self._cover_rows, self._facts, self._text, self._text_ends = rest
        except (KeyError, TypeError) as error:
            raise NotColumns(f"{path}: is no index of clips ({error})") from None

    @property
    def name(self) -> str:
        """``<dataset>-<split>``."""
        return f"{self.dataset}-{self.split}"

    def __len__(self) -> int:
        return len(self._facts)

    @overload
    def __getitem__(self, index: int) -> Clip: ...

    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...

    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        if isinstance(index, slice):
            return [self._clip(i) for i in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        return self._clip(at)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path), self.columns.digest)

    def _clip(self, number: int) -> Clip:
        annotated, width, height, first, start, stop, step, end = self._facts[number].tolist()
        name, folder, pattern, listed = self._strings(number)
        names = range(start, stop, step) if step else tuple(listed.split(_SEPARATOR))
        begin = int(self._facts[number - 1, 7]) if number else 0
        return Clip(
            self.dataset,
            self.split,
            name,
            FrameFiles(Path(folder), names, pattern),
            tuple(self._track(track) for track in range(begin, end)),
            annotated,
            (width, height) if width else None,
            first,
        )

    def _strings(self, number: int) -> list[str]:
        at = number * _TEXTS
        ends = self._text_ends[at : at + _TEXTS + 1].tolist()
        raw = self._text[ends[0] : ends[-1]].tobytes()
        cuts = [end - ends[0] for end in ends]
        return [raw[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(cuts)]

    def _track(self, number: int) -> Track:
        start, end = self._rows[number : number + 2].tolist()
        cover_start, cover_end = self._cover_rows[number : number + 2].tolist()
        cover = self._cover[cover_start:cover_end] if cover_end > cover_start else None
        return Track(self._boxes[start:end], self._visible[start:end], cover)


def _reopen(path: str, digest: str) -> ClipIndex:
    try:
        index = ClipIndex(Path(path))
    except (OSError, NotColumns) as error:
        raise UserError(
            f"{path}: this process cannot open the index of annotations ({error}); set LORAT_CACHE "
            "to a folder that all processes and machines share, and run again"
        ) from None
    if index.columns.digest != digest:
        raise UserError(f"{path}: the annotations changed while they were used; run again")
    return index


def write_clips(writer: ColumnWriter, clips: Iterable[Clip]) -> ClipCounts:
    """Write the columns that `ClipIndex` reads, one clip at a time.

    Args:
        writer: takes the columns; the caller finishes it.
        clips: cleaned; all of one data set and split.
    """
    table, digest = _Table(), AnnotationsDigest()
    with writer.column("boxes", np.dtype("<f8"), (4,)) as boxes:
        for clip in clips:
            digest.add(clip)
            table.add(clip)
            for track in clip.tracks:
                boxes.append(track.boxes)
    table.write(writer)
    return ClipCounts(table.sequences, table.frames, sum(table.visible), digest.fingerprint())


class _Table:
    """Everything but the boxes, as compact as the file, until all clips went by."""

    def __init__(self) -> None:
        self.sequences = self.frames = 0
        self.visible, self._cover = bytearray(), bytearray()
        self._rows, self._cover_rows = array("q", [0]), array("q", [0])
        self._facts = array("q")
        self._text, self._text_ends = bytearray(), array("q", [0])

    def add(self, clip: Clip) -> None:
        for track in clip.tracks:
            self.visible += np.ascontiguousarray(track.visible, np.bool_).data
            self._rows.append(len(self.visible))
            if track.cover is not None:
                self._cover += np.ascontiguousarray(track.cover, "<i8").tobytes()
            self._cover_rows.append(len(self._cover) // 8)
        names = clip.frames.names
        span = names if isinstance(names, range) else range(0, 0, 1)
        step = span.step if isinstance(names, range) else 0
        tracks = len(self._rows) - 1
        size = clip.size or (0, 0)
        self._facts.extend((clip.annotated, *size, clip.first, span.start, span.stop, step, tracks))
        listed = "" if isinstance(names, range) else _SEPARATOR.join(names)
        for text in (clip.name, str(clip.frames.folder), clip.frames.pattern, listed):
            self._text += text.encode("utf-8", "surrogatepass")
            self._text_ends.append(len(self._text))
        self.sequences += 1
        self.frames += len(names)

    def write(self, writer: ColumnWriter) -> None:
        writer.put("visible", np.frombuffer(self.visible, np.bool_))
        writer.put("cover", np.frombuffer(self._cover, "<i8"))
        writer.put("rows", np.array(self._rows))
        writer.put("cover_rows", np.array(self._cover_rows))
        writer.put("facts", np.array(self._facts, np.int64).reshape(-1, 8))
        writer.put("text", np.frombuffer(self._text, np.uint8))
        writer.put("text_ends", np.array(self._text_ends))
