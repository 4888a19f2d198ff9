"""Many sequences side by side: batches, one network, a few threads for the images.

Of two groups, the network works on one while the other's boxes are computed, its next crops cut and frames decoded.
Where the network itself takes all cores there is one group, and images come first: the network's threads wait for each
other, so a core that decodes would hold up all. A sequence that ends makes room for the next, whose folder is listed
before; where a core is free, its template is cut too.

Promise: a sequence's boxes do not depend on its neighbours in the batch beyond rounding (0.01 px in float32). Memory
does not grow with the length or number of sequences, but for their boxes, and of those under way SPMTrack's templates.
Time per frame is a batch's crops, network and boxes (no decoding) divided by its sequences, as published; the first
frame's is the cost of taking the template.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import compress, islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from lorat.configs.schema import MemoryRule
from lorat.evaluate.results.files import STATES, SequenceResult
from lorat.evaluate.track.memory.base import Known, Memory, Size
from lorat.evaluate.track.memory.crops import Box, Frame, frame_size
from lorat.evaluate.track.memory.cutouts import Place, Places
from lorat.evaluate.track.predictor import Found, Predictor
from lorat.evaluate.track.tracker import Cut, TargetState, begin, check_first_box, finish, locate, prepare_search
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.disk import explain_reading
from lorat.shards.base.errors import UserError
from lorat.shards.base.machine import local_ranks, memory_left, usable_cores
from lorat.shards.pixels.geometry import xyxy_to_xywh
from lorat.shards.pixels.jpeg import ImageError

_FEWEST_IN_TWO_GROUPS = 8
_FEWEST, _MOST_BY_ITSELF = 16, 64  # sequences side by side
_WORK = 256 << 20  # bytes
_MOST_OPENED = 32  # folders at once: listing them is waiting, of a remote disk for tenths of a second
Answer = TypeVar("Answer")


class Work(NamedTuple):
    """A sequence to track, and for which of the repeated runs."""

    clip: Clip
    run: int = 1
    rule: MemoryRule | None = None  # as `Known` has it


class Tracked(NamedTuple):
    """A sequence that was tracked to its end; scores are NaN where frames did not decode."""

    work: Work
    result: SequenceResult


class Failed(NamedTuple):
    """A sequence that could not be tracked."""

    work: Work
    reason: str


def track_clips(
    predictor: Predictor,
    work: Iterable[Work],
    *,
    batch: int = 16,
    threads: int = 4,
    ahead: int = 0,
    on_frames: Callable[[int], None] = lambda count: None,
) -> Iterator[Tracked | Failed]:
    """Track each clip's first object from ``clip.tracks[0].boxes[0]``; yield a result as soon as it ends. A frame that
    does not decode keeps the last box and has no score. `work` is taken, and its folders are listed, up to `ahead`
    sequences before there is room; the longest should come first. `batch` sequences stand side by side, in all groups
    together; `threads` decode images, and as many cut crops. `on_frames` gets the frames done since its last call. A
    `UserError` if memory does not hold the batch.
    """
    waiting, more, beside = iter(work), True, works_beside(predictor.device)
    coming = deque[Slot]()  # that are being opened, in their order
    groups = [_Group(predictor.room_for_crops(n)) for n in group_sizes(batch, predictor.device)]
    # Where nothing goes on beside it, the network works in the caller's thread: another would bring threads of its own.
    network = ThreadPoolExecutor(1, thread_name_prefix="network") if beside else _Here()
    with (
        ThreadPoolExecutor(min(batch + ahead, _MOST_OPENED), thread_name_prefix="open") as openers,
        ThreadPoolExecutor(threads, thread_name_prefix="decode") as readers,
        ThreadPoolExecutor(threads, thread_name_prefix="crop") as cutters,
        network,
    ):
        stages = _Stages(predictor, predictor.memory(batch), threads, cutters, network)
        begin = _Beginning(stages.memory, beside)
        try:
            while more or coming or any(group.slots for group in groups):
                for group in groups:
                    done = stages.collect(group)
                    for slot in [slot for slot in group.slots if slot.ended]:
                        group.slots.remove(slot)
                        stages.memory.forget(slot.state.kept)
                        yield Tracked(slot.work, slot.result)
                    room = len(group.crops) - len(group.slots)
                    wanted = room + ahead - len(coming)
                    taken = [Slot(item, begin, openers, readers) for item in islice(waiting, wanted if more else 0)]
                    more = more and len(taken) == wanted
                    coming += taken
                    arrivals = [coming.popleft() for _ in range(min(room, len(coming)))]
                    failures = stages.start(group, arrivals)
                    yield from failures
                    done += stages.launch(group)
                    on_frames(done + len(arrivals) + sum(len(f.work.clip.frames) - 1 for f in failures))
        except torch.OutOfMemoryError:
            remedy = "give a smaller one (of a training: train.evaluate_batch)"
            raise UserError(f"--batch {batch}: the device's memory does not hold it; {remedy}") from None


def usual_batch(device: torch.device, sizes: Sequence[Size]) -> int:
    """Return how many sequences, of these sizes of what is remembered, in their order, stand side by side where nobody
    says. A batch's work takes less than 256 MiB of a device's memory for each with any variant, and a large device
    idles with few rows. What the host remembers, which it all does on a processor, is to stay below half of what this
    process's share of its memory has left.
    """
    most, host = _FEWEST, [each.host for each in sizes]
    if device.type == "cuda":
        room = _WORK + max((each.device for each in sizes), default=0)
        most = min(max(torch.cuda.get_device_properties(device).total_memory // room, _FEWEST), _MOST_BY_ITSELF)
    else:
        host = [each.host + each.device for each in sizes]
    fit = int(np.searchsorted(np.cumsum(host), memory_left() // 2 // local_ranks(), side="right"))
    return most if fit == len(sizes) else max(1, min(most, fit))


def works_beside(device: torch.device) -> bool:
    """Return whether there is a core for images while the network works on a device."""
    return device.type != "cpu" or torch.get_num_threads() < usable_cores()


def group_sizes(batch: int, device: torch.device) -> list[int]:
    """Return the sizes of the groups that take turns at the network, the largest first."""
    # Few sequences stay together: what a batch costs beside its frames would be paid twice.
    if batch < _FEWEST_IN_TWO_GROUPS or not works_beside(device):
        return [batch]
    return [(batch + 1) // 2, batch // 2]


class _Beginning(NamedTuple):
    """How a sequence begins."""

    memory: Memory[Any]
    beside: bool  # whether images are decoded while the network works

    def open(self, work: Work) -> "Callable[[], _First]":
        """See that a sequence's images are there; return what gives its target, or has made it already `beside`."""
        check_images(work.clip)
        if not self.beside:
            return partial(self._first, work)
        first = self._first(work)
        return lambda: first

    def _first(self, work: Work) -> "_First":
        clip, known = work.clip, Known(len(work.clip.frames), work.rule)
        frame = clip.frames.read(0)
        box = check_first_box(clip.tracks[0].boxes[0], frame_size(frame))
        return _First(*_timed(begin, self.memory, frame, box, known))


