"""Trackers that remember train from tuples as LoRAT does from pairs: resumed, over processes, with less memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from lorat.configs.load import load_variant
from lorat.configs.schema import LoraConfig, TrainConfig, VariantConfig
from lorat.prep.build.plan import BuildOptions
from lorat.prep.build.run import build
from lorat.train.network.trained import load_network
from lorat.train.network.variants import build_network
from lorat.train.profile.count import Setting, made_up_batch
from lorat.train.step.loss import Objective
from tests.train.conftest import assert_equal, command_line, first_epoch_of, log_of, refused, train, weights_of


@pytest.fixture(scope="module")
def tuples(tiny_clips, tmp_path_factory) -> dict[str, Path]:
    """Shards of both kinds of tuples, of the sets that the tiny recipe draws from."""
    found = {}
    for sampler in ("spmtrack", "loratv2"):
        found[sampler] = tmp_path_factory.mktemp(sampler)
        for split, pairs in (("train", 24), ("val", 12)):
            clips = [replace(clip, split=split) for clip in tiny_clips]
            build(clips, found[sampler], BuildOptions(pairs=pairs, shard_pairs=12, workers=1, sampler=sampler))
    return found


@pytest.fixture(scope="module")
def variants(tiny_variant) -> dict[str, VariantConfig]:
    tiny = tiny_variant.model_dump() | {"lora": LoraConfig(rank=4)}
    later = {"method": "loratv2", "reference_size": 48, "reference_factor": 3.0}
    several = {"method": "spmtrack", "lora": LoraConfig(rank=4, experts=3), "templates": 3, "searches": 2}
    pretrained = {"backbone": tiny_variant.backbone.model_copy(update={"pretrained": True})}
    phases = {"phase 1": {"method": "loratv2"} | pretrained, "phase 2": later | pretrained}
    told = {"spmtrack": several, **phases, "whole": later | {"lora": None}}
    return {name: VariantConfig.model_validate(tiny | more) for name, more in told.items()}


@pytest.fixture(scope="module")
def first_phase(variants, tuples, tiny_recipe, tmp_path_factory) -> list[str]:
    """Options of a second phase: a backbone, and the weights of a first phase on it."""
    folder = tmp_path_factory.mktemp("first")
    told = variants["phase 1"].backbone
    model = timm.create_model(told.timm, pretrained=False, num_classes=0, **told.args)
    save_file(model.state_dict(), folder / "vit.safetensors")
    backbone = f"--backbone={folder / 'vit.safetensors'}"
    plan = [tiny_recipe, tuples["loratv2"], "--no-eval", backbone, f"--run={folder / 'run'}"]
    train(*command_line(folder, variants["phase 1"], *plan))
    return [backbone, f"--weights={folder / 'run/checkpoints/epoch_0003/model.safetensors'}"]


@pytest.fixture(params=["spmtrack", "phase 1", "phase 2", "whole"])
def files(request, variants, tuples, tiny_shards, tiny_recipe, tmp_path) -> list[str]:
    """A small training: of tuples, but of pairs in a first phase, and on the backbone or weights that it takes."""
    variant, phase = variants[request.param], {"phase 1": 1, "phase 2": 2}.get(request.param, 0)
    more = request.getfixturevalue("first_phase")[:phase] if phase else []
    shards = tiny_shards if request.param == "phase 1" else tuples[variant.method]
    return command_line(tmp_path, variant, tiny_recipe, shards, "--no-eval", *more)


@pytest.fixture
def of_spmtrack(variants, tuples, tiny_recipe, tmp_path) -> list[str]:
    return command_line(tmp_path, variants["spmtrack"], tiny_recipe, tuples["spmtrack"], "--no-eval")


def test_a_resumed_run_ends_in_the_same_bits_and_checkpointed_activations_change_none(files, tmp_path):
    whole, cut, lean = (tmp_path / name for name in ("whole", "cut", "lean"))
    train(*files, f"--run={whole}")
    first_epoch_of(whole, cut)
    train(*files, f"--run={cut}", "--resume=auto")
    assert_equal(weights_of(cut), weights_of(whole))
    train(*files, f"--run={lean}", "--set=train.checkpoint_activations=true")
    for name, tensor in weights_of(whole).items():
        torch.testing.assert_close(weights_of(lean)[name], tensor, rtol=1e-4, atol=1e-6)
    assert all(record["norm"] > 0 for record in log_of(whole))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_the_network_of_one(runner, files, tmp_path, parallel):
    runner.run([*files, f"--run={tmp_path / 'one'}"])
    runner.run_two([*files, f"--run={tmp_path / 'two'}", f"--set=train.parallel={parallel}"])
    wanted, found = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=0, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_the_loss_falls_and_each_search_crop_has_its_own(of_spmtrack, tmp_path):
    longer = ["--set=train.epochs=12", "--set=train.log_steps=9", "--set=train.lr=3e-3"]
    quiet = ["--set=augment.grey_solarise_blur=false", "--set=augment.colour_jitter=0.0"]
    check = ["--set=data.validation=toy-val", "--set=data.validation_pairs=8", "--set=train.validate_epochs=6"]
    train(*of_spmtrack, *longer, *quiet, *check, f"--run={tmp_path / 'run'}")
    log = log_of(tmp_path / "run")
    losses = [record for record in log if "loss" in record]
    assert losses[-1]["loss"] < 0.85 * losses[1]["loss"]
    for record in losses:
        for part in ("score", "box"):
            assert record[part] == pytest.approx(record[f"{part}_0"] + record[f"{part}_1"], abs=2e-5)
        assert record["loss"] == pytest.approx(record["score"] + record["box"], abs=3e-5)
    assert (tmp_path / "run/samples.png").stat().st_size > 5000
    assert sum("val_loss" in record for record in log) == 2


def test_boxes_count_ten_times_in_the_loss_of_the_first_epochs(of_spmtrack, tmp_path):
    train(*of_spmtrack, "--set=train.box_warmup_epochs=2", f"--run={tmp_path / 'run'}")
    for record in log_of(tmp_path / "run"):
        weight = 10 if record["step"] <= 6 else 1
        assert record["loss"] == pytest.approx(record["score"] + weight * record["box"], rel=1e-4)


def test_the_second_phase_goes_on_from_the_first_and_moves_nothing_of_it(
    variants, tuples, tiny_recipe, first_phase, tmp_path
):
    options = command_line(tmp_path, variants["phase 2"], tiny_recipe, tuples["loratv2"], "--no-eval", *first_phase)
    train(*options, f"--run={tmp_path / 'run'}")
    backbone, first = (Path(option.partition("=")[2]) for option in first_phase)
    before, after = load_file(first), weights_of(tmp_path / "run")
    kept = {name: tensor for name, tensor in before.items() if not name.startswith("heads.")}
    assert_equal({name: after[name] for name in kept}, kept)
    assert any(".2.q.lora.A" in name for name in after.keys() - before.keys())
    network, _ = load_network(tmp_path / "run/checkpoints/epoch_0003/model.safetensors", backbone=backbone)
    assert network.reference_grid == 3


def test_pairs_are_refused_with_what_to_build(variants, tiny_shards, tiny_recipe, tmp_path):
    options = command_line(tmp_path, variants["spmtrack"], tiny_recipe, tiny_shards, f"--run={tmp_path / 'run'}")
    refused(train(*options, status=2), "toy-train", "--sampler spmtrack", "3 templates and 2 search images")


@pytest.mark.parametrize("name", ["spmtrack-toy", "loratv2-toy"])
def test_toy_variants_name_a_recipe_and_are_trained_whole(name):
    variant = load_variant(name)
    assert variant.recipe == "toy" and variant.lora is None and not variant.backbone.pretrained


@pytest.mark.parametrize("name", ["spmtrack", "phase 1", "phase 2"])
def test_a_training_step_is_one_graph(variants, name):
    """How PyTorch sees it; what its compiler makes of one is tested with LoRAT's."""
    variant = variants[name].model_copy(update={"backbone": variants["whole"].backbone})
    torch.manual_seed(0)
    network = build_network(variant).train()
    objective = Objective(network, variant, torch.float32)
    plan = TrainConfig(batch_size=2, pairs_per_epoch=2)
    batch = made_up_batch(Setting(variant, plan, torch.device("cpu"), torch.float32), network)
    inputs = (*batch.inputs, torch.ones(variant.searches), torch.ones(()))
    sides = []
    for _ in range(2):
        losses = objective(*inputs)
        losses.total.backward()
        slopes = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
        sides.append((losses.total.detach(), slopes))
        network.zero_grad()
        objective.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(*sides, rtol=1e-4, atol=1e-6)
