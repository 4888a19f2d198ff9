"""Cleaned clips in one file, and a sequence of clips over its memory map.

Layout: the sections of `_SECTIONS` one after the other, a header as JSON, its length in 8 bytes; all little-endian.
Promise: what is read equals what was written (boxes, visibility, names of any characters; not what only scoring needs:
`Track.flagged`, `Clip.before`, `Clip.images`); arrays are read-only views into the map and stay valid when the file is
replaced. A file that ends early or is of another kind is refused; flipped bits inside a section are not found.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.shards.base.errors import UserError

_SECTIONS = {
    "boxes": ("<f8", (4,)),  # every track's rows, one clip after the other
    "ends": ("<i8", (3,)),  # where each clip begins, and the last ends: boxes, cover, facts
    "visible": ("?", ()),  # as boxes
    "cover": ("<i8", ()),  # of the tracks that have it
    "facts": ("u1", ()),  # JSON of each clip: all but its arrays
    "extra": ("u1", ()),  # JSON of the writer's
}
_LENGTH = np.dtype("<i8")


class ClipIndex(Sequence[Clip]):
    """The cleaned clips of one split in a file; picklable as its path, so that a worker process opens the same one. An
    `OSError` if it cannot be opened, a `ValueError` if `write_clips` did not write it, or not to its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            data = np.memmap(path, np.uint8, "r").view(np.ndarray)
            body = data[: -_LENGTH.itemsize]
            length = int(data[len(body) :].view(_LENGTH)[0])
            text = body[len(body) - length :].tobytes()
            self.header: dict[str, Any] = json.loads(text)
            sizes = self.header["sizes"]
            if sum(sizes) + length != len(body):
                raise ValueError("its sections do not fill it")
            self._boxes, self._ends, self._visible, self._cover, self._facts, self._extra = (
                data[end - size : end].view(dtype).reshape(-1, *row)
                for (dtype, row), size, end in zip(_SECTIONS.values(), sizes, np.cumsum(sizes), strict=True)
            )
            self.dataset: str = self.header["dataset"]
            self.split: str = self.header["split"]
            self.frames: int = self.header["frames"]
            self.object_frames: int = self.header["object_frames"]
            self.fingerprint: str = self.header["fingerprint"]
            self.lost: dict[str, str] = self.header["lost"]
            self.warned: list[str] = self.header["warned"]
            self.odd: list[str] = self.header["odd"]
            self.outside: int = self.header["outside"]  # visible boxes that were removed
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{path}: is no whole index of clips ({error})") from None
        self.digest = hashlib.sha256(text).hexdigest()[:16]  # of all, since the header holds hashes of the rest

    def extra(self) -> Any:
        """Return what the writer left besides."""
        return json.loads(self._extra.tobytes())

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int | slice) -> Any:
        at = range(len(self))[index]
        return self._clip(at) if isinstance(at, int) else [self._clip(number) for number in at]

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path), self.digest)

    def _clip(self, number: int) -> Clip:
        (row, cover, begin), (_, _, end) = self._ends[number : number + 2].tolist()
        name, folder, pattern, names, annotated, size, first, covered = json.loads(self._facts[begin:end].tobytes())
        names = tuple(names) if isinstance(names, list) else range(*names["range"])
        tracks = []
        for has_cover in covered:
            rows, covers = slice(row, row + len(names)), slice(cover, cover + len(names) * has_cover)
            tracks.append(Track(self._boxes[rows], self._visible[rows], self._cover[covers] if has_cover else None))
            row, cover = rows.stop, covers.stop
        frames = FrameFiles(Path(folder), names, pattern)
        return Clip(self.dataset, self.split, name, frames, tuple(tracks), annotated, size and tuple(size), first)


def _reopen(path: str, digest: str) -> ClipIndex:
    try:
        index = ClipIndex(Path(path))
    except (OSError, ValueError) as error:
        remedy = "set LORAT_CACHE to a folder that all processes and machines share, and run again"
        raise UserError(f"{path}: this process cannot open the index of annotations ({error}); {remedy}") from None
    if index.digest != digest:
        raise UserError(f"{path}: the annotations changed while they were used; run again")
    return index


def write_clips(file: BinaryIO, clips: Iterable[Clip], about: Mapping[str, Any], extra: Mapping[str, Any]) -> str:
    """Write what `ClipIndex` reads, one clip of a data set split at a time: only boxes are large. Return its `digest`.
    `about` joins the header; it and `extra`, JSON both, are looked at when all clips went by.
    """
    ends, visible, cover, facts = array("q", [0, 0, 0]), bytearray(), bytearray(), bytearray()
    frames = 0

    def stored() -> Iterator[Clip]:
        nonlocal frames
        for clip in clips:
            for track in clip.tracks:
                file.write(np.ascontiguousarray(track.boxes, "<f8").tobytes())
                visible.extend(np.ascontiguousarray(track.visible, np.bool_).tobytes())
                if track.cover is not None:
                    cover.extend(np.ascontiguousarray(track.cover, "<i8").tobytes())
            folder, names, pattern = str(clip.frames.folder), clip.frames.names, clip.frames.pattern
            span = names if isinstance(names, tuple) else {"range": [names.start, names.stop, names.step]}
            covered = [track.cover is not None for track in clip.tracks]
            row = (clip.name, folder, pattern, span, clip.annotated, clip.size, clip.first, covered)
            facts.extend(json.dumps(row, separators=(",", ":")).encode())
            ends.extend((len(visible), len(cover) // 8, len(facts)))
            frames += len(clip.frames)
            yield clip

    fingerprint = annotations_fingerprint(stored())
    rest = (np.array(ends, "<i8").tobytes(), visible, cover, facts, json.dumps(extra, sort_keys=True).encode())
    file.writelines(rest)
    sizes = [32 * len(visible), *map(len, rest)]
    counts = {"frames": frames, "object_frames": sum(visible), "fingerprint": fingerprint}
    counts["sha256"] = hashlib.sha256(b"".join(map(bytes, rest))).hexdigest()  # the fingerprint is of the boxes
    text = json.dumps({"sizes": sizes, **counts, **about}, allow_nan=False).encode()
    file.write(text + np.array([len(text)], _LENGTH).tobytes())
    return hashlib.sha256(text).hexdigest()[:16]


def annotations_fingerprint(clips: Iterable[Clip]) -> str:
    """Return a hash of cleaned clips in order, 16 hexadecimal digits: the same wherever the tree lies."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(f"{clip.name}\0{len(clip.frames)}\0{clip.frame_size()}\0".encode("utf-8", "surrogatepass"))
        for track in clip.tracks:
            digest.update(np.ascontiguousarray(np.nan_to_num(track.boxes, nan=-1.0).astype("<f8", copy=False)).data)
            digest.update(np.ascontiguousarray(track.visible).data)
    return digest.hexdigest()[:16]
