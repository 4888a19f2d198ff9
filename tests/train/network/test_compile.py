"""Training steps and tracked frames are one graph each, the same from batch to batch."""

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounterWithBackend

from lorat.configs.schema import BackboneConfig, LoraConfig, VariantConfig
from lorat.evaluate.track.memory.feed import TemplateInput
from lorat.evaluate.track.predictor import Predictor
from lorat.shards.base.errors import UserError
from lorat.train.checkpoint.checkpoints import find_checkpoint
from lorat.train.cli import main
from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.deploy import devices
from lorat.train.network.deploy.devices import check_compiler, compile_whole
from lorat.train.network.variants import assemble
from lorat.train.step.loss import Objective

CPU = torch.device("cpu")
NARROW = {"embed_dim": 32, "depth": 2, "num_heads": 2}
PLAIN = BackboneConfig(timm="vit_small_patch14_dinov2", args=NARROW)
KINDS = {
    "plain": (PLAIN, {}),
    "whole": (PLAIN, {"lora": None}),
    "dropout": (PLAIN, {"lora": LoraConfig(rank=4, alpha=8.0, dropout=0.1)}),
    "two targets": (PLAIN, {"lora": LoraConfig(rank=4, alpha=8.0, targets=("q", "v"))}),
    "drop path": (PLAIN, {"drop_path": 0.1}),
    "drop path of samples": (PLAIN, {"drop_path": 0.4}),
    "gated": (BackboneConfig(timm="vit_giant_patch14_dinov2", args={**NARROW, "mlp_ratio": 4}), {}),
    "clip": (
        BackboneConfig(timm="vit_base_patch16_clip_224", args=NARROW, layout="timm"),
        {"template_size": 48, "search_size": 96},
    ),
    "rotary": (BackboneConfig(timm="eva02_base_patch14_224", args=NARROW, layout="timm"), {}),
    "registers": (
        BackboneConfig(timm="vit_small_patch16_dinov3", args=NARROW, layout="timm", prefix_tokens="registers"),
        {"template_size": 48, "search_size": 96},
    ),
}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def built(kind: str):
    backbone, changes = KINDS[kind]
    values = {"template_size": 42, "search_size": 84, "lora": LoraConfig(rank=4, alpha=8.0)}
    variant = VariantConfig(name="tiny", backbone=backbone, **(values | changes))
    torch.manual_seed(3)
    return assemble(variant, None), variant


def step_inputs(variant, network, seed, batch=3):
    draw = torch.Generator().manual_seed(seed)
    template, search = (
        torch.randint(0, 256, (batch, 1, 3, side, side), generator=draw, dtype=torch.uint8)
        for side in (variant.template_size, variant.search_size)
    )
    grids = (network.template_grid, network.search_grid)
    mask, positive = (torch.rand(batch, 1, g, g, generator=draw) > 0.7 for g in grids)
    if seed % 2:
        positive[0] = False  # a pair without the object
    box = torch.tensor([0.25, 0.25, 0.5, 0.75]).repeat(batch, 1, 1)
    return template, mask, search, None, positive, box, positive.sum()[None].float(), torch.ones(())


def gradients(network):
    found = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found


@pytest.mark.parametrize(
    ("kind", "dtype", "recomputed"),
    [*((kind, torch.bfloat16, False) for kind in KINDS), ("plain", torch.float32, True)],
)
def test_a_training_step_is_one_graph_for_all_batches(kind, dtype, recomputed):
    network, variant = built(kind)
    network.checkpoint_activations = recomputed
    objective = Objective(network.train(), variant, dtype)
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(objective, fullgraph=True, dynamic=False, backend=counter)
    for seed in range(3):
        step(*step_inputs(variant, network, seed)).total.backward()
        assert gradients(network).keys() == {n for n, p in network.named_parameters() if p.requires_grad}
    assert counter.frame_count == 1


