"""Reading sequence by sequence, and what is to be known of it besides the clips.

A reader hands the sequences it found to `read_each`, which reads several at once: the disk may be far away. As a rule
the first that does not parse raises. An audit lists such ones and reads the others (``with Reading(faults=[])``); a
build that leaves sequences out never opens their files (``skip``). Both can tell which files and folders were looked
at, so that an index of the tree knows when they change: `text` and `folders` note what they open and list, a reader
that does so by itself calls `note`.
"""

import logging
import re
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import ContextVar, copy_context
from dataclasses import asdict, dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.clip import Clip, Dataset, FrameFiles, make_clip
from lorat.prep.trees.base.official import expected_frames
from lorat.shards.base.errors import UserError, counted, some

_LOG = logging.getLogger("lorat")
_THREADS = 32  # that wait for a disk at once
Place = TypeVar("Place")
Found = TypeVar("Found")
_SPARE = 2  # rows or images that a sequence may have more than of the other: published ones have one or two
_TOLD, _NAMED = 3, 20  # messages of one wording that are told one by one, and names of more sequences
Stamp = tuple[int, int]  # size in bytes, time of the last change in nanoseconds; (-1, -1) where nothing is there


@dataclass(frozen=True, slots=True)
class TreeFault:
    """What is wrong with one sequence's annotations."""

    sequence: str
    message: str  # one line that names the file
    damage: bool  # whether the sequence should not be used; otherwise there is just less of it
    spare: bool = False  # damage of one or two rows without an image: a build uses the rest


class NothingThere(UserError):
    """No sequence of a split is where it was looked for."""


@dataclass(frozen=True, slots=True)
class Lack:
    """What a list names and the disk does not have; `str` of it is the line to print."""

    source: Path  # the list, annotation file or folder that names it
    what: str  # with braces for the number and kind of all, as in "the {} of list.txt"
    kind: str  # of one of them
    named: int
    missing: tuple[str, ...]  # at least one

    def __str__(self) -> str:
        what, first = self.what.format(counted(self.named, self.kind)), self.missing[0]
        if len(self.missing) == 1:
            return f"{self.source}: {'1 of ' * (self.named > 1)}{what} is not there: {first}"
        if len(self.missing) == self.named:
            return f"{self.source}: none of {what} is there, such as {first}"
        return f"{self.source}: {len(self.missing):,} of {what} are not there, such as {first}"


