"""What a tracker's network sees in real sequences: examples that an int8 graph is scaled by, and compared with.

The tracker itself follows objects for a few frames, from places that are drawn with a fixed seed, so that templates,
search crops and what a method remembers are such as they are when it tracks.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorat.evaluate.measure.ope import overlaps
from lorat.evaluate.track.engines.base import Engine
from lorat.evaluate.track.engines.graph import GraphEngine, track_inputs
from lorat.evaluate.track.predictor import Predictor
from lorat.evaluate.track.testsets import SCORED_SPLITS, choose_test_sets
from lorat.evaluate.track.tracker import Targets
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.base.reading import NothingThere
from lorat.prep.trees.registry import DATASETS
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.errors import UserError, counted, some
from lorat.shards.rng import Draws
from lorat.train.network.blocks.lorat import Tracked

CROPS, CHECKED = 300, 60  # search crops that scale a graph, and others that it is compared on
_FRAMES, _FURTHEST = 4, 5  # tracked in a row; apart
_TRIES = 200  # draws of a place whose frames are not used, where nearly all are
_FEW = 10  # sequences to be calibrated by; places that fail, before it is said that most do
_MOST_BYTES = 2_000_000_000
_LOG = logging.getLogger("lorat")
Example = dict[str, Tensor]
Frame = tuple[str, str, int]  # data set, sequence, number


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs of a tracking graph, and where they are from."""

    inputs: Sequence[Example]
    sequences: dict[str, int]  # of each set

    def metadata(self) -> dict[str, str]:
        """Return what a graph says that was scaled by these."""
        return {"calibration": json.dumps({"search_crops": len(self.inputs), "sequences": self.sequences})}

    def line(self) -> str:
        """Say what was used."""
        sets = ", ".join(f"{name} {count}" for name, count in self.sequences.items())
        return f"{len(self.inputs)} search crops and their templates, of sequences of {sets}"


def calibration_clips(trees: TreeOptions) -> list[list[Clip]]:
    """Return the sequences of every data set of real videos that is there, of its training split if that is; a
    `UserError` where there is none.
    """
    found = []
    for dataset in DATASETS.values():
        splits = (dataset.prep_split, SCORED_SPLITS.get(dataset.name, dataset.eval_split))
        for split in splits if dataset.eval_split is not None else ():
            if split is None or trees.missing([(dataset, split)]):
                continue
            try:
                (read,) = choose_test_sets([f"{dataset.name}-{split}"], (), trees)
            except NothingThere:
                continue
            for line in read.lines():
                _LOG.warning("%s", line)
            if usable := [clip for clip in read.clips if len(_starts(clip))]:
                found.append(usable)
                break
    if (there := sum(map(len, found))) in range(1, _FEW):
        what = "int8 may fit other videos less; name a root with more"
        _LOG.warning("--calibrate %s: only %s there; %s", trees.folder, counted(there, "sequence"), what)
    if not found:
        raise UserError(f"--calibrate {trees.folder}: no sequences with boxes there; name a raw root, as --raw takes")
    return found


def _starts(clip: Clip) -> NDArray[np.int64]:
    """Return the frames that tracking can begin in."""
    usable = min(len(clip.frames), clip.annotated) - _FRAMES
    return np.flatnonzero(clip.tracks[0].visible[: max(usable, 0)])


def draw_examples(
    predictor: Predictor,
    clips: Sequence[Sequence[Clip]],
    count: int,
    what: str,
    on_crops: Callable[[int], None] = lambda done: None,
    used: set[Frame] | None = None,
) -> Examples:
    """Track in sequences of all sets, drawn for a purpose, until the network has seen `count` search crops, or what it
    was given takes 2 GB. No frame is seen twice, nor one that is `used`, to which the seen are added, where there are
    enough. Where the tracker cannot begin or go on, another place is drawn; a `UserError` if most are such.
    """
    seen, names, failed, done = _Seen(predictor), set[tuple[str, str]](), list[str](), 0
    places = _places(clips, Draws(what), set() if used is None else used)
    own, predictor.engine = predictor.engine, seen
    try:
        while len(seen.inputs) < count and seen.size < _MOST_BYTES:
            clip, frames = next(places)
            done += 1
            try:
                targets = Targets(predictor)
                targets.start(clip.frames.read(frames[0]), clip.tracks[0].boxes[frames[0]][None])
                for frame in frames[1:]:
                    targets.track(clip.frames.read(frame))
            except UserError as error:
                failed.append(f"{clip.dataset}-{clip.split}, {clip.name}: {error.message}")
                if len(failed) >= _FEW and 3 * len(failed) > 2 * done:
                    raise UserError(f"{len(failed)} of {done} places cannot be tracked in: {failed[0]}") from None
            else:
                names.add((f"{clip.dataset}-{clip.split}", clip.name))
            on_crops(min(len(seen.inputs), count))
    finally:
        predictor.engine = own
    if failed:
        _LOG.warning("%s left out, where frames or boxes are damaged: %s", counted(len(failed), "place"), some(failed))
    return Examples(seen.inputs[:count], dict(sorted(Counter(name for name, _ in names).items())))


def _places(clips: Sequence[Sequence[Clip]], draws: Draws, used: set[Frame]) -> Iterator[tuple[Clip, range]]:
    """Yield sequences and frames in them, of which tracking begins in the first; add the others to `used`."""
    while True:
        for _ in range(_TRIES):
            of_set = clips[draws.below(len(clips))]
            clip = of_set[draws.below(len(of_set))]
            starts, step = _starts(clip), 1 + draws.below(_FURTHEST)
            first = int(starts[draws.below(len(starts))])
            frames = range(first, len(clip.frames), step)[: 1 + _FRAMES]
            own = {(clip.dataset, clip.name, frame) for frame in frames[1:]}
            if own and used.isdisjoint(own):
                break
        if own:  # a large step may lead out of the video
            used |= own
            yield clip, frames


class _Seen(Engine):
    """An engine that keeps what it is given to follow."""

    def __init__(self, predictor: Predictor) -> None:
        self.engine, self.variant = predictor.engine, predictor.variant
        self.inputs, self.size = list[Example](), 0

    def remember(self, template: Tensor, mask: Tensor) -> Tensor:
        return self.engine.remember(template, mask)

    def remember_reference(self, memory: Tensor, reference: Tensor) -> Tensor:
        return self.engine.remember_reference(memory, reference)

    def follow(self, memory: Tensor, search: Tensor, state: Tensor | None = None) -> Tracked:
        example = {name: part.clone() for name, part in track_inputs(self.variant, memory, search, state).items()}
        if self.inputs:  # most memories stay from frame to frame, and take more than a crop
            before = self.inputs[-1]
            example |= {name: old for name, old in before.items() if torch.equal(old, example[name])}
            self.size += sum(t.nbytes for name, t in example.items() if t is not before[name])
        self.inputs.append(example)
        return self.engine.follow(memory, search, state)


def agreement(predictor: Predictor, file: Path, examples: Examples) -> tuple[float, float]:
    """Return how far the boxes that a graph file finds overlap those of a predictor, mean and least, on examples."""
    own, found = predictor.engine, []
    graph = GraphEngine(file, predictor.variant, torch.get_num_threads(), torch.float32)
    try:
        for predictor.engine in (own, graph):
            found.append([_box(predictor, example) for example in examples.inputs])
    finally:
        predictor.engine = own
    shared = overlaps(*found)
    return float(shared.mean()), float(shared.min())


def _box(predictor: Predictor, example: Example) -> NDArray[np.float64]:
    memory, search, *state = example.values()
    return predictor.predict(memory, search.numpy(), *state).rows[0, :4]