def test_a_compiled_training_step_gives_the_losses_and_gradients_of_an_uncompiled_one():
    network, variant = built("plain")
    objective = Objective(network.train(), variant, torch.float32)
    sides = []
    for compiled in (False, True):
        if compiled:
            objective.compile_whole(CPU)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for seed in range(3):
                losses = objective(*step_inputs(variant, network, seed))
                losses.total.backward()
                sides.append((torch.cat([loss.reshape(1) for loss in losses]).detach(), gradients(network)))
    for (ours, slopes), (theirs, others) in zip(sides[:3], sides[3:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert slopes.keys() == others.keys()
        for name in slopes:
            torch.testing.assert_close(slopes[name], others[name], rtol=1e-3, atol=1e-6)


def targets(variant, network, count):
    rng = np.random.default_rng(count)
    grid, sides = network.template_grid, (variant.template_size, variant.search_size)
    template, search = (rng.uniform(0, 255, (count, side, side, 3)).astype(np.float32) for side in sides)
    return [TemplateInput(crop, np.eye(grid, dtype=bool)) for crop in template], search


@pytest.mark.parametrize("kind", ["plain", "gated", "clip", "rotary"])
def test_taking_a_template_and_tracking_a_frame_are_one_graph_each(kind, monkeypatch):
    counter = CompileCounterWithBackend("eager")
    real = torch.compile
    monkeypatch.setattr(devices.torch, "compile", lambda f, **options: real(f, backend=counter, **options))
    network, variant = built(kind)
    merge_adapters(network)
    predictor = Predictor(network.requires_grad_(False), variant, CPU, torch.float32)
    plain = [targets(variant, network, count) for count in (4, 3, 1, 2, 4)]
    expected = [predictor.predict(predictor.embed(t), crops).rows for t, crops in plain]
    predictor.compile(4)
    for (templates, crops), rows in zip(plain, expected, strict=True):
        found = predictor.predict(predictor.embed(templates), crops).rows
        np.testing.assert_allclose(found, rows, rtol=0, atol=1e-3)
    assert counter.frame_count == 1  # smaller batches are padded
    embed = compile_whole(network.embed_template, CPU)
    with torch.inference_mode():
        for seed in range(2):
            torch.manual_seed(seed)
            side, grid = variant.template_size, network.template_grid
            embed(torch.randn(2, 3, side, side), torch.rand(2, grid, grid) > 0.5)
    assert counter.frame_count == 2


def test_a_compiled_predictor_finds_the_same_boxes():
    network, variant = built("plain")
    merge_adapters(network)
    predictor = Predictor(network.requires_grad_(False), variant, CPU, torch.float32)
    batches = [targets(variant, network, count) for count in (2, 1)]
    expected = [predictor.predict(predictor.embed(t), crops).rows for t, crops in batches]
    with torch._dynamo.config.patch(error_on_recompile=True):
        predictor.compile(2)
        for (templates, crops), rows in zip(batches, expected, strict=True):
            found = predictor.predict(predictor.embed(templates), crops).rows
            np.testing.assert_allclose(found, rows, rtol=0, atol=1e-3)


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(UserError, match=r"no /nowhere/g\+\+ here"):
        check_compiler(CPU)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="triton"):
        check_compiler(torch.device("cuda"))


def test_a_compiled_run_trains_the_same_network(tiny_variant, tiny_recipe, tiny_shards, tmp_path, monkeypatch):
    counter = CompileCounterWithBackend("aot_eager")
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, backend=counter, **options))
    files = {"variant": tiny_variant, "recipe": tiny_recipe}
    for name, config in files.items():
        text = yaml.safe_dump(config.model_dump(mode="json"))
        (tmp_path / f"{name}.yaml").write_text(text)
    command = [f"--{name}={tmp_path / name}.yaml" for name in files]
    command += [f"--shards={tiny_shards}", "--device=cpu", "--set=train.accumulate=2"]
    runs = []
    for compiled in ("false", "true"):
        run = tmp_path / compiled
        done = CliRunner().invoke(main, [*command, f"--run={run}", f"--set=train.compile={compiled}"])
        assert done.exit_code == 0, done.output
        runs.append(load_file(find_checkpoint(run) / "model.safetensors"))
    assert counter.frame_count == 1
    plain, compiled = runs
    assert plain.keys() == compiled.keys()
    for name in plain:
        torch.testing.assert_close(compiled[name], plain[name], rtol=0, atol=2e-4)
