"""Many sequences side by side: batches, one network, a few threads for the images.

The sequences under way stand in two groups. While the network works on the one, the other's boxes
are computed, its next crops cut and its next frames decoded, so that neither the processor nor the
accelerator waits for the other. Where the network itself takes all cores there is one group, and
images come before the network: its threads wait for each other, so a core that decodes for a while
would hold up all of them. A sequence that ends makes room for the next.

Promise: a sequence's boxes do not depend on its neighbours in the batch beyond rounding (0.01 px in
float32), and its result comes as soon as it ends. A frame that does not decode keeps the last box
and has no score; a sequence that cannot be tracked fails by name, and the others go on. Memory does
not grow with the length or the number of sequences, but for their boxes.

Time per frame is what a batch's crops, network and boxes take (not the decoding of images), divided
by the sequences in it, as published. The first frame's is the cost of taking the template.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lorat.evaluate.track.predictor import Predictor, TemplateInput
from lorat.evaluate.track.slots import Failed, Frame, Slot, Tracked, Work
from lorat.evaluate.track.tracker import (
    TargetState,
    finish,
    frame_size,
    prepare_search,
    prepare_template,
)
from lorat.shards.base.errors import UserError
from lorat.shards.base.process import usable_cores
from lorat.shards.pixels.geometry import CropTransform

__all__ = ["group_sizes", "track_clips", "works_beside"]

_FEWEST_IN_TWO_GROUPS = 8
Answer = TypeVar("Answer")


def track_clips(
    predictor: Predictor,
    work: Iterable[Work],
    *,
    batch: int = 16,
    threads: int = 4,
    on_frames: Callable[[int], None] = lambda count: None,
) -> Iterator[Tracked | Failed]:
    """Track each clip's first object from its box in the first frame.

    Args:
        predictor: the loaded network.
        work: what to track, taken one by one as there is room; the longest should come first, so
            that none is left to run alone. ``clip.tracks[0].boxes[0]`` is the first box.
        batch: sequences side by side; half of them in a batch of the network, where there are two
            groups.
        threads: threads that decode images, and as many that cut crops.
        on_frames: called with the number of frames done since the last call.

    Yields:
        One outcome a sequence, in the order in which they end.

    Raises:
        UserError: if the device's memory does not hold the batch.
    """
    waiting, beside = iter(work), works_beside(predictor.device)
    with _Stages(predictor, threads, ahead=beside) as stages:
        sizes = group_sizes(batch, predictor.device)
        groups = [_Group(predictor.room_for_crops(size)) for size in sizes]
        try:
            yield from _take_turns(stages, groups, waiting, on_frames)
        except torch.OutOfMemoryError:
            raise UserError(
                f"--batch {batch}: the device's memory does not hold it; give a smaller one (of a "
                "training: train.evaluate_batch)"
            ) from None


def works_beside(device: torch.device) -> bool:
    """Return whether there is a core for images while the network works on a device."""
    return device.type != "cpu" or torch.get_num_threads() < usable_cores()


def group_sizes(batch: int, device: torch.device) -> list[int]:
    """Return the sizes of the groups that take turns at the network, the largest first.

    Few sequences stay together: what a batch costs beside its frames would be paid twice.
    """
    if batch < _FEWEST_IN_TWO_GROUPS or not works_beside(device):
        return [batch]
    return [(batch + 1) // 2, batch // 2]


def _take_turns(
    stages: _Stages,
    groups: Sequence[_Group],
    waiting: Iterator[Work],
    on_frames: Callable[[int], None],
) -> Iterator[Tracked | Failed]:
    more = True
    while more or any(group.slots for group in groups):
        for group in groups:
            done = stages.collect(group)
            yield from group.ended()
            arrivals: list[Slot] = []
            while more and len(group.slots) + len(arrivals) < group.size:
                if (item := next(waiting, None)) is None:
                    more = False
                else:
                    arrivals.append(Slot(item, stages.readers, stages.ahead))
            started, failures = stages.start(arrivals)
            yield from failures
            group.slots += started
            done += stages.launch(group)
            on_frames(done + len(started) + sum(failed.frames_left for failed in failures))


class _Cut(NamedTuple):
    """A sequence whose next crop is cut."""

    slot: Slot
    state: TargetState
    transform: CropTransform
    size: tuple[int, int]
    """(width, height) of the frame, which is not kept."""
    seconds: float


@dataclass(frozen=True, slots=True)
class _Flight:
    """A batch that the network works on."""

    cuts: Sequence[_Cut]
    rows: Future[tuple[NDArray[np.float64], float]]
    """(B, 5) boxes and scores, and the seconds that the network took."""


@dataclass(eq=False, slots=True)
class _Group:
    """Sequences whose frames go through the network together."""

    crops: NDArray[np.float32]
    """(size, S, S, 3), written anew for every batch."""
    slots: list[Slot] = field(default_factory=list)
    flight: _Flight | None = None

    @property
    def size(self) -> int:
        return len(self.crops)

    def ended(self) -> Iterator[Tracked]:
        """Yield the results of sequences that came to their end, and make room."""
        ended = [slot for slot in self.slots if slot.ended]
        self.slots = [slot for slot in self.slots if not slot.ended]
        for slot in ended:
            yield slot.outcome()


class _Stages:
    """What a frame goes through: threads that decode, threads that cut, the network."""

    def __init__(self, predictor: Predictor, threads: int, *, ahead: bool) -> None:
        self.predictor, self.threads, self.ahead = predictor, threads, ahead
        self.readers = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self.cutters = ThreadPoolExecutor(threads, thread_name_prefix="crop")
        # Where nothing goes on beside it, the network works in the caller's thread: another one
        # would bring threads of its own for the same cores.
        self.network: Executor = (
            ThreadPoolExecutor(1, thread_name_prefix="network") if ahead else _Here()
        )

    def __enter__(self) -> _Stages:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self.readers, self.cutters, self.network):
            pool.shutdown(cancel_futures=True)

    def start(self, slots: Sequence[Slot]) -> tuple[list[Slot], list[Failed]]:
        """Take the templates of sequences that begin."""
        started: list[Slot] = []
        failures: list[Failed] = []
        firsts: list[tuple[Frame, NDArray[np.float64]]] = []
        for slot in slots:
            try:
                firsts.append(slot.first())
            except UserError as error:
                failures.append(Failed(slot.work, error.message, len(slot.boxes)))
            else:
                started.append(slot)
        if not started:
            return started, failures
        begin = time.perf_counter()
        templates = list(self.cutters.map(lambda first: self._template(*first), firsts))
        cut = time.perf_counter() - begin
        tokens, embedded = self.network.submit(_timed, self.predictor.embed, templates).result()
        seconds = (cut + embedded) / len(started)
        for slot, (_, box), template, row in zip(started, firsts, templates, tokens, strict=True):
            slot.state = TargetState(box, template.mean, row)
            slot.record(box, 1.0, seconds)
        return started, failures

    def launch(self, group: _Group) -> int:
        """Cut the next crop of every sequence of a group and hand them to the network.

        Returns:
            Frames that are done already, since they did not decode.
        """
        moving = [slot for slot in group.slots if not slot.ended]
        found = list(self.cutters.map(self._cut, moving, group.crops))
        for slot, cut in zip(moving, found, strict=True):
            if cut is None:
                assert slot.state is not None, "start() comes before launch()"
                slot.record(slot.state.box, np.nan, 0.0)
        cuts = [cut for cut in found if cut is not None]
        if cuts:
            tokens = torch.stack([cut.state.tokens for cut in cuts])
            crops = group.crops[: len(moving)]
            if len(cuts) < len(moving):
                crops = crops[[cut is not None for cut in found]]
            rows = self.network.submit(_timed, self.predictor.predict, tokens, crops)
            group.flight = _Flight(cuts, rows)
        return len(moving) - len(cuts)

    def collect(self, group: _Group) -> int:
        """Wait for the network's answer to a group, note it, and return the frames done."""
        flight, group.flight = group.flight, None
        if flight is None:
            return 0
        rows, seconds = flight.rows.result()
        begin = time.perf_counter()
        ends = [
            finish(row, cut.transform, cut.size, cut.state)
            for row, cut in zip(rows, flight.cuts, strict=True)
        ]
        seconds += time.perf_counter() - begin
        # As many crops at once as there are threads.
        seconds += sum(cut.seconds for cut in flight.cuts) / min(self.threads, len(ends))
        for cut, (tracked, state) in zip(flight.cuts, ends, strict=True):
            cut.slot.state = state
            cut.slot.record(tracked.box, tracked.score, seconds / len(ends))
        return len(ends)

    def _template(self, frame: Frame, box: NDArray[np.float64]) -> TemplateInput:
        predictor = self.predictor
        variant, grid = predictor.variant, predictor.template_grid
        return prepare_template(frame, box, variant, grid, predictor.resize)

    def _cut(self, slot: Slot, out: NDArray[np.float32]) -> _Cut | None:
        """Cut the next crop of a sequence into `out`; None where its frame does not decode."""
        assert slot.state is not None, "start() comes before launch()"
        frame = slot.next()
        if frame is None:
            return None
        begin = time.perf_counter()
        variant, resize = self.predictor.variant, self.predictor.resize
        _, transform = prepare_search(frame, slot.state, variant, resize, out)
        seconds = time.perf_counter() - begin
        return _Cut(slot, slot.state, transform, frame_size(frame), seconds)


class _Here(Executor):
    """Does the work at once."""

    def submit(
        self, work: Callable[..., Answer], /, *arguments: Any, **options: Any
    ) -> Future[Answer]:
        done: Future[Answer] = Future()
        done.set_result(work(*arguments, **options))
        return done


def _timed(work: Callable[..., Answer], *arguments: Any) -> tuple[Answer, float]:
    begin = time.perf_counter()
    answer = work(*arguments)
    return answer, time.perf_counter() - begin
