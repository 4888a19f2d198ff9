"""Engines and number types beside each other: the latency of one target, the throughput of 16, both ends to end.

S-224 and B-224 with random weights track frames of 1280 x 720 from memory: crops, network, boxes; no image is decoded.
Sides take turns; beside wall time stands processor time, in which other work on the machine does not count. Int8 graphs
are scaled by a few crops of the same frames, since their speed does not depend on what they were scaled by.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.frames import SIZES, TreeSize, hd_clips
from benchmarks.timing import Times, in_turn
from lorat.configs.load import load_variant
from lorat.configs.schema import VariantConfig
from lorat.evaluate.calibrate.examples import draw_examples
from lorat.evaluate.track.engines.graph import GraphEngine
from lorat.evaluate.track.predictor import Predictor
from lorat.evaluate.track.tracker import Targets
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.machine import usable_cores
from lorat.shards.pixels.jpeg import read_image
from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.deploy import RUNTIMES
from lorat.train.network.deploy.graphs import export_graphs
from lorat.train.network.deploy.int8 import quantise_onnx, quantise_openvino
from lorat.train.network.deploy.runtimes import has_bfloat16
from lorat.train.network.variants import assemble, hold_matrices_in

__all__ = ["run", "run_of"]

_MANY = 16
_CPU = torch.device("cpu")


def run(quick: bool) -> dict[str, float | str]:
    """Measure both variants; in a quick run two narrow blocks, which are the same for both."""
    small = run_of("S-224", quick)
    if quick:
        return small | {name.replace("s224", "b224"): value for name, value in small.items()}
    return small | run_of("B-224", quick)


def run_of(name: str, quick: bool, rounds: int = 9) -> dict[str, float | str]:
    """Measure one variant.

    Returns:
        ``<variant>_<engine>_<type>_ms`` of one frame and ``_fps`` of 16 targets, both medians of wall time; the same in
        processor time (``_cpu_ms``); each as many times as fast as PyTorch's float32 (``_speedup``), by processor time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        with tempfile.TemporaryDirectory() as folder:
            sides = _sides(_variant(name, quick), Path(folder), quick)
            clips = [clip for clip in hd_clips(_size(quick)) if clip.frame_size() == SIZES[0]]
            frames = [read_image(path) for path in clips[0].frames]
            boxes = np.stack([clip.tracks[0].boxes[0] for clip in clips])
            one = in_turn(1 if quick else rounds, _tracking(sides, frames, boxes[:1], 3))
            many = in_turn(1 if quick else max(2, rounds // 4), _tracking(sides, frames, boxes, 1, _MANY))
            decode = in_turn(1 if quick else rounds, {"decode": partial(_decode, clips[0])})
    finally:
        torch.set_num_threads(threads)
    key = name.replace("-", "").lower()
    return {f"{key}_decode_ms": round(decode.median("decode") * 1e3, 2)} | _numbers(key, list(sides), one, many)


def _numbers(key: str, sides: list[str], one: Times, many: Times) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    for side in sides:
        cpu = float(np.median(one.cpu_seconds[side]))
        found |= {
            f"{key}_{side}_ms": round(one.median(side) * 1e3, 2),
            f"{key}_{side}_cpu_ms": round(cpu * 1e3, 2),
            f"{key}_{side}_fps": round(1.0 / many.median(side), 2),
            f"{key}_{side}_speedup": round(one.cpu_ratio("torch_float32", side), 3),
            f"{key}_{side}_speedup_wall": round(one.ratio("torch_float32", side), 3),
            f"{key}_{side}_speedup_16": round(many.cpu_ratio("torch_float32", side), 3),
        }
    best = max(float(found[f"{key}_{side}_speedup"]) for side in sides if side.startswith("torch"))
    fastest = max(float(found[f"{key}_{side}_speedup"]) for side in sides if side.startswith("openvino_int8"))
    return found | {f"{key}_int8_of_float32": fastest, f"{key}_int8_of_torch": round(fastest / best, 3)}


def _size(quick: bool) -> TreeSize:
    return TreeSize(2, 6) if quick else TreeSize.of(False)  # examples are of five frames in a row


def _decode(clip: Clip) -> int:
    for path in clip.frames:
        read_image(path)
    return len(clip.frames)


def _tracking(
    sides: Mapping[str, Predictor],
    frames: list[NDArray[np.uint8]],
    boxes: NDArray[np.float64],
    count: int,
    targets: int = 1,
) -> dict[str, Callable[[], int]]:
    """Return what tracks so many frames of so many targets with each side."""

    def side(predictor: Predictor) -> Callable[[], int]:
        tracked = Targets(predictor)
        tracked.start(frames[0], np.resize(boxes, (targets, 4)))

        def track() -> int:
            for number in range(count):
                tracked.track(frames[number % len(frames)])
            return count * targets

        return track

    return {name: side(predictor) for name, predictor in sides.items()}


def _sides(variant: VariantConfig, folder: Path, quick: bool) -> dict[str, Predictor]:
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    sides = {}
    for name, dtype in types.items():
        network = _network(variant)
        hold_matrices_in(network, dtype)
        sides[f"torch_{name}"] = Predictor(network, variant, _CPU, dtype)
    network = _network(variant)
    clips = [list(hd_clips(_size(quick)))]
    examples = draw_examples(sides["torch_float32"], clips, 4 if quick else 20, "benchmark").inputs
    scaled = partial(quantise_openvino, examples=examples, known={})
    to_int8 = {".onnx": partial(quantise_onnx, known={}), ".xml": scaled}
    for suffix in RUNTIMES:
        export_graphs(folder / "float32" / f"net{suffix}", network, variant)
    shutil.copytree(folder / "float32", folder / "int8")
    for suffix, engine in RUNTIMES.items():
        to_int8[suffix](folder / "int8" / f"net{suffix}")
        for numbers, (name, dtype) in product(("float32", "int8"), types.items()):
            if name == "bfloat16" and (engine == "onnx" or not has_bfloat16()):
                continue
            label = {"float32_bfloat16": "bfloat16", "int8_bfloat16": "int8_bfloat16"}.get(f"{numbers}_{name}", numbers)
            graph = GraphEngine(folder / numbers / f"net{suffix}", variant, usable_cores(), dtype)
            sides[f"{engine}_{label}"] = Predictor(_network(variant).to("meta"), variant, _CPU, dtype, engine=graph)
    return sides


def _network(variant: VariantConfig) -> OneStream:
    torch.manual_seed(0)
    network = assemble(variant, None).eval().requires_grad_(False)
    merge_adapters(network)
    return network


def _variant(name: str, quick: bool) -> VariantConfig:
    variant = load_variant(name)
    args: dict[str, float] = {"embed_dim": 128, "depth": 2, "num_heads": 2} if quick else {}
    backbone = variant.backbone.model_copy(update={"pretrained": False, "args": args})
    return variant.model_copy(update={"backbone": backbone})