class _First(NamedTuple):
    """A target that the network has not looked at; seconds that its template's crop took."""

    state: TargetState
    seconds: float


class Slot:
    """One sequence in a batch, and its result so far."""

    def __init__(self, work: Work, beginning: _Beginning, openers: Executor, readers: Executor) -> None:
        """Open the sequence by one of `openers`; `readers` decode later frames ahead if they may."""
        self.work, self.readers, self.ahead = work, readers, beginning.beside
        self.state: TargetState
        self.done, self.count = 0, len(work.clip.frames)  # frames that have a result, of how many
        boxes, scores, times = np.zeros((self.count, 4)), np.zeros(self.count), np.zeros(self.count)
        self.result = SequenceResult(work.clip.name, boxes, scores, times, np.full(self.count, STATES[0]))
        self._opened = openers.submit(beginning.open, work)
        self._image: Callable[[], Frame]
        self._next = 1  # frame to be decoded

    def begin(self) -> Failed | None:
        """Take the target of the first frame, and begin to decode the next."""
        try:
            self.state, seconds = self._opened.result()()
        except UserError as error:
            return Failed(self.work, error.message)
        self.record(self.state.box, 1.0, seconds)
        self._read_ahead()
        return None

    @property
    def ended(self) -> bool:
        """Whether every frame has a result."""
        return self.done >= self.count

    def next(self) -> Frame:
        """Return the next frame, or raise why there is none."""
        image = self._image
        self._read_ahead()
        return image()

    def _read_ahead(self) -> None:
        if self._next < self.count:
            read = partial(self.work.clip.frames.read, self._next)
            self._image, self._next = self.readers.submit(read).result if self.ahead else read, self._next + 1

    def record(self, box: Box, score: float, seconds: float) -> None:
        """Note the result of a frame, after the target's state."""
        result, now = self.result, self.done
        result.boxes[now], result.scores[now], result.times[now] = xyxy_to_xywh(box), score, seconds
        if result.states is not None:
            result.states[now] = self.state.judged.state
        self.done += 1


class _Cut(NamedTuple):
    """The next crop of a sequence, which stands in its group's; seconds that it took."""

    slot: Slot
    cut: Cut
    seconds: float