@dataclass(eq=False)
class Reading:
    """How the readers called in a block go through sequences, and what they look at."""

    skip: frozenset[str] = frozenset()  # names of sequences that are not read
    faults: list[TreeFault] | None = None  # collects what is wrong; None: it raises, or is a warning
    progress: Callable[[int, int], None] | None = None  # called with (sequences read, in all) of a folder of them
    lacks: list[Lack] = field(default_factory=list)  # collects what lists name and the disk does not have
    seen: dict[str, Stamp] = field(default_factory=dict)  # path → its stamp when the block first noted it
    warned: list[str] = field(default_factory=list)  # what was logged as a warning in the block, by whomever

    def __enter__(self) -> "Reading":
        self._before = CURRENT.set(self)
        _NOTING.append(self)
        _LOG.addFilter(self._keep)  # not a handler: those decide whether and how Python prints
        return self

    def __exit__(self, *_: object) -> None:
        CURRENT.reset(self._before)
        _NOTING.remove(self)
        _LOG.removeFilter(self._keep)

    def _keep(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            self.warned.append(record.getMessage())
        return True


CURRENT: ContextVar[Reading] = ContextVar("reading", default=Reading())  # noqa: B039 - nothing is added to this one
# For all threads: a reader may use some, and what others note besides costs a stat and no more.
_NOTING: list[Reading] = []


def in_threads(work: Callable[[Place], Found], places: Iterable[Place]) -> Generator[Found, None, None]:
    """Yield ``work(place)`` of every place in order, while those of the next few hundred are under way, each in a copy
    of the caller's context. What one reports or raises is told in its turn.
    """

    def begin(place: Place) -> tuple[Found, list[TreeFault]]:
        CURRENT.set(replace(CURRENT.get(), faults=(told := list[TreeFault]())))
        return work(place), told

    def end() -> Found:
        found, told = begun.popleft().result()
        for fault in told:
            report_fault(**asdict(fault))
        return found

    pool, begun = ThreadPoolExecutor(_THREADS), deque[Future[tuple[Found, list[TreeFault]]]]()
    try:
        for place in places:
            begun.append(pool.submit(copy_context().run, begin, place))
            if len(begun) >= 8 * _THREADS:
                yield end()
        while begun:
            yield end()
    finally:
        pool.shutdown(cancel_futures=True)


def read_each(places: Mapping[str, Place], read: Callable[[Place], Clip]) -> list[Clip]:
    """Return ``read(place)``, called in several threads, of every clip's name → place, in order; a `UserError` is
    treated as `Reading` says.
    """
    how, clips = CURRENT.get(), []
    wanted = {name: place for name, place in places.items() if name not in how.skip}

    def attempt(place: Place) -> Clip | UserError:
        try:
            return read(place)
        except UserError as error:
            return error

    with closing(in_threads(attempt, wanted.values())) as found:
        for done, (name, clip) in enumerate(zip(wanted, found, strict=True), start=1):
            if not isinstance(clip, UserError):
                clips.append(clip)
            elif how.faults is None:
                raise clip
            else:
                how.faults.append(TreeFault(name, clip.message, damage=True))
            if how.progress:
                how.progress(done, len(wanted))
    return clips


def report_fault(sequence: str, message: str, *, damage: bool = False, spare: bool = False) -> None:
    """Tell that a sequence is read in part, or a folder not as one: a warning or a `TreeFault`."""
    if (faults := CURRENT.get().faults) is None:
        _LOG.warning("%s", message)
    else:
        faults.append(TreeFault(sequence, message, damage, spare))


def wording(sequence: str, message: str) -> str:
    """Return a message without what is of its sequence alone: names of files, and numbers."""
    return re.sub(r"\S*[/\d]\S*", "", message.replace(sequence, ""))


def summed_up(faults: Iterable[tuple[str, str]], listed: str = "lorat-prep check lists all") -> Iterator[str]:
    """Yield what is said of sequences, (name, message): of messages of one wording the first three, and the names of
    some more; `listed` says where all are.
    """
    alike = dict[str, list[tuple[str, str]]]()
    for name, message in faults:
        alike.setdefault(wording(name, message), []).append((name, message))
    for told in alike.values():
        yield from (message for _, message in told[:_TOLD])
        if more := [name for name, _ in told[_TOLD:]]:
            yield f"{told[0][1]} (and {counted(len(more), 'more sequence')}: {some(more, _NAMED)}; {listed})"


def report_lack(
    source: Path, what: str, kind: str, named: Collection[str], there: Collection[str], *, others: bool = False
) -> None:
    """Tell the `Reading` what of `named`, such as "the {} of list.txt" where each is of the kind "sequence", is not
    among what is there. If it is all, that is `NothingThere`, unless there may be `others`.
    """
    how, missing = CURRENT.get(), tuple(name for name in named if name not in there)
    if not missing:
        return
    lack = Lack(source, what, kind, len(named), missing)
    if not others and len(missing) == len(named):
        raise NothingThere(str(lack))
    if any(how.lacks is each.lacks for each in _NOTING):
        how.lacks.append(lack)


def note(path: str | PathLike[str]) -> None:
    """Note a file that is about to be read or a folder about to be listed; outside of a `Reading` that does nothing.
    Before, not after: a change while it is read then gives another stamp.
    """
    name = fspath(path)
    if missing := [each.seen for each in _NOTING if name not in each.seen]:
        found = stamp(name)
        for seen in missing:
            seen.setdefault(name, found)


def stamp(path: str | PathLike[str]) -> Stamp:
    """Return the stamp of a file or folder; a change that keeps the size, milliseconds after another, may keep it."""
    try:
        found = Path(path).stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def report_lengths(dataset: Dataset, split: str, name: str, rows: int, images: int, what: str) -> None:
    """Tell, as `what`, that a sequence has not as many rows as images. One or two more are cut; so are all images
    beyond the rows that were published. Else it is unknown which belong together: a `UserError`.
    """
    less, more = sorted((rows, images))
    whole = images > rows == (expected_frames(dataset.name, split) or {}).get(name)
    if not whole and (more > less + _SPARE or (less and more > less and more % less == 0)):
        raise UserError(f"{what}, so which belong together is unknown; restore the sequence, or leave it out")
    if less != more:
        few = images < rows
        what += f"; only the first {less} frames are used{'; restore the images, or leave it out' * few}"
        report_fault(name, what, damage=few, spare=few)


def cut_clip(
    dataset: Dataset,
    split: str,
    name: str,
    frames: FrameFiles,
    xywh: NDArray[np.float64],
    whole: Sequence[str] = (),
    absent: NDArray | None = None,
) -> Clip:
    """Build a clip of one track from (R, 4) `xywh` of frames 0 … R - 1, as written; what has no partner is cut. `whole`
    are the names of all images in the folder, in order, where only a span of them may be annotated; `absent` (R,) is as
    in `make_track`. A `UserError` as of `report_lengths`.
    """
    images, boxes = len(frames), len(xywh)
    what = f"{frames.folder}: {counted(images, 'image')} but {counted(boxes, 'box', 'es')} of {name}"
    report_lengths(dataset, split, name, boxes, images, what)
    count = min(images, boxes)
    kept = FrameFiles(frames.folder, frames.names[:count], frames.pattern)
    return make_clip(dataset, split, name, kept, xywh[:count], whole, absent=None if absent is None else absent[:count])
