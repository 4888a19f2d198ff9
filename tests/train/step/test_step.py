"""A step is that of the whole batch, in any number type, and leaves out gradients that overflow."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from lorat.configs.schema import LoraConfig, TrainConfig
from lorat.train.cli import main
from lorat.train.data.batches import Batch
from lorat.train.distributed.world import World
from lorat.train.network.variants import build_network
from lorat.train.step.engine import Engine, build_engine, make_scaler
from lorat.train.step.objective import Objective
from lorat.train.step.optimizer import build_optimizer, set_learning_rate
from lorat.train.step.step import shared_divisor, update

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
PLAIN = TrainConfig(batch_size=8, clip_norm=1e9)


class Recorder(torch.optim.SGD):
    """Keeps the gradients that it is given and moves nothing."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.named = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        super().__init__([p for _, p in self.named], lr=0.0)
        self.seen: list[dict[str, torch.Tensor]] = []

    def step(self) -> None:
        self.seen.append({name: p.grad.clone() for name, p in self.named})


def made_up_batch(pairs: int = 8, seed: int = 1) -> Batch:
    """Crops of the tiny variant; the first half of the pairs has no object."""
    rng = torch.Generator().manual_seed(seed)
    positive = torch.rand(pairs, 4, 4, generator=rng) > 0.6
    positive[: pairs // 2] = False
    corner = torch.rand(pairs, 2, generator=rng) / 2
    return Batch(
        template=torch.randint(0, 256, (pairs, 3, 32, 32), generator=rng, dtype=torch.uint8),
        search=torch.randint(0, 256, (pairs, 3, 64, 64), generator=rng, dtype=torch.uint8),
        template_mask=torch.rand(pairs, 2, 2, generator=rng) > 0.5,
        positive=positive,
        box=torch.cat([corner, corner + 0.4], dim=1),
        position=torch.arange(pairs),
        missing=torch.zeros(pairs),
        keys=tuple(map(str, range(pairs))),
        damaged=((),) * pairs,
        seconds=np.zeros((pairs, 2), dtype=np.float32),
    )


@pytest.fixture
def objective(tiny_variant) -> Objective:
    torch.manual_seed(0)
    variant = tiny_variant.model_copy(update={"lora": LoraConfig(rank=4)})
    return Objective(build_network(variant).train(), variant, torch.float32)


def engine_of(objective: Objective, optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> Engine:
    scaler = make_scaler(dtype, CPU)
    return build_engine(objective, optimizer, scaler, ALONE, sharded=False)


def gradients(objective: Objective, recipe: TrainConfig) -> tuple[dict[str, torch.Tensor], float]:
    recorder = Recorder(objective.network)
    result = update(engine_of(objective, recorder, torch.float32), recipe, made_up_batch(), 0)
    return recorder.seen[0], result.losses.total.item()


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_gradients_of_micro_batches_are_those_of_the_whole_batch(objective, parts):
    whole, loss = gradients(objective, PLAIN)
    cut, same = gradients(objective, PLAIN.model_copy(update={"accumulate": parts}))
    assert same == pytest.approx(loss, rel=1e-6)
    for name, wanted in whole.items():
        # Half of the pairs have no positive cell, so parts that were divided by their own count
        # of positives would be far off.
        torch.testing.assert_close(cut[name], wanted, rtol=2e-5, atol=1e-6)


def test_a_batch_without_any_object_counts_as_one_positive_cell():
    positive = torch.zeros(3, 4, 4, dtype=torch.bool)
    assert shared_divisor(positive, ALONE) == 1.0
    positive[0, 1:3, 2] = True
    assert shared_divisor(positive, ALONE) == 2.0


def test_float16_trains_as_float32_does_and_scales_its_loss(objective):
    recipe = PLAIN.model_copy(update={"clip_norm": 1.0})
    moved = {}
    for dtype in (torch.float32, torch.float16):
        copied = copy.deepcopy(objective)
        copied.dtype = dtype
        optimizer = build_optimizer(copied.network)
        engine = engine_of(copied, optimizer, dtype)
        set_learning_rate(optimizer, 1e-3)
        losses = [update(engine, recipe, made_up_batch(), s).losses.total.item() for s in range(5)]
        assert losses == sorted(losses, reverse=True)
        moved[dtype] = losses
    assert moved[torch.float16] == pytest.approx(moved[torch.float32], rel=0.02)
    assert 2.0**10 <= engine.scaler.get_scale() <= 2.0**16  # its first guess may be too large


def test_a_step_whose_gradients_overflow_is_left_out_and_counted(objective):
    objective.dtype = torch.float16
    optimizer = build_optimizer(objective.network)
    engine = engine_of(objective, optimizer, torch.float16)
    engine.scaler.load_state_dict({**engine.scaler.state_dict(), "scale": 2.0**40})
    set_learning_rate(optimizer, 1e-3)
    before = copy.deepcopy(objective.network.state_dict())
    result = update(engine, PLAIN, made_up_batch(), 0)
    assert result.skipped == 1.0
    assert result.norm == 0.0
    assert result.losses.total.isfinite()
    after = objective.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert engine.scaler.get_scale() == 2.0**39
    counts = [state["step"].item() for state in optimizer.state.values()]
    assert not any(counts)  # the corrections of AdamW's means do not count it either
    skipped = [update(engine, PLAIN, made_up_batch(), s).skipped.item() for s in range(1, 40)]
    assert skipped[-1] == 0.0
    assert skipped == sorted(skipped, reverse=True)  # it goes on at a scale that fits
    assert any(not torch.equal(before[n], t) for n, t in objective.network.state_dict().items())


def test_a_network_trained_whole_gets_gradients_everywhere(tiny_variant):
    torch.manual_seed(0)
    objective = Objective(build_network(tiny_variant).train(), tiny_variant, torch.float32)
    found, _ = gradients(objective, PLAIN)
    names = {name for name, _ in objective.network.named_parameters()}
    assert found.keys() == names >= {"pos_embed", "patch_embed.proj.weight", "norm.weight"}
    assert all(gradient.abs().sum() > 0 for gradient in found.values())


def test_a_float16_run_goes_on_with_its_scale(tmp_path, tiny_variant, tiny_recipe, tiny_shards):
    for name, config in (("variant", tiny_variant), ("recipe", tiny_recipe)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    files = [f"--{name}={tmp_path / name}.yaml" for name in ("variant", "recipe")]
    files += [f"--shards={tiny_shards}", "--device=cpu", "--no-eval", "--set=train.dtype=float16"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    result = CliRunner().invoke(main, [*files, f"--run={whole}"])
    assert result.exit_code == 0, result.output
    shutil.copytree(whole, cut)
    for epoch in (2, 3):
        shutil.rmtree(cut / f"checkpoints/epoch_{epoch:04d}")
    result = CliRunner().invoke(main, [*files, f"--run={cut}", "--resume=auto"])
    assert result.exit_code == 0, result.output
    last = "checkpoints/epoch_0003"
    a, b = (load_file(folder / last / "model.safetensors") for folder in (whole, cut))
    assert all(torch.equal(a[name], b[name]) for name in a)
    a, b = (torch.load(folder / last / "state.pt")["scaler"] for folder in (whole, cut))
    assert a == b
    logged = [json.loads(line) for line in (cut / "log.jsonl").read_text().splitlines()]
    skipped = sum(record.get("skipped", 0) for record in logged)
    assert a["scale"] == 2.0 ** (16 - skipped)


def test_the_scaler_is_silent_in_other_number_types():
    for dtype in (torch.float32, torch.bfloat16):
        scaler = make_scaler(dtype, CPU)
        assert not scaler.is_enabled()
        assert scaler.state_dict() == {}