@dataclass(eq=False, slots=True)
class _Group:
    """Sequences whose frames go through the network together."""

    crops: Places  # of its size, written anew for every batch
    slots: list[Slot] = field(default_factory=list)
    new: Sequence[Slot] = ()  # sequences that begin,
    cuts: Sequence[_Cut] = ()  # and crops: what the network works on
    # Where the targets are, and the network's seconds for that; those for the templates of new ones.
    found: Future[tuple[tuple[Found | None, float], float]] | None = None


@dataclass(frozen=True, slots=True)
class _Stages:
    """What a frame goes through: threads that cut, the network, the boxes."""

    predictor: Predictor
    memory: Memory[Any]
    threads: int
    cutters: Executor
    network: Executor

    def start(self, group: "_Group", arrivals: Sequence[Slot]) -> list[Failed]:
        """Let sequences that begin join a group, and return those that cannot be tracked."""
        failures = list(self.cutters.map(lambda slot: slot.begin(), arrivals))
        group.new = [slot for slot, failed in zip(arrivals, failures, strict=True) if failed is None]
        group.slots += group.new
        return [failed for failed in failures if failed is not None]

    def launch(self, group: _Group) -> int:
        """Hand a group's next crops to the network; return how many frames did not decode."""
        moving = [slot for slot in group.slots if not slot.ended]
        found = list(self.cutters.map(self._cut, moving, group.crops))
        for slot, cut in zip(moving, found, strict=True):
            if cut is None:
                slot.record(slot.state.box, np.nan, 0.0)
        group.cuts = [cut for cut in found if cut is not None]
        states, crops = [cut.slot.state for cut in group.cuts], group.crops[: len(moving)]
        if len(group.cuts) < len(moving):
            kept = [cut is not None for cut in found]
            crops = crops[kept] if isinstance(crops, np.ndarray) else list(compress(crops, kept))
        if group.new or group.cuts:
            group.found = self.network.submit(self._look, [slot.state for slot in group.new], states, crops)
        return len(moving) - len(group.cuts)

    def collect(self, group: _Group) -> int:
        """Wait for the network's answer to a group, note it, and return the frames done."""
        if group.found is None:
            return 0
        (found, seconds), taken = group.found.result()
        for slot in group.new:
            slot.result.times[0] += taken / len(group.new)
        cuts, group.cuts, group.new, group.found = group.cuts, (), (), None
        if found is None:
            return 0
        since = time.perf_counter()
        parts = zip(cuts, found.each(), strict=True)
        ends = [finish(self.memory, cut.cut, *answer, cut.slot.state) for cut, answer in parts]
        seconds += time.perf_counter() - since
        seconds += sum(cut.seconds for cut in cuts) / min(self.threads, len(cuts))  # so many were cut at once
        for cut, (tracked, state) in zip(cuts, ends, strict=True):
            cut.slot.state = state
            cut.slot.record(tracked.box, tracked.score, seconds / len(cuts))
        return len(cuts)

    def _look(
        self, new: Sequence[TargetState], states: Sequence[TargetState], crops: Places
    ) -> tuple[tuple[Found | None, float], float]:
        """Take the templates of sequences that begin, and find the targets of all; each with its seconds."""
        _, taken = _timed(self.memory.take, [state.kept for state in new])
        return _timed(locate, self.predictor, self.memory, states, crops) if states else (None, 0.0), taken

    def _cut(self, slot: Slot, out: Place) -> _Cut | None:
        """Cut the next crop of a sequence into `out`; None where its frame does not decode."""
        try:
            frame = slot.next()
        except ImageError:
            return None
        since = time.perf_counter()
        cut = prepare_search(self.predictor, self.memory, frame, slot.state, out)
        return _Cut(slot, cut, time.perf_counter() - since)


class _Here(Executor):
    """Does the work at once."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*arguments, **options))
        return done


def _timed(work: Callable[..., Answer], *arguments: Any) -> tuple[Answer, float]:
    begin = time.perf_counter()
    answer = work(*arguments)
    return answer, time.perf_counter() - begin


def check_images(clip: Clip) -> None:
    """See that all of a sequence's images are there; else a `UserError`."""
    folder, count = clip.frames.folder, len(clip.frames)
    if count < max(1, clip.annotated):
        lines = f"{clip.annotated} lines of ground truth"
        raise UserError(f"{folder}: {count} images for {lines}; restore the missing images")
    with explain_reading(folder):
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        missing = [path for path in clip.frames if path.name not in there and not path.is_file()]
    if missing:
        first = missing[0].name
        raise UserError(f"{folder}: {len(missing)} of {count} images are missing, the first {first}; restore them")
