"""FSDP2 on two processes trains, saves and resumes to the files of one process, within rounding."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lorat.configs.load import load_recipe
from lorat.configs.schema import LoraConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.trained import load_network
from tests.train.conftest import assert_equal, command_line, first_epoch_of, log_of, weights_of

OPTIONS = [
    "--set=train.accumulate=2",
    "--set=data.validation=toy-val",
    "--set=data.validation_pairs=16",
    "--set=train.ema=0.9",
]


@pytest.fixture(scope="module", params=["lora", "whole"])
def files(request, tmp_path_factory, tiny_variant, tiny_recipe, tiny_shards) -> list[str]:
    """The command line of a small training, with pairs and of the whole network."""
    return tiny_files(request.param, tmp_path_factory.mktemp(request.param), tiny_variant, tiny_recipe, tiny_shards)


def tiny_files(trains: str, folder: Path, variant, recipe, shards) -> list[str]:
    """The command line of a small training of pairs (``lora``) or of the whole network."""
    lora = LoraConfig(rank=5) if trains == "lora" else None
    variant = variant.model_copy(update={"lora": lora, "drop_path": 0.0})
    return command_line(folder, variant, recipe, shards, "--no-eval", *OPTIONS)


@pytest.fixture(scope="module")
def alone(runner, files, tmp_path_factory) -> Path:
    """A run of one process."""
    return on_one(runner, files, tmp_path_factory.mktemp("runs") / "alone")


@pytest.fixture(scope="module")
def sharded(runner, files, tmp_path_factory) -> Path:
    """The same run with two processes that hold parts of the network."""
    return on_two(runner, files, tmp_path_factory.mktemp("runs") / "sharded")


def on_one(runner, files: list[str], folder: Path, *more: str) -> Path:
    runner.run([*files, f"--run={folder}", *more])
    return folder


def on_two(runner, files: list[str], folder: Path, *more: str) -> Path:
    runner.run_two([*files, f"--run={folder}", "--set=train.parallel=fsdp", *more])
    return folder


def assert_same_files(first: Path, second: Path, epoch: int = 3, *, averages: bool = True) -> None:
    one, other = (folder / f"checkpoints/epoch_{epoch:04d}" for folder in (first, second))
    a, b = (weights_of(folder, epoch) for folder in (first, second))
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype == torch.float32
        torch.testing.assert_close(a[name], b[name], rtol=0.0, atol=2e-4)
    live = [load_file(folder / "live.safetensors") if averages else {} for folder in (one, other)]
    for name in live[0]:
        torch.testing.assert_close(live[0][name], live[1][name], rtol=0.0, atol=2e-4)
    said = [safe_open(f / "model.safetensors", "pt").metadata() for f in (one, other)]
    assert said[0] == said[1]
    a, b = (torch.load(f / "state.pt", weights_only=True)["optimizer"] for f in (one, other))
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for number, state in a["state"].items():
        found = b["state"][number]
        assert found["step"] == state["step"]
        for name in ("exp_avg", "exp_avg_sq", *(["average"] if averages else [])):
            torch.testing.assert_close(found[name], state[name], rtol=0.0, atol=1e-3)


def test_a_run_leaves_the_files_and_numbers_of_one_process(alone, sharded):
    for epoch in (1, 2, 3):
        assert_same_files(alone, sharded, epoch)
    network, _ = load_network(sharded / "checkpoints/epoch_0003/model.safetensors")
    assert not network.training
    for one, other in zip(log_of(alone), log_of(sharded), strict=True):
        assert one["step"] == other["step"]
        for name in ("loss", "norm", "val_loss"):
            assert other.get(name, 0.0) == pytest.approx(one.get(name, 0.0), rel=2e-3)
    assert sum("val_loss" in record for record in log_of(sharded)) == 3


def test_its_checkpoint_is_gone_on_from_by_one_process(runner, files, alone, sharded, tmp_path):
    on_one(runner, files, first_epoch_of(sharded, tmp_path / "one"), "--resume=auto")
    assert_same_files(alone, tmp_path / "one")


def test_the_checkpoint_of_one_process_is_gone_on_from(runner, files, alone, tmp_path):
    on_two(runner, files, first_epoch_of(alone, tmp_path / "two"), "--resume=auto")
    assert_same_files(alone, tmp_path / "two")


def test_one_process_has_nothing_to_share(runner, files, alone, tmp_path):
    on_one(runner, files, tmp_path / "run", "--set=train.parallel=fsdp")
    assert_equal(weights_of(tmp_path / "run"), weights_of(alone))


def test_one_graph_of_a_step_is_refused():
    with pytest.raises(UserError, match=r"train\.parallel=fsdp"):
        load_recipe("toy", ("train.parallel=fsdp", "train.compile=true"))
