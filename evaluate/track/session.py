"""Tracking of test sets: what has no result yet is tracked, and every result is kept at once.

Promise: a result is written when its sequence ends, so a stopped evaluation goes on where it was. A sequence that fails
is named and leaves the others alone. What comes out does not depend on how many processes share the sequences.
"""

import hashlib
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from lorat.configs.schema import VariantConfig
from lorat.evaluate.results.files import result_files
from lorat.evaluate.track import folder
from lorat.evaluate.track.batch import Failed, Work, group_sizes, track_clips, usual_batch
from lorat.evaluate.track.memory.methods import target_size
from lorat.evaluate.track.memory.templates import published_rules
from lorat.evaluate.track.predictor import Predictor, pick_type
from lorat.evaluate.track.ranks import Ranks
from lorat.evaluate.track.settings import BatchSettings
from lorat.evaluate.track.testsets import TestSet
from lorat.evaluate.track.tracker import Tracker
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.behind import written_behind
from lorat.shards.base.errors import UserError
from lorat.shards.base.machine import Lost, processor_name, usable_cores
from lorat.shards.base.process import ALL_FREED, keep_freed_memory
from lorat.shards.pixels.jpeg import read_image
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.deploy.devices import pick_device

_LOG = logging.getLogger("lorat")
Failures = Mapping[str, Mapping[str, str]]  # test set → sequence → why it has no result
Show = Callable[[int, int, str], None]  # told the frames that all have done, of how many to do; sequences in words


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out, of all processes."""

    sets: Sequence[TestSet]
    identity: folder.Identity
    failed: Failures = field(default_factory=dict)

    def done(self, item: TestSet) -> list[Clip]:
        """Return the clips of a test set that have a result."""
        failed = self.failed.get(item.name, {})
        return [clip.stretched(self.identity.range16) for clip in item.clips if clip.name not in failed]


def evaluate(
    sets: Sequence[TestSet],
    out: Path,
    settings: BatchSettings,
    *,
    overwrite: bool = False,
    published: bool = False,
    progress: Show = lambda done, total, text: None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Track every sequence of the test sets that has no result in ``out/results/<dataset>-<split>/`` yet; `published`
    takes the memory rules that published code has for some data sets. Each of several `ranks` calls, with the same
    sets. A `UserError`, on every rank if on one, if the weights do not load, or `out` holds results of another tracker
    and these are not to be overwritten.
    """
    ranks = ranks or Ranks()

    def load() -> tuple[str, OneStream, VariantConfig, str, int]:
        digest, device = folder.weights_digest(*settings.parts()), pick_device(settings.device_name())
        network, variant = settings.load_network(dtype=None)
        if device.type == "cpu":
            keep_freed_memory(ALL_FREED)  # every frame needs the memory of the one before
        begun = None if overwrite or settings.dtype != "auto" else folder.number_type(out, digest)
        # The other ranks take the first one's.
        name = pick_type(settings, begun or settings.dtype, network) if ranks.speaks else torch.float32
        rules = published_rules(variant) if published else {}
        clips = [clip for item in sets for clip in item.clips * item.runs]
        clips.sort(key=lambda clip: len(clip.frames), reverse=True)
        sizes = [target_size(network, variant, len(clip.frames), rules.get(clip.dataset)) for clip in clips]
        batch = settings.batch or usual_batch(device, sizes)
        return digest, network, variant, str(name).removeprefix("torch."), batch

    digest, network, variant, own, batch = ranks.together(load)
    dtype = getattr(torch, ranks.first(own))

    def prepare() -> tuple[Predictor, folder.Identity]:
        predictor = Predictor.around(network, variant, settings, dtype, batch)
        what = (predictor.network.fingerprint + predictor.variant.model_dump_json()).encode()
        computed = str(dtype).removeprefix("torch.") + (" compiled" if settings.compile else "")
        hashed = hashlib.sha256(what).hexdigest()[:16]
        how = computed, hashed, settings.resize, settings.range16, predictor.variant.method, bool(settings.redetect)
        rules = dict(published_rules(variant)) if published else {}
        identity = folder.Identity(digest, predictor.variant.name, *how, settings.chosen_engine(), rules)
        if ranks.speaks:
            folder.claim(out, identity, overwrite)
        return predictor, identity

    predictor, identity = ranks.together(prepare)
    part = _Part(sets, out, ranks, progress, identity)
    ranks.together(lambda: part.track(predictor, settings, identity.dtype, batch), part.advance)
    if ranks.speaks and part.shared:
        _LOG.warning("%s", part.shared)
    if ranks.speaks and part.todo and not settings.compile:  # a compiled graph is for a whole batch
        seconds = next(filter(None, (alone(predictor, clip) for clip in part.clips.values())), None)
        if seconds is not None:
            folder.note_latency(out, 1000.0 * seconds)
    failed, parts = {}, ranks.exchange(dict(part.failed))
    for item in sets:
        unseen = f"another rank's result is not in {out}; give all nodes the same folder"
        reasons = dict(item.unread) if len(parts) == 1 else folder.unfinished(out, item, unseen)
        for each in parts:
            reasons |= each.get(item.name, {})
        if reasons:
            failed[item.name] = reasons
    return Evaluation(sets, identity, failed)


