"""Tracking of S-224 on processors, in the number type that is fast there: what stands around the network, and how much
of it.

Frames have 1280 × 720 pixels (`benchmarks.frames`), and objects sides of 8 to 30 % of the width, so that search windows
of four sides cover a good part of a frame. Weights are random; so that targets keep the size of the given box, the
network's boxes are replaced after they were computed.

- A frame: decode, cut, normalise, choose the box, map it back, with a network that takes no time,
  against decoding alone; eight frames at a time, as in the engine, on one thread, processor time.
- Many side by side: the engine, 16 sequences, against the network alone on batches of 16, with all
  cores; and against one sequence after another.
- Overlap: the same with one thread for the network, so that a core is free.
- Memory: peak resident set of processes that track longer sequences, or more of them.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.frames import SIZES, TreeSize, hd_clips
from benchmarks.timing import in_turn
from lorat.configs.load import load_variant
from lorat.configs.schema import VariantConfig
from lorat.evaluate.track.batch import Work, track_clips
from lorat.evaluate.track.memory.cutouts import Places
from lorat.evaluate.track.memory.feed import mean_colour
from lorat.evaluate.track.memory.first import First
from lorat.evaluate.track.predictor import Found, Predictor
from lorat.evaluate.track.tracker import TargetState, finish, locate, prepare_search
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.shards.base.machine import usable_cores
from lorat.shards.base.process import ALL_FREED, keep_freed_memory
from lorat.shards.pixels.jpeg import read_image
from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.blocks.lorat import OneStream, Prediction, Tracked
from lorat.train.network.deploy.processor import Product, fast_dtype
from lorat.train.network.variants import assemble, hold_matrices_in

__all__ = ["all_cores", "longer", "random_network", "run", "steady_predictor"]

_SIDE_BY_SIDE = 16

_CHILD = """
import json, sys
from pathlib import Path

import torch
torch.set_num_threads(1)
from benchmarks.tracking import peak_of_tracking

print(json.dumps(peak_of_tracking(*map(int, sys.argv[1:]))))
"""


def run(quick: bool) -> dict[str, float | str]:
    """Measure everything.

    Args:
        quick: a narrow network, few frames, one round.
    """
    keep_freed_memory(ALL_FREED)
    size = TreeSize(2, 3) if quick else TreeSize(32, 8)
    clips = [clip for clip in hd_clips(size) if clip.frame_size() == SIZES[0]]
    predictor = steady_predictor(quick)
    return {
        **_frame(clips, predictor, 1 if quick else 15),
        **_side_by_side(clips, predictor, quick),
        **_overlap(clips, predictor, quick),
        **_memory(quick),
    }


class _Steady(Predictor):
    """Answers with a box in the crop's middle, a quarter as long as the crop, after all work."""

    def predict(self, memory: Tensor, crops: Places, state: Tensor | None = None) -> Found:
        found = super().predict(memory, crops, state)
        side = self.variant.search_size
        found.rows[:, :4] = np.array([0.375, 0.375, 0.625, 0.625]) * side
        return found


class _Idle(torch.nn.Module):
    """A network whose answer is there at once."""

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.search_grid = grid
        self.score, self.boxes = torch.randn(1, grid, grid), torch.rand(1, grid, grid, 4)

    def follow(self, memory: Tensor, images: Tensor, state: Tensor | None = None) -> Tracked:
        count = len(images)
        score, boxes = self.score.expand(count, -1, -1), self.boxes.expand(count, -1, -1, -1)
        return Tracked(Prediction(score, boxes), None)


def _variant(quick: bool) -> VariantConfig:
    variant = load_variant("S-224")
    args: dict[str, float] = {"embed_dim": 64, "depth": 1, "num_heads": 2} if quick else {}
    backbone = variant.backbone.model_copy(update={"pretrained": False, "args": args})
    return variant.model_copy(update={"backbone": backbone})


def random_network(quick: bool) -> tuple[OneStream, VariantConfig]:
    """Return S-224 with random weights, LoRA merged, in the number type that is fast here; a narrow one where it is to
    be quick.
    """
    torch.manual_seed(0)
    variant = _variant(quick)
    network = assemble(variant, None).eval().requires_grad_(False)
    merge_adapters(network)
    hold_matrices_in(network, fast_dtype(Product.of(network)))
    return network, variant


def steady_predictor(quick: bool) -> Predictor:
    """Return one around `random_network` whose boxes keep the size of the given ones."""
    network, variant = random_network(quick)
    return _Steady(network, variant, torch.device("cpu"), fast_dtype(Product.of(network)))


def all_cores() -> AbstractContextManager[None]:
    """Let the network take all cores in the block, and OpenCV one."""
    return _threads(usable_cores())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before, cv_before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(cv_before)


