"""Looks at the image files of sequences: are they there, do they decode, how large are they.

What to look at is planned per sequence as small `Look`s, which worker processes carry out. A look
at the ends lists the folder where names are computed, and decodes the first and the last image; a
deep check adds looks that decode everything between them. What was seen of a sequence is summed in
`ImageFacts`; what it means is decided elsewhere.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorat.prep.trees.base.clip import Clip, FrameFiles
from lorat.shards.pixels.jpeg import ImageError, read_image

__all__ = ["ImageFacts", "Look", "batches", "look_at", "plan_looks"]

_DEEP_FRAMES = 128  # a look: under a second of decoding HD frames, so that Ctrl-C is quick


@dataclass(frozen=True, slots=True)
class Look:
    """One visit to a part of a sequence's images."""

    clip: int
    """Position of the sequence among the clips."""
    frames: FrameFiles
    numbers: Sequence[int]
    """The number in the sequence of each of `frames`."""
    decode: Sequence[int]
    """Positions in `frames` that are decoded."""
    listing: bool = False
    """Whether the folder is listed to find frames that are missing."""
    alone: bool = False
    """Whether no other sequence has its frames in this folder."""


@dataclass(slots=True)
class ImageFacts:
    """What was seen of one sequence's images; frames by their number in the sequence."""

    missing: set[int] = field(default_factory=set)
    unreadable: dict[int, str] = field(default_factory=dict)
    """Frame → what is wrong with the image, in one line."""
    sizes: dict[tuple[int, int], array[int]] = field(default_factory=dict)
    """(width, height) → the decoded frames of that size."""
    extra: int = 0
    """Images in the folder that belong to no frame."""

    def add(self, other: ImageFacts) -> None:
        """Take in what another look at the same sequence saw."""
        self.missing |= other.missing
        self.unreadable |= other.unreadable
        for size, frames in other.sizes.items():
            self.sizes.setdefault(size, array("i")).extend(frames)
        self.extra += other.extra

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) of the first image that decodes; None where none does."""
        return min(self.sizes, key=lambda size: min(self.sizes[size]), default=None)

    @property
    def decoded(self) -> int:
        """How many images decode."""
        return sum(len(frames) for frames in self.sizes.values())


def plan_looks(clips: Sequence[Clip], deep: bool) -> Iterator[Look]:
    """Yield the looks at all clips; every clip that has frames gets at least one."""
    users = Counter(clip.frames.folder for clip in clips)
    for index, clip in enumerate(clips):
        if len(clip.frames):
            yield _ends(index, clip, alone=users[clip.frames.folder] == 1)
            if deep:
                yield from _between(index, clip)


def batches(looks: Iterator[Look], images: int = _DEEP_FRAMES) -> Iterator[tuple[Look, ...]]:
    """Group looks into jobs that decode about `images` images."""
    batch: list[Look] = []
    weight = 0
    for look in looks:
        batch.append(look)
        weight += len(look.decode)
        if weight >= images:
            yield tuple(batch)
            batch, weight = [], 0
    if batch:
        yield tuple(batch)


def look_at(looks: Sequence[Look]) -> list[tuple[int, ImageFacts]]:
    """Carry out looks; return (clip, what was seen) of each."""
    return [(look.clip, _see(look)) for look in looks]


def _ends(index: int, clip: Clip, alone: bool) -> Look:
    frames, first, last = clip.frames, clip.first, clip.first + len(clip.frames) - 1
    if isinstance(frames.names, range):
        decode = (0,) if first == last else (0, len(frames) - 1)
        return Look(index, frames, range(first, last + 1), decode, listing=True, alone=alone)
    names = frames.names if first == last else (frames.names[0], frames.names[-1])
    numbers = (first,) if first == last else (first, last)
    return Look(index, FrameFiles(frames.folder, names), numbers, range(len(names)))


def _between(index: int, clip: Clip) -> Iterator[Look]:
    frames = clip.frames
    for start in range(1, len(frames) - 1, _DEEP_FRAMES):
        end = min(start + _DEEP_FRAMES, len(frames) - 1)
        part = FrameFiles(frames.folder, frames.names[start:end], frames.pattern)
        numbers = range(clip.first + start, clip.first + end)
        yield Look(index, part, numbers, range(end - start))


def _see(look: Look) -> ImageFacts:
    facts = ImageFacts()
    if look.listing:
        _list_folder(look, facts)
    for position in look.decode:
        number, path = look.numbers[position], look.frames[position]
        if number in facts.missing:
            continue
        try:
            height, width = read_image(path).shape[:2]
        except ImageError as error:
            if path.is_file():
                facts.unreadable[number] = error.message
            else:
                facts.missing.add(number)
        else:
            facts.sizes.setdefault((width, height), array("i")).append(number)
    return facts


def _list_folder(look: Look, facts: ImageFacts) -> None:
    there = _names(look.frames.folder)
    expected = [path.name for path in look.frames]
    facts.missing.update(
        number for number, name in zip(look.numbers, expected, strict=True) if name not in there
    )
    if look.alone:
        suffix = Path(expected[0]).suffix
        images = sum(1 for name in there if name.endswith(suffix) and not name.startswith("."))
        facts.extra = images - (len(expected) - len(facts.missing))


def _names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()  # every frame then counts as missing, which is what is reported
