"""What the trainer costs beside the network: data, logging, ranks, checkpoints, the start.

Real trainings of a few steps on shards of the HD tree, everything in the page cache; what takes the time is told apart
by clocks around the calls of the loop. Networks have random weights. The stub is a step that computes nothing; the
loader alone is the same loader without a training around it.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml

from benchmarks.frames import TreeSize, built_shards
from benchmarks.timing import in_turn
from lorat.configs.load import load_variant
from lorat.configs.schema import RecipeConfig, TrainConfig, VariantConfig
from lorat.shards.manifest import Manifest, load_manifest
from lorat.train import loop
from lorat.train.checkpoint.schedule import Saver
from lorat.train.data.batches import make_loader
from lorat.train.distributed.world import World, join_world
from lorat.train.logs.meter import Meter
from lorat.train.options import StartOptions
from lorat.train.setup import Request, find_shards, prepare, settle_compute
from lorat.train.step.loss import Losses
from lorat.train.step.step import StepResult

__all__ = ["WARM_STEPS", "Clocks", "clocked", "prepared", "rank_seconds", "recipe_of", "run", "variant_of"]

WARM_STEPS = 2  # steps that do not count
_ALONE = World(0, 1, torch.device("cpu"))
_ROOT = Path(__file__).parents[1]
_RANK = """
import sys
from pathlib import Path
from benchmarks.trainer import rank_seconds

rank_seconds(Path(sys.argv[1]), int(sys.argv[2]), bool(int(sys.argv[3])), Path(sys.argv[4]))
"""


def run(quick: bool) -> dict[str, float | str]:
    """Measure all of it.

    Args:
        quick: small networks, few steps.

    Returns:
        Shares of the time, rates, their ratios, and seconds.
    """
    size = TreeSize.of(quick)
    pairs = 32 if quick else 256
    manifest = built_shards(size, pairs, pairs // 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = _whole_steps(manifest, folder, quick)
        stub = _stub_steps(manifest, folder, quick)
        two, one = (_ranks_step(manifest, folder, count, quick) for count in (2, 1))
        start = _start(manifest, folder, quick)
    return {
        **whole,
        **stub,
        "one_process_step_s": round(one, 3),
        "two_processes_step_s": round(two, 3),
        "two_processes_of_one": round(one / two, 3),
        "first_step_s": round(start, 1),
    }


@dataclass
class Clocks:
    """When calls of the loop began and ended."""

    calls: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` with its times noted under `name`."""
        times = self.calls.setdefault(name, [])

        def timed(*arguments: Any, **more: Any) -> Any:
            begin = time.perf_counter()
            value = call(*arguments, **more)
            times.append((begin, time.perf_counter()))
            return value

        return timed

    def seconds(self, name: str, since: float, until: float) -> float:
        """Return the time in calls that began in a span."""
        return sum(end - begin for begin, end in self.calls[name] if since <= begin < until)

    def span(self) -> tuple[float, float]:
        """Return when the steps that count began and ended: from the end of one to another's."""
        steps = self.calls["step"]
        return steps[WARM_STEPS - 1][1], steps[-1][1]


@contextmanager
def clocked(step: Callable[..., Any]) -> Iterator[Clocks]:
    """Put clocks around the calls of the loop, and `step` in the place of its step."""
    clocks = Clocks()
    with ExitStack() as stack:
        stack.enter_context(redirect_stderr(io.StringIO()))  # what a training says
        for owner, name, call, what in (
            (loop, "update", step, "step"),
            (Meter, "wait_for", Meter.wait_for, "wait"),
            (Saver, "save", Saver.save, "save"),
        ):
            stack.enter_context(patch.object(owner, name, clocks.around(what, call)))
        yield clocks


def _whole_steps(manifest: Manifest, folder: Path, quick: bool) -> dict[str, float | str]:
    """Train B-224 with batch 8 and one worker: shares outside the step, in waiting, in saving."""
    plan = recipe_of(manifest, batch=8, steps=5 if quick else 22, workers=1)
    training, network = prepared(variant_of("B-224", quick), plan, manifest, folder / "whole")
    with clocked(loop.update) as clocks:
        loop.train(training, network)
    since, until = clocks.span()
    length = until - since
    steps = len(clocks.calls["step"]) - WARM_STEPS
    ((begin, end),) = clocks.calls["save"]
    interval = 60.0 * TrainConfig().checkpoint_minutes
    return {
        "trainer_step_ms": round(1e3 * length / steps, 1),
        "outside_ms": round(1e3 * (length - clocks.seconds("step", since, until)) / steps, 1),
        "outside_share": round(1.0 - clocks.seconds("step", since, until) / length, 4),
        "wait_share": round(clocks.seconds("wait", since, until) / length, 4),
        "save_ms": round(1e3 * (end - begin), 1),
        "save_share": round((end - begin) / interval, 6),
    }


