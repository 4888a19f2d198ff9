"""The first blocks stay as they were (`train.frozen_blocks`): no gradient passes them; files are as of any training."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lorat.configs.schema import TrainConfig, VariantConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.trained import load_network
from lorat.train.network.variants import assemble, freeze_blocks
from lorat.train.profile.count import Setting, count_parameters, count_step, made_up_batch
from tests.train.conftest import assert_equal, train, two_processes, weights_of
from tests.train.network.family import loratv2, spmtrack
from tests.train.network.published_files import make, write
from tests.train.states import assert_same_state

CPU = torch.device("cpu")
PLAN = {"batch_size": 4, "pairs_per_epoch": 8, "epochs": 2, "checkpoint_epochs": 1, "lr": 1e-2}
PLAN |= {"dtype": "float32", "warmup_epochs": 0, "frozen_blocks": 2, "ema": 0.5}
RECIPE = {"data": {"datasets": {"toy-train": 1}, "workers": 0}, "train": PLAN}
VARIANTS = {"lorat": make("timm-dinov2").variant, "spmtrack": spmtrack(), "loratv2": loratv2(1)}
VARIANTS |= {"whole": VARIANTS["lorat"].model_copy(update={"lora": None})}


def setting_of(variant: VariantConfig, frozen_blocks: int) -> Setting:
    return Setting(variant, TrainConfig(batch_size=2, frozen_blocks=frozen_blocks), CPU, torch.float32)


@pytest.mark.parametrize("kind", VARIANTS)
def test_gradients_reach_the_other_blocks_and_the_head_alone(kind):
    torch.manual_seed(0)
    network = assemble(VARIANTS[kind], None).train()
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    freeze_blocks(network, 2)
    batch = made_up_batch(setting_of(VARIANTS[kind], 2), network)
    found = network.predict(batch.template.float(), batch.template_mask, batch.search.float())
    sum(part.sum() for prediction in found for part in prediction).backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None}
    assert reached == {name for name in trained if name.startswith(("blocks.2.", "norm.", "head."))}


@pytest.mark.parametrize("kind", ["lorat", "loratv2"])
def test_frozen_blocks_compute_what_the_backbones_do(kind):
    torch.manual_seed(0)
    network = assemble(VARIANTS[kind], None).eval()
    plain = {name: p.clone() for name, p in network.named_parameters() if name.endswith(".weight")}
    freeze_blocks(network, 2)
    merge_adapters(network)
    merged = dict(network.named_parameters())
    frozen = [name for name in plain if name.startswith(("blocks.0.", "blocks.1."))]
    streams = {name: [other for other in merged if _without_stream(other) == name] for name in frozen}
    assert len(frozen) > 8 and all(streams.values())
    assert all(torch.equal(merged[found], plain[name]) for name, names in streams.items() for found in names)


def _without_stream(name: str) -> str:
    return ".".join(part for place, part in enumerate(name.split(".")) if place == 1 or not part.isdigit())


def command(folder: Path, shards: Path, family: str, **plan: object) -> list[str]:
    """Options of a training on a small pretrained network of LoRA."""
    tracker = make(family)
    write(folder / "backbone.safetensors", tracker.backbone)
    (folder / "small.yaml").write_text(tracker.variant.model_dump_json())
    (folder / "mine.yaml").write_text(yaml.safe_dump(RECIPE | {"train": PLAN | plan}))
    files = [f"--{name}={folder / file}.yaml" for name, file in (("variant", "small"), ("recipe", "mine"))]
    return [*files, f"--shards={shards}", f"--backbone={folder / 'backbone.safetensors'}", "--device=cpu", "--no-eval"]


@pytest.mark.parametrize("family", ["timm-dinov2", "clip"])
def test_a_run_resumes_to_the_same_bits_and_its_files_load(family, tiny_shards, tmp_path):
    files, run = command(tmp_path, tiny_shards, family), tmp_path / "run"
    train(*files, f"--run={run}")
    first, last = weights_of(run, 1), weights_of(run, 2)
    moved = {name for name in last if not torch.equal(first[name], last[name])}
    assert moved and all(name.startswith(("blocks.2.", "head.")) for name in moved)
    (run / "checkpoints/epoch_0002").rename(tmp_path / "wanted")
    train(*files, f"--run={run}", "--resume=auto")
    assert_same_state(run / "checkpoints/epoch_0002", tmp_path / "wanted")
    assert_equal(load_file(tmp_path / "wanted/model.safetensors"), last)
    load_network(run / "checkpoints/epoch_0002/model.safetensors", backbone=tmp_path / "backbone.safetensors")


def test_two_ranks_that_share_weights_train_the_same(tiny_shards, tmp_path):
    files = command(tmp_path, tiny_shards, "clip")
    train(*files, f"--run={tmp_path / 'one'}")
    done = two_processes(*files, f"--run-dir={tmp_path / 'two'}", "--set=train.parallel=fsdp")
    assert done.returncode == 0, done.stderr
    one, two = weights_of(tmp_path / "one", 2), weights_of(tmp_path / "two", 2)
    assert one.keys() == two.keys()
    assert all(torch.allclose(two[name], one[name], atol=1e-4) for name in one)


def test_pairs_that_weights_bring_stay(tiny_shards, tmp_path):
    files = command(tmp_path, tiny_shards, "timm-dinov2", frozen_blocks=0)
    train(*files, f"--run={tmp_path / 'first'}")
    model = tmp_path / "first/checkpoints/epoch_0002/model.safetensors"
    train(*files, f"--run={tmp_path / 'on'}", f"--weights={model}", "--set=train.frozen_blocks=2")
    before, after = load_file(model), weights_of(tmp_path / "on", 2)
    kept = [name for name in before if not name.startswith(("blocks.2.", "head."))]
    assert any("lora.B" in name for name in kept)
    assert_equal({name: after[name] for name in kept}, {name: before[name] for name in kept})


def test_the_profile_counts_what_is_trained_and_spared():
    variant = VARIANTS["lorat"]
    whole, half = (count_step(setting_of(variant, count)) for count in (0, 2))
    assert half.operations < 0.7 * whole.operations and half.activations < whole.activations
    every, trained = count_parameters(variant, 2)["LoRA"]
    assert trained * 3 == every and count_parameters(variant, 2)["token types"][1] == 0


def test_a_block_has_to_be_left():
    with pytest.raises(UserError, match="frozen_blocks=3: the network has 3 blocks"):
        freeze_blocks(assemble(VARIANTS["lorat"], None), 3)
