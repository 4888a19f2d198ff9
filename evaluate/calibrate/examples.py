"""What a tracker's network sees in real sequences: examples that an int8 graph is scaled by, and compared with.

The tracker itself follows objects for a few frames, from places that are drawn with a fixed seed, so that templates,
search crops and what a method remembers are such as they are when it tracks.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
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
from lorat.evaluate.track.testsets import SCORED_SPLITS
from lorat.evaluate.track.tracker import Targets
from lorat.prep.trees.base.clip import Clip
from lorat.prep.trees.base.reading import NothingThere
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.errors import UserError
from lorat.shards.rng import Draws
from lorat.train.network.blocks.lorat import Tracked

CROPS, CHECKED = 300, 60  # search crops that scale a graph, and others that it is compared on
_FRAMES, _FURTHEST = 4, 5  # tracked in a row; apart
_MOST_BYTES = 2_000_000_000
Example = dict[str, Tensor]


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
        if dataset.eval_split is None or dataset.name == "generic":
            continue
        for split in splits:
            if split is None or trees.missing([(dataset, split)]):
                continue
            try:
                clips = read_clips(dataset, split, trees.find(dataset, split))
            except NothingThere:
                continue
            if usable := [clip for clip in clips if len(_starts(clip))]:
                found.append(usable)
                break
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
) -> Examples:
    """Track in sequences of all sets, drawn for a purpose, until the network has seen `count` search crops, or what it
    was given takes 2 GB.
    """
    draws, seen, names = Draws(what), _Seen(predictor), set[tuple[str, str]]()
    own, predictor.engine = predictor.engine, seen
    try:
        while len(seen.inputs) < count and seen.size < _MOST_BYTES:
            of_set = clips[draws.below(len(clips))]
            clip = of_set[draws.below(len(of_set))]
            starts, step = _starts(clip), 1 + draws.below(_FURTHEST)
            first = int(starts[draws.below(len(starts))])
            shown = range(first, len(clip.frames), step)[: 1 + _FRAMES]
            targets = Targets(predictor)
            targets.start(clip.frames.read(first), clip.tracks[0].boxes[first][None])
            for frame in shown[1:]:
                targets.track(clip.frames.read(frame))
            names.add((f"{clip.dataset}-{clip.split}", clip.name))
            on_crops(min(len(seen.inputs), count))
    finally:
        predictor.engine = own
    return Examples(seen.inputs[:count], dict(sorted(Counter(name for name, _ in names).items())))


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
