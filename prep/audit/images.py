"""Looks at the image files of sequences: are they there, do they decode, how large are they."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lorat.prep.pool import LocalEngine, Tell
from lorat.prep.trees.base.clip import Clip, FrameFiles
from lorat.shards.pixels.jpeg import ImageError, Range16, examine

ClipPart = tuple[int, FrameFiles, bool, range]
"""Number of a clip, its files, whether they have their folder to themselves, those to decode."""
_IMAGES = 128  # a job: under a second of decoding HD frames, so that Ctrl-C is quick


@dataclass(slots=True)
class ImageFacts:
    """What was seen of one sequence's images; frames by their position in the clip."""

    missing: set[int] = field(default_factory=set)
    unreadable: dict[int, str] = field(default_factory=dict)  # frame → what is wrong with the image, in one line
    sizes: dict[tuple[int, int], "array[int]"] = field(default_factory=dict)  # (width, height) → decoded frames
    odd: dict[str, dict[int, str]] = field(default_factory=dict)  # kind → frame → what is lost or passed over of it
    extra: int = 0  # images in the folder that belong to no frame

    def add(self, other: "ImageFacts") -> None:
        """Take in what another look at the same sequence saw."""
        self.missing |= other.missing
        self.unreadable |= other.unreadable
        for size, frames in other.sizes.items():
            self.sizes.setdefault(size, array("i")).extend(frames)
        for kind, said in other.odd.items():
            self.odd.setdefault(kind, {}).update(said)
        self.extra += other.extra

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) of the first image that decodes; None where none does."""
        return min(self.sizes, key=lambda size: min(self.sizes[size]), default=None)


def see_images(
    clips: Sequence[Clip], deep: bool, workers: int, progress: Callable[[int, int], None] | None = None
) -> list[ImageFacts]:
    """Return what was seen of each clip's images; a `UserError` when a worker was killed. Folders are listed where the
    names of images are computed; the first and the last image of a clip are decoded, or all (`deep`). `progress` is
    called with (images looked at, in all).
    """
    jobs, facts, done = list(_jobs(clips, deep)), [ImageFacts() for _ in clips], 0
    total = sum(len(wanted) for job in jobs for *_, wanted in job)

    def take(seen: list[tuple[int, int, ImageFacts]]) -> None:
        nonlocal done
        for clip, images, part in seen:
            facts[clip].add(part)
            done += images
        if progress:
            progress(done, total)

    LocalEngine(workers).run(_look, None, jobs, take)
    return facts


def _jobs(clips: Sequence[Clip], deep: bool) -> Iterator[list[ClipPart]]:
    """Yield jobs of `_IMAGES` images; every clip that has frames is looked at."""
    users = Counter(clip.frames.folder for clip in clips)
    job, room = list[ClipPart](), _IMAGES
    for number, clip in enumerate(clips):
        frames = len(clip.frames)
        wanted = range(0, frames, 1 if deep else max(1, frames - 1))
        while wanted:
            part, wanted = wanted[:room], wanted[room:]
            job.append((number, clip.frames, users[clip.frames.folder] == 1, part))
            room -= len(part)
            if not room:
                yield job
                job, room = [], _IMAGES
    if job:
        yield job


def _look(_: None, job: list[ClipPart], tell: Tell) -> None:
    """Carry out one job; runs in a worker process."""
    tell([(clip, len(wanted), _see(files, alone, wanted)) for clip, files, alone, wanted in job])


def _see(frames: FrameFiles, alone: bool, wanted: range) -> ImageFacts:
    facts = ImageFacts()
    if wanted[0] == 0 and isinstance(frames.names, range):
        try:
            there = {path.name for path in frames.folder.iterdir()}
        except OSError:
            there = set()  # every frame then counts as missing, which is what is reported
        names = [frames.pattern % number for number in frames.names]
        facts.missing.update(n for n, name in enumerate(names) if name not in there)
        if alone:
            images = sum(name.endswith(Path(names[0]).suffix) and not name.startswith(".") for name in there)
            facts.extra = images - (len(names) - len(facts.missing))
    for number in (n for n in wanted if n not in facts.missing):
        try:
            image, odd = examine(frames[number])
            facts.sizes.setdefault((image.shape[1], image.shape[0]), array("i")).append(number)
            for kind, said in odd.items():
                facts.odd.setdefault(kind, {})[number] = said
        except ImageError as error:
            if frames[number].is_file():
                facts.unreadable[number] = error.message
            else:
                facts.missing.add(number)
    return facts


def odd_images(clips: Sequence[Clip], range16: Range16 | None = None) -> Iterator[str]:
    """Yield what is lost or passed over of first images, of at most 32 clips, evenly spread: a line a kind."""
    chosen, odd = range(0, len(clips), -(-len(clips) // 32)), dict[str, list[str]]()
    for path in (clips[number].frames[0] for number in chosen):
        with suppress(ImageError):  # which others tell of
            for kind, said in examine(path, range16)[1].items():
                odd.setdefault(kind, []).append(f"{path}: {said}")
    yield from (f"{lines[0]} ({len(lines)} of {len(chosen)} first images looked at)" for lines in odd.values())
