"""The parts of `benchmarks.gpu`: each yields what it measured, and its numbers."""

import datetime
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.frames import SIZES, TreeSize, built_shards, hd_clips
from benchmarks.tracking import longer
from benchmarks.trainer import WARM_STEPS, clocked, prepared, recipe_of, variant_of
from lorat.configs.schema import TrainConfig
from lorat.evaluate.track.batch import Work, track_clips
from lorat.evaluate.track.memory.feed import mean_colour
from lorat.evaluate.track.predictor import Predictor, penalty_window, select_box
from lorat.shards.base.machine import usable_cores
from lorat.shards.manifest import Manifest
from lorat.shards.pixels.jpeg import codec_name, read_image
from lorat.train import loop
from lorat.train.distributed.world import World
from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.deploy.devices import pick_dtype
from lorat.train.network.variants import assemble, empty_network, hold_matrices_in
from lorat.train.network.weights.containers import read_tensors
from lorat.train.profile.count import Setting, made_up_batch, materialise, step_engine
from lorat.train.step.step import update
from tests.train.network import golden

Figures = tuple[str, Mapping[str, Any]]
"""What was measured, and name → value; a name ends in its unit."""

_EXACT, _ROUNDED = (1e-4, 0.15)  # largest difference in standard deviations: float32 as in the tests, bfloat16
_BATCHES = (1, 16, 64)


@dataclass
class Bench:
    """Where it is measured, and with sizes that take how long."""

    device: torch.device
    quick: bool
    scratch: Path
    compiles: bool = True

    def wait(self) -> None:
        """Let the device do all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def forget(self) -> None:
        """Give back what no tensor holds, and let the peak start from what is held."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> dict[str, float]:
        """Return the most that tensors held at a time since `forget`, in 10⁹ bytes; nothing where that is not known."""
        away = self.device.type == "cuda"
        return {"peak_GB": torch.cuda.max_memory_allocated(self.device) / 1e9} if away else {}

    def seconds(self, work: Callable[[], object], rounds: int) -> float:
        """Return the median time of some rounds, the device idle before and after each; one more comes first."""
        times = []
        for _ in range(1 + (1 if self.quick else rounds)):
            self.wait()
            begin = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - begin)
        return statistics.median(times[1:])