def _frame(clips: list[Clip], predictor: Predictor, rounds: int) -> dict[str, float | str]:
    idle: Any = _Idle(predictor.network.search_grid)
    stub = Predictor(idle, predictor.variant, predictor.device, torch.float32)
    group = _SIDE_BY_SIDE // 2  # whose frames go through the network together
    crops, memory = stub.room_for_crops(group), stub.memory(group)
    mean = np.full(3, 118.0, np.float32)
    frames = [
        (clip.frames[index], TargetState(clip.tracks[0].boxes[index], mean, First(None, torch.zeros(1, 1))))
        for clip in clips
        for index in range(len(clip.frames))
    ]

    groups = [frames[start : start + group] for start in range(0, len(frames), group)]

    def decode() -> int:
        for part in groups:
            _ = [read_image(path) for path, _ in part]
        return len(frames)

    def track() -> int:
        for part in groups:
            images = [read_image(path) for path, _ in part]
            states = [state for _, state in part]
            cuts = [prepare_search(stub, memory, *each) for each in zip(images, states, crops, strict=False)]
            answers = locate(stub, memory, states, crops[: len(part)]).each()
            for cut, answer, state in zip(cuts, answers, states, strict=True):
                finish(memory, cut, *answer, state)
        return len(frames)

    with _threads(1):
        times = in_turn(rounds, {"decode": decode, "track": track})
    return {
        "decode_ms": round(times.median("decode") * 1e3, 3),
        "frame_beside_network_ms": round(times.median("track") * 1e3, 3),
        "frame_of_decode": round(times.cpu_ratio("track", "decode"), 3),
    }


def _side_by_side(clips: list[Clip], predictor: Predictor, quick: bool) -> dict[str, float | str]:
    long = longer(clips, _SIDE_BY_SIDE, 2 if quick else 13)
    with all_cores():
        times = in_turn(
            1 if quick else 5,
            {
                "network": _network(predictor, long, _SIDE_BY_SIDE),
                "many": _engine(predictor, long, _SIDE_BY_SIDE),
                "single": _engine(predictor, long, 1),
            },
        )
    return {
        "network_fps": round(1.0 / times.median("network"), 2),
        "side_by_side_fps": round(1.0 / times.median("many"), 2),
        "one_by_one_fps": round(1.0 / times.median("single"), 2),
        "side_by_side_of_network": round(times.ratio("network", "many"), 3),
        "side_by_side_of_one_by_one": round(times.ratio("single", "many"), 3),
    }


def _overlap(clips: list[Clip], predictor: Predictor, quick: bool) -> dict[str, float | str]:
    long = longer(clips, _SIDE_BY_SIDE, 2 if quick else 8)
    with _threads(max(1, usable_cores() - 1)):
        times = in_turn(
            1 if quick else 5,
            {"network": _network(predictor, long, _SIDE_BY_SIDE), "many": _engine(predictor, long, _SIDE_BY_SIDE)},
        )
    return {
        "core_free_ms": round(times.median("many") * 1e3, 2),
        "core_free_of_network": round(times.ratio("many", "network"), 3),
    }


def longer(clips: list[Clip], count: int, frames: int) -> list[Clip]:
    """Return `count` sequences of `frames` frames, which go through the given ones again."""
    long = []
    for number, clip in zip(range(count), itertools.cycle(clips), strict=False):
        names = tuple(path.name for path in clip.frames)
        shown = tuple(itertools.islice(itertools.cycle(names), frames))
        boxes = np.repeat(clip.tracks[0].boxes[:1], frames, axis=0)
        track = Track(boxes, np.ones(frames, dtype=bool))
        files = FrameFiles(clip.frames.folder, shown)
        name = f"{number:02d}"
        long.append(replace(clip, name=name, frames=files, tracks=(track,), annotated=frames, first=0))
    return long


def _engine(predictor: Predictor, clips: list[Clip], batch: int) -> Callable[[], int]:
    frames = sum(len(clip.frames) for clip in clips)

    def track() -> int:
        work = [Work(clip) for clip in clips]
        for _ in track_clips(predictor, work, batch=batch, threads=usable_cores()):
            pass
        return frames

    return track


def _network(predictor: Predictor, clips: list[Clip], batch: int) -> Callable[[], int]:
    """Return the network's work for all these frames: templates, then batches of search crops."""
    firsts = [(read_image(clip.frames[0]), clip.tracks[0].boxes[0]) for clip in clips[:batch]]
    templates = [predictor.cut_template(frame, box, mean_colour(frame)) for frame, box in firsts]
    side = predictor.variant.search_size
    crops = torch.from_numpy(np.zeros((batch, 3, side, side), np.float32)).add_(0.5)
    frames = len(clips[0].frames)

    def work() -> int:
        for start in range(0, len(clips), batch):
            tokens = predictor.embed(templates[: len(clips) - start])
            with torch.inference_mode():
                for _ in range(frames - 1):
                    predictor.network.follow(tokens, crops[: len(tokens)])
        return frames * len(clips)

    return work


def _memory(quick: bool) -> dict[str, float | str]:
    short, long = (10, 30) if quick else (500, 10_000)
    few, many = (2, 4) if quick else (20, 400)
    base, lengthy = _peak(4, short), _peak(4, long)
    small, numerous = _peak(few, 20), _peak(many, 20)
    return {
        "peak_mb": round(lengthy, 1),
        "numerous_mb": round(numerous, 1),
        "memory_of_length": round(lengthy / base, 3),
        "memory_of_number": round(numerous / small, 3),
    }


def _peak(sequences: int, frames: int) -> float:
    command = [sys.executable, "-c", _CHILD, str(sequences), str(frames)]
    root = Path(__file__).parents[1]  # where the child finds this package
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root).stdout
    return float(json.loads(output))


def peak_of_tracking(sequences: int, frames: int) -> float:
    """Track with a narrow network and return this process's peak resident set in MB (10⁶ bytes)."""
    clips = [clip for clip in hd_clips(TreeSize(4, 3)) if clip.frame_size() == SIZES[0]]
    predictor = steady_predictor(True)
    _engine(predictor, longer(clips, sequences, frames), 4)()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1.024e-3