def alone(predictor: Predictor, clip: Clip, frames: int = 30, limit: float = 5.0) -> float | None:
    """Return the median seconds of a frame where one sequence is tracked by itself, without decoding its image. Of some
    frames after the first two, for so many seconds in all at most; None where these do not decode.
    """
    tracker, times, begin = Tracker(predictor), list[float](), time.perf_counter()
    try:
        tracker.start(read_image(clip.frames[0]), clip.tracks[0].boxes[0])
        for path in list(clip.frames)[1 : frames + 2]:
            image, now = read_image(path), time.perf_counter()
            tracker.track(image)
            times.append(time.perf_counter() - now)
            if time.perf_counter() - begin > limit:
                break
    except UserError:
        return None
    return float(np.median(times[1:])) if len(times) > 1 else None


class _Part:
    """The part of an evaluation that this process does."""

    def __init__(self, sets: Sequence[TestSet], out: Path, ranks: Ranks, progress: Show, by: folder.Identity) -> None:
        self.out, self.ranks, self.progress, self.by = out, ranks, progress, by
        self.failed: dict[str, dict[str, str]] = defaultdict(dict)
        self.shared = ""  # a line where other work took much of the processor
        self.clips = {(item.name, clip.name): clip.stretched(by.range16) for item in sets for clip in item.clips}
        # Rank 0 sees what is done, and the longest sequences come first.
        todo = [
            (len(clip.frames), item.name, clip.name, run)
            for item in sets
            for run in range(1, item.runs + 1)
            for clip in item.clips
            if ranks.speaks and not folder.is_done(out, item.name, clip, run)
        ]
        todo.sort(key=lambda item: -item[0])
        self.todo, self.topic = ranks.first((todo, uuid.uuid4().hex))
        self.total = sum(frames for frames, *_ in self.todo)

    def track(self, predictor: Predictor, settings: BatchSettings, dtype: str, most: int) -> None:
        """Track sequences, `most` side by side, until all are taken; what fails is added to `failed`."""
        share = -(-len(self.todo) // self.ranks.size)  # even, so that no rank sits on what another has room for
        batch = max(1, min(most, share))
        if settings.compile and share:
            predictor.compile(group_sizes(batch, predictor.device)[0])
        many = f", {self.ranks.size} processes" if self.ranks.size > 1 else ""
        lost, noted = Lost(), False
        engine = "" if self.by.engine == "torch" else f"{self.by.engine} "
        computed = f"{_machine(predictor.device)}, {engine}{dtype}, {batch} sequences side by side{many}"
        # What one process has opened, another cannot take: only a part of what each would get.
        ahead = min(batch, max(0, share - batch) // 4 if self.ranks.size > 1 else batch)
        ends = track_clips(
            predictor, self._work(), batch=batch, threads=settings.threads, ahead=ahead, on_frames=self.advance
        )
        with written_behind() as results:
            for end in ends:
                self.ranks.add(f"{self.topic}/sequences", 1)
                self.shared = lost.line()  # while the threads are there
                name = f"{end.work.clip.dataset}-{end.work.clip.split}"
                if isinstance(end, Failed):
                    self.failed[name][end.work.clip.name] = end.reason
                    continue
                if self.ranks.speaks and not noted:
                    folder.note_machine(self.out, computed)
                    noted = True
                results.add(result_files(folder.result_folder(self.out, name, end.work.run), end.result))

    def advance(self, frames: int = 0) -> None:
        """Add to the frames that are done, and show how far all ranks are."""
        done = self.ranks.add(f"{self.topic}/frames", frames)
        if self.total:
            ended = self.ranks.add(f"{self.topic}/sequences", 0)
            self.progress(done, self.total, f"sequence {ended} of {len(self.todo)}, frame")

    def _work(self) -> Iterator[Work]:
        """Yield what no other rank takes, the longest first."""
        for index in self.ranks.taken(len(self.todo), f"{self.topic}/next"):
            _, name, sequence, run = self.todo[index]
            if (clip := self.clips.get((name, sequence))) is None:
                self.failed[name][sequence] = f"not in the tree of rank {self.ranks.rank}; give all nodes the same tree"
            elif sequence not in self.failed[name]:  # once is enough to know
                yield Work(clip, run, self.by.memory_rules.get(clip.dataset))


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {usable_cores()} cores" if device.type == "cpu" else device.type
