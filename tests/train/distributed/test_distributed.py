"""Two processes compute the step of one, however unequal their work is.

This file is also what the two processes run.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from lorat.configs.schema import BackboneConfig, LoraConfig, TrainConfig, VariantConfig
from lorat.shards.base.process import end_process
from lorat.train.data.batches import Batch
from lorat.train.distributed.world import World, join_world, mean_over_ranks
from lorat.train.network.variants import build_network, hold_matrices_in
from lorat.train.step.loss import Objective
from lorat.train.step.optimizer import build_optimizer, set_learning_rate
from lorat.train.step.step import Engine, update
from tests.train.batches import Recorder, made_up_batch
from tests.train.conftest import ALONE, ONE_THREAD, TORCHRUN

STEPS = 3
Case = Callable[[World], dict[str, torch.Tensor]]


def small_objective(dtype: torch.dtype = torch.float32) -> Objective:
    """Two blocks with pairs on a frozen base, held in `dtype`."""
    args = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
    backbone = BackboneConfig(timm="vit_small_patch14_dinov2", pretrained=False, args={**args, "init_values": None})
    variant = VariantConfig(name="small", backbone=backbone, lora=LoraConfig(rank=5), template_size=32, search_size=64)
    torch.manual_seed(0)
    network = build_network(variant).train()
    hold_matrices_in(network, dtype)
    return Objective(network, variant, dtype)


def batch_of(step: int, world: World, empty: int = 4) -> Batch:
    """Return this rank's part of a batch of 8 pairs."""
    return list(made_up_batch(step, empty).split(world.size))[world.rank]


def plan(accumulate: int) -> TrainConfig:
    return TrainConfig(batch_size=8, accumulate=accumulate, clip_norm=1e9)


def gradients(world: World, accumulate: int, empty: int = 4) -> dict[str, torch.Tensor]:
    """Return the gradients of a step, and its loss as the log would have it."""
    objective = small_objective()
    recorder = Recorder(objective.network)
    engine = Engine(objective, recorder, world)
    engine.share(plan(accumulate))
    result = update(engine, plan(accumulate), batch_of(7, world, empty), 0)
    return recorder.seen[0] | {"loss": mean_over_ranks(result.losses.total, world)}


def trained(world: World, dtype: torch.dtype, **sharing: object) -> dict[str, torch.Tensor]:
    """Return the weights after some steps of AdamW with micro-batches, and what a step told."""
    objective = small_objective(dtype)
    optimizer = build_optimizer(objective.network, layer_decay=0.9)
    engine = Engine(objective, optimizer, world)
    recipe = plan(2).model_copy(update={"clip_norm": 1.0, "ema": 0.2, **sharing})
    engine.share(recipe)
    for step in range(STEPS):
        set_learning_rate(engine.optimizer, 1e-3)
        if world.rank == step % 2:
            time.sleep(0.2)  # the other one has to wait
        batch = batch_of(step, world)
        result = update(engine, recipe, batch, step)
    network, state = engine.whole()
    moments = state["optimizer"]["state"].values()
    if recipe.parallel != "ddp" and not world.speaks:  # only what is saved takes memory
        assert all(m[name].is_meta for m in moments for name in ("exp_avg", "exp_avg_sq"))
    told = {f"moment {i}": m["exp_avg"] for i, m in enumerate(moments)} | {"norm": result.norm}
    told |= {f"average {i}": m["average"] for i, m in enumerate(moments) if "average" in m}
    return {**dict(network.named_parameters()), **told} if world.speaks else {}


CASES = {
    "2 x 4": lambda world: gradients(world, 1),
    "2 x 2 x 2": lambda world: gradients(world, 2),
    "no object": lambda world: gradients(world, 1, empty=8),
    "ddp": lambda world: trained(world, torch.float32),
    "fsdp": lambda world: trained(world, torch.float32, parallel="fsdp"),
    "fsdp bfloat16": lambda world: trained(world, torch.bfloat16, parallel="fsdp"),
    "fsdp float16": lambda world: trained(world, torch.float16, parallel="fsdp"),
}


def never(*_: object) -> None:
    raise AssertionError("buffers are constants, and are not sent")


def run_cases(cases: dict[str, Case], folder: Path) -> None:
    """Do this rank's part of each case, and keep what rank 0 finds."""
    torch.set_num_threads(1)
    torch.nn.parallel.DistributedDataParallel._sync_buffers = never
    with join_world("cpu") as world:
        for name, case in cases.items():
            found = case(world)
            if world.speaks:
                values = {n: v.detach() for n, v in found.items() if not v.is_meta}
                torch.save(values, folder / f"{name}.pt")


def results_of(module: str, names: Iterable[str], folder: Path) -> tuple[dict[str, dict[str, torch.Tensor]], str]:
    """Let two processes run a test module's cases; return what they found, and what they said."""
    command, root = [*TORCHRUN, "-m", module, str(folder)], Path(__file__).parents[3]
    result = subprocess.run(command, capture_output=True, env=ONE_THREAD, timeout=300, cwd=root, text=True)
    assert result.returncode == 0, result.stderr
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in names}, result.stderr


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    """What two processes found."""
    found, said = results_of("tests.train.distributed.test_distributed", CASES, tmp_path_factory.mktemp("two"))
    assert "Warning" not in said, said
    return found


@pytest.mark.parametrize(("case", "empty"), [("2 x 4", 4), ("2 x 2 x 2", 4), ("no object", 8)])
def test_gradients_of_two_processes_are_those_of_one(two, case, empty):
    # All objects, if there are any, are in the second process's pairs.
    alone = gradients(ALONE, 1, empty)
    assert two[case].keys() == alone.keys()
    for name, wanted in alone.items():
        torch.testing.assert_close(two[case][name], wanted.detach(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["ddp", "fsdp", "fsdp bfloat16", "fsdp float16"])
def test_weights_and_optimiser_end_as_those_of_one_process(two, case):
    assert_trained_as_one(two[case], getattr(torch, case.partition(" ")[2] or "float32"))


def assert_trained_as_one(every: dict[str, torch.Tensor], dtype: torch.dtype, **plan: object) -> None:
    """What two processes `trained` to is what one process does."""
    alone = trained(ALONE, dtype, **plan)
    assert every.keys() == alone.keys()
    start = dict(small_objective(dtype).network.named_parameters())
    far = 1e-5 if dtype == torch.float32 else 2e-3
    for name, wanted in alone.items():
        found, wanted = every[name], wanted.detach()
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        # A gradient near zero may turn a step of AdamW around, which is as long as any other.
        assert (found - wanted).abs().mean() <= far * max(wanted.abs().max().item(), 1e-2), name
        if name in start and not start[name].requires_grad:
            assert torch.equal(found, start[name])


if __name__ == "__main__":
    run_cases(CASES, Path(sys.argv[1]))
    end_process(0)