def machine(device: torch.device) -> dict[str, str | int]:
    """Say where and when: card, PyTorch, CUDA, cores, codec, date."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    versions = {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
    return {
        "card": card,
        **versions,
        "cores": usable_cores(),
        "codec": codec_name(),
        "date": str(datetime.date.today()),
    }


def golden_arrays(bench: Bench) -> Iterator[Figures]:
    """Compare a tiny published network, its losses and gradients, and the choice of a box, with the golden arrays."""
    arrays = golden.arrays()
    wanted = json.loads((golden.SMALL / "g4_grad_norms_224.json").read_text(encoding="utf-8"))
    torch.backends.cudnn.allow_tf32 = False  # the patch convolution too is to be exact
    for dtype, limit in ((torch.float32, _EXACT), (torch.bfloat16, _ROUNDED)):
        network = golden.network_of(golden.variant())
        hold_matrices_in(network, dtype)
        network.to(bench.device).train()
        batch = [tensor.to(bench.device) for tensor in golden.inputs(arrays)]
        with torch.autocast(bench.device.type, dtype, enabled=dtype != torch.float32):
            prediction = network(*batch)
        loss = golden.losses_of(prediction, arrays).total
        loss.backward()
        off = {name: _off(getattr(prediction, name).detach().cpu(), arrays[name]) for name in ("score_map", "boxes")}
        off |= {"loss": abs(loss.item() / wanted["loss"] - 1.0)}
        verdict = "holds" if max(off.values()) <= limit else "DOES NOT HOLD"
        off |= {"gradient norms": _gradients_off(network, wanted["grad_norms"])}
        yield f"tiny network, {_named(dtype)}", {**off, f"within {limit:g}": verdict}
    stored = np.load(golden.SMALL / "g6_postprocess_16.npz")
    score, boxes = (torch.from_numpy(stored[name]).to(bench.device) for name in ("score_map", "boxes"))
    choice = select_box(score, boxes, penalty_window(16, bench.device), 0.45)
    same = bool((choice.cell.cpu().numpy() == stored["best_index"]).all())
    yield "choice of the box", {"cells": "all the same" if same else "OTHERS"}


def training_steps(bench: Bench) -> Iterator[Figures]:
    """Time whole training steps on pairs that are on the device already: eager, and compiled."""
    for name, pairs in (("B-224", 128), ("L-224", 64)):
        for compiled in (False, True)[: 1 + bench.compiles]:
            bench.forget()
            setting = _setting(bench, name, 2 if bench.quick else pairs, compiled)
            yield (
                f"{name}, batch {setting.pairs}, bfloat16, {'compiled' if compiled else 'eager'}",
                _timed(bench, setting),
            )


def _timed(bench: Bench, setting: Setting) -> dict[str, float]:
    step, begin = _Steps(bench, setting), time.perf_counter()
    step()
    bench.wait()
    first, seconds = time.perf_counter() - begin, bench.seconds(step, 10)
    return {"pairs/s": setting.pairs / seconds, "step_ms": seconds * 1e3, **bench.peak(), "first_step_s": first}


def loader(bench: Bench) -> Iterator[Figures]:
    """Train B-224 from shards of HD frames: how much of the time the trainer waits for its loader."""
    manifest = _shards(bench)
    workers = 1 if bench.quick else max(1, usable_cores() - 1)
    batch, steps = (2, 4) if bench.quick else (128, 24)
    recipe = recipe_of(manifest, batch=batch, steps=steps, workers=workers)
    training, network = prepared(
        variant_of("B-224", bench.quick), recipe, manifest, bench.scratch / "fed", _world(bench)
    )
    with clocked(loop.update) as clocks:
        loop.train(training, network)
    bench.wait()
    # Steps are asynchronous: the clock goes from when the loop took a batch to when it took the last.
    waits = clocks.calls["wait"][WARM_STEPS:]
    length = waits[-1][1] - waits[0][0]
    share = sum(end - begin for begin, end in waits) / length
    yield (
        f"B-224, batch {batch}, {workers} workers",
        {"pairs/s": batch * (len(waits) - 1) / length, "wait_share": share, **bench.peak()},
    )


def tracking(bench: Bench) -> Iterator[Figures]:
    """Time frames of B-224: the network on crops of the host, as bytes and as floats, and on what the device resamples
    itself; and the engine on HD frames.
    """
    variant = variant_of("B-224", bench.quick)
    network = assemble(variant, None).eval().requires_grad_(False)
    dtype = pick_dtype("auto", bench.device, network)
    merge_adapters(network)
    hold_matrices_in(network, dtype)
    predictor = Predictor(network, variant, bench.device, dtype)
    clips = [clip for clip in hd_clips(_tree(bench)) if clip.frame_size() == SIZES[0]]
    frame = read_image(clips[0].frames[0])
    box, mean = clips[0].tracks[0].boxes[0], mean_colour(frame)
    template = predictor.cut_template(frame, box, mean)
    for count in (1, 2) if bench.quick else _BATCHES:
        tokens, crops = predictor.embed([template] * count), predictor.room_for_crops(count)
        for crop in crops:
            predictor.cut_search(frame, box, mean, crop)
        floats = np.full((count, *[variant.search_size] * 2, 3), 100.0, np.float32)
        exact, short, there = (
            bench.seconds(lambda given=given: predictor.predict(tokens, given), 50)  # type: ignore[misc]  # noqa: B023
            for given in (floats, floats.astype(np.uint8), crops)
        )
        work = [Work(clip) for clip in longer(clips, count, 2 if bench.quick else 120)]
        frames = sum(len(item.clip.frames) for item in work)
        begin = time.perf_counter()
        done = sum(1 for _ in track_clips(predictor, work, batch=count, threads=usable_cores()))
        rate = frames / (time.perf_counter() - begin)
        numbers = {
            "crops as bytes_ms": short * 1e3,
            "as floats_ms": exact * 1e3,
            "resampled there_ms": there * 1e3,
            "engine_fps": rate,
        }
        yield f"B-224, batch {count}, {_named(dtype)}", {**numbers, "sequences": done}


def resume(bench: Bench) -> Iterator[Figures]:
    """Stop a training after its first epoch and go on: are the weights those of one that was not stopped?"""
    manifest, folder = _shards(bench), bench.scratch
    recipe = recipe_of(manifest, batch=2 if bench.quick else 32, steps=3, workers=1, epochs=2)
    variant, world = variant_of("S-224", bench.quick), _world(bench)
    loop.train(*prepared(variant, recipe, manifest, folder / "whole", world))
    shutil.copytree(folder / "whole", folder / "halved")
    shutil.rmtree(folder / "halved" / "checkpoints" / "epoch_0002")
    loop.train(*prepared(variant, recipe, manifest, folder / "halved", world, on=True))
    whole, halved = (
        read_tensors(folder / name / "checkpoints" / "epoch_0002" / "model.safetensors")[0]
        for name in ("whole", "halved")
    )
    off = max(float((whole[name] - halved[name]).abs().max()) for name in whole)
    yield "S-224, stopped after 3 of 6 steps", {"weights": "equal bit for bit" if off == 0.0 else f"off by {off:.3g}"}


def kernels(bench: Bench) -> Iterator[Figures]:
    """Say which kernels take the time of a training step, and how much of it."""
    step = _Steps(bench, _setting(bench, "B-224", 2 if bench.quick else 128, compiled=False))
    step()
    away = bench.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if away else ProfilerActivity.CPU]) as seen:
        for _ in range(3):
            step()
        bench.wait()
    took = "self_device_time_total" if away else "self_cpu_time_total"
    events = sorted(seen.key_averages(), key=lambda event: -float(getattr(event, took)))
    whole = sum(float(getattr(event, took)) for event in events)
    for event in events[:10]:
        share = float(getattr(event, took)) / whole
        yield event.key[:48], {"share": share, "calls a step": event.count / 3}


class _Steps:
    """Does one training step after another, on pairs of noise that are on the device."""

    def __init__(self, bench: Bench, setting: Setting) -> None:
        network = materialise(empty_network(setting.variant, setting.dtype), bench.device)
        self._engine, self._batch = step_engine(network, setting), made_up_batch(setting, network)
        self._train, self._number = setting.train, -1
        if setting.train.compile:
            self._engine.objective.compile_whole(bench.device)

    def __call__(self) -> None:
        self._number += 1
        update(self._engine, self._train, self._batch, self._number)


def _off(found: Tensor, wanted: np.ndarray) -> float:
    """Return the largest difference, in standard deviations of what is wanted."""
    return float(np.abs(found.numpy() - wanted).max() / wanted.std())


def _gradients_off(network: OneStream, wanted: Mapping[str, float]) -> float:
    """Return by which part the norm of a gradient differs most from the published one."""
    found = golden.published_gradients(network)
    return max(abs(float(found[name].norm()) / norm - 1.0) for name, norm in wanted.items() if norm)


def _setting(bench: Bench, name: str, pairs: int, compiled: bool) -> Setting:
    train = TrainConfig(batch_size=pairs, compile=compiled)
    return Setting(variant_of(name, bench.quick), train, bench.device, torch.bfloat16)


def _shards(bench: Bench) -> Manifest:
    pairs = 32 if bench.quick else 1024
    return built_shards(_tree(bench), pairs, pairs // 2)


def _tree(bench: Bench) -> TreeSize:
    return TreeSize.of(bench.quick)


def _world(bench: Bench) -> World:
    return World(0, 1, bench.device)


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