def _stub_steps(manifest: Manifest, folder: Path, quick: bool) -> dict[str, float | str]:
    """Train with a step that computes nothing, and run the loader alone, in turn."""
    batch, steps = 16, 12 if quick else 128
    plan = recipe_of(manifest, batch=batch, steps=steps, workers=1)
    zero = torch.zeros(())
    nothing = StepResult(Losses(zero, zero[None], zero[None]), zero, zero)
    rounds = iter(range(100))
    spans: dict[str, list[float]] = {"stub": [], "loader": []}

    def stub() -> int:
        run = folder / f"stub{next(rounds)}"
        training, network = prepared(variant_of("B-224", True), plan, manifest, run)
        with clocked(lambda *_: nothing) as clocks:
            loop.train(training, network)
        since, until = clocks.span()
        spans["stub"].append((until - since) / (steps - WARM_STEPS))
        return steps

    def loader() -> int:
        run = folder / f"loader{next(rounds)}"
        training, _ = prepared(variant_of("B-224", True), plan, manifest, run)
        ends = []
        for _ in make_loader(training.source, workers=1):
            ends.append(time.perf_counter())
        spans["loader"].append((ends[-1] - ends[WARM_STEPS - 1]) / (steps - WARM_STEPS))
        return steps

    in_turn(1 if quick else 3, {"stub": stub, "loader": loader})
    ratios = [a / b for a, b in zip(spans["loader"], spans["stub"], strict=True)][1:]
    return {
        "stub_pairs_per_s": round(batch / _median(spans["stub"][1:]), 1),
        "loader_pairs_per_s": round(batch / _median(spans["loader"][1:]), 1),
        "stub_of_loader": round(_median(ratios), 3),
    }


def _ranks_step(manifest: Manifest, folder: Path, count: int, quick: bool) -> float:
    """Return the seconds of a step of 8 pairs over `count` processes that share the cores."""
    answer, steps = folder / f"ranks{count}.json", 4 if quick else 12
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    script = folder / "rank.py"
    script.write_text(_RANK, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    arguments = [str(manifest.folder), str(steps), str(int(quick)), str(answer)]
    subprocess.run(
        [*launch, f"--nproc-per-node={count}", str(script), *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**environment, "PYTHONPATH": str(_ROOT)},
        cwd=_ROOT,
    )
    return float(json.loads(answer.read_text(encoding="utf-8")))


def rank_seconds(shards: Path, steps: int, quick: bool, answer: Path) -> None:
    """Train B-224 in this rank; rank 0 writes the seconds of a step to `answer`."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    manifest = load_manifest(shards)
    plan = recipe_of(manifest, batch=8, steps=steps, workers=1)
    with join_world("cpu") as world:
        run = answer.with_suffix(".run")
        training, network = prepared(variant_of("B-224", quick), plan, manifest, run, world)
        with clocked(loop.update) as clocks:
            loop.train(training, network)
        if world.speaks:
            since, until = clocks.span()
            answer.write_text(json.dumps((until - since) / (steps - WARM_STEPS)), encoding="utf-8")


def _start(manifest: Manifest, folder: Path, quick: bool) -> float:
    """Return the seconds from the command to its first step, S-224, after one that fills caches."""
    files = {"variant": variant_of("S-224", quick), "recipe": recipe_of(manifest, batch=8, steps=1, workers=1)}
    for name, config in files.items():
        text = yaml.safe_dump(config.model_dump(mode="json"))
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    options = [f"--{name}={folder / name}.yaml" for name in files]
    options += [f"--shards={manifest.folder.parent}", "--device=cpu", "--no-eval"]
    seconds = 0.0
    for number in range(2):
        run = folder / f"start{number}"
        begin = time.time()
        subprocess.run(
            [sys.executable, "-m", "lorat.train.cli", *options, f"--run={run}"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # The last line is written when the only step is done.
        seconds = (run / "log.jsonl").stat().st_mtime - begin
    return seconds


def variant_of(name: str, quick: bool) -> VariantConfig:
    """Return a variant with random weights; a quick one is two narrow blocks."""
    variant = load_variant(name)
    args = {"embed_dim": 128, "depth": 2, "num_heads": 2} if quick else {}
    backbone = variant.backbone.model_copy(update={"pretrained": False, "args": args})
    return variant.model_copy(update={"backbone": backbone})


def recipe_of(manifest: Manifest, *, batch: int, steps: int, workers: int, epochs: int = 1) -> RecipeConfig:
    """Return a recipe of `epochs` epochs of `steps` steps on a manifest's pairs; each epoch leaves a checkpoint."""
    return RecipeConfig.model_validate(
        {
            "name": "benchmark",
            "data": {"datasets": {manifest.name: 1}, "workers": workers},
            "train": {"batch_size": batch, "pairs_per_epoch": batch * steps, "epochs": epochs, "checkpoint_epochs": 1},
        }
    )


def prepared(
    variant: VariantConfig,
    recipe: RecipeConfig,
    manifest: Manifest,
    run: Path,
    world: World = _ALONE,
    *,
    on: bool = False,
) -> tuple[loop.Training, Any]:
    """Return a training and its network as the command would make them; it goes `on` from a checkpoint or is new."""
    start = StartOptions(resume="auto" if on else None)
    request = Request(variant=variant, recipe=recipe, shards=manifest.folder.parent, run=run, start=start)
    request = settle_compute(request, world)
    return prepare(request, find_shards(request), world)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
