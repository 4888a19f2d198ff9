"""Looks at the image files of sequences: are they there, do they decode, how large are they.

Worker processes decode the first and the last image of each sequence, or all of them, and list its
folder where the names of its images are computed. What was seen of a sequence is summed in
`ImageFacts`; what it means is decided elsewhere.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorat.prep.pool import LocalEngine, Tell
from lorat.prep.trees.base.clip import Clip, FrameFiles
from lorat.shards.pixels.jpeg import ImageError, read_image

Progress = Callable[[int, int], None]
Job = list[tuple[int, range]]
"""(clip, positions of the frames to decode)."""
_IMAGES = 128  # a job: under a second of decoding HD frames, so that Ctrl-C is quick


@dataclass(slots=True)
class ImageFacts:
    """What was seen of one sequence's images; frames by their position in the clip."""

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


def see_images(
    clips: Sequence[Clip], deep: bool, workers: int, progress: Progress | None = None
) -> list[ImageFacts]:
    """Return what was seen of each clip's images.

    Args:
        clips: as read.
        deep: decode every image, not just the first and the last of each clip.
        workers: processes.
        progress: called with (images looked at, images in all).

    Raises:
        UserError: when a worker process was killed.
    """
    jobs = _plan(clips, deep)
    total = sum(len(wanted) for job in jobs for _, wanted in job)
    facts = [ImageFacts() for _ in clips]
    done = 0

    def take(seen: tuple[int, list[ImageFacts]]) -> None:
        nonlocal done
        number, parts = seen
        for (clip, wanted), part in zip(jobs[number], parts, strict=True):
            facts[clip].add(part)
            done += len(wanted)
        if progress:
            progress(done, total)

    users = Counter(clip.frames.folder for clip in clips)
    files = [(clip.frames, users[clip.frames.folder] == 1) for clip in clips]
    LocalEngine(workers).run(_look, (jobs, files), range(len(jobs)), take)
    return facts


def _plan(clips: Sequence[Clip], deep: bool) -> list[Job]:
    """Return jobs of `_IMAGES` images; every clip that has frames is looked at."""
    jobs: list[Job] = []
    room = 0
    for number, clip in enumerate(clips):
        frames = len(clip.frames)
        wanted = range(0, frames, 1 if deep else max(1, frames - 1))
        while wanted:
            if not room:
                jobs.append([])
                room = _IMAGES
            jobs[-1].append((number, wanted[:room]))
            wanted, room = wanted[room:], room - len(jobs[-1][-1][1])
    return jobs


def _look(shared: tuple[list[Job], list[tuple[FrameFiles, bool]]], number: int, tell: Tell) -> None:
    """Carry out one job; runs in a worker process."""
    jobs, files = shared
    tell((number, [_see(*files[clip], wanted) for clip, wanted in jobs[number]]))


def _see(frames: FrameFiles, alone: bool, wanted: range) -> ImageFacts:
    """Decode some frames; list their folder, too, with the first one. alone: in their folder."""
    facts = ImageFacts()
    if wanted[0] == 0 and isinstance(frames.names, range):
        there = _names(frames.folder)
        names = [frames.pattern % number for number in frames.names]
        facts.missing.update(n for n, name in enumerate(names) if name not in there)
        if alone:
            suffix = Path(names[0]).suffix
            images = sum(name.endswith(suffix) and not name.startswith(".") for name in there)
            facts.extra = images - (len(names) - len(facts.missing))
    for number in wanted:
        path = frames[number]
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


def _names(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except OSError:
        return set()  # every frame then counts as missing, which is what is reported
