"""Training learns, resumes exactly, runs on two processes, and refuses what is wrong."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from lorat.shards.base.errors import UserError
from lorat.train.checkpoint.checkpoints import checkpoints_of, find_checkpoint
from lorat.train.data import batches
from lorat.train.data.batches import make_loader
from lorat.train.distributed.world import World
from lorat.train.logs import curves as pictures
from lorat.train.network.trained import load_network
from tests.train.conftest import assert_equal, log_of, refused, train, two_processes, wait_for, weights_of


@pytest.fixture
def files(files) -> list[str]:
    return [*files, "--no-eval"]


def test_a_run_leaves_weights_configuration_log_and_pictures(files, tmp_path):
    folder = tmp_path / "[bold]" / "[/x]"  # folders are printed as they are
    result = train(*files, f"--run={folder}")
    assert f"weights: {folder / 'checkpoints/epoch_0003/model.safetensors'}" in result.output
    assert [record["step"] for record in log_of(folder)] == list(range(1, 10))
    for name in ("samples.png", "curves.png"):
        assert (folder / name).stat().st_size > 5000
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["recipe"]["train"]["seed"] == 42
    network, variant = load_network(find_checkpoint(folder) / "model.safetensors")
    assert variant.name == "tiny" and not network.training


def test_the_loss_falls(files, tmp_path):
    longer = ["--set=train.epochs=30", "--set=train.log_steps=9", "--set=train.lr=3e-3"]
    quiet = ["--set=augment.grey_solarise_blur=false", "--set=augment.colour_jitter=0.0"]
    train(*files, *longer, *quiet, f"--run={tmp_path / 'run'}")
    losses = [record["loss"] for record in log_of(tmp_path / "run")]
    assert losses[-1] < 0.8 * losses[1]


def test_micro_batches_and_two_processes_train_the_same_network(files, tmp_path):
    two_processes(*files, f"--run-dir={tmp_path / 'two'}").check_returncode()
    train(*files, f"--run={tmp_path / 'one'}")
    train(*files, "--set=train.accumulate=4", f"--run={tmp_path / 'micro'}")
    wanted = weights_of(tmp_path / "one")
    for other in ("two", "micro"):
        found = weights_of(tmp_path / other)
        assert all(torch.allclose(found[n], wanted[n], atol=2e-4) for n in wanted), other


def test_a_run_killed_and_resumed_ends_in_the_same_weights_bit_for_bit(runner, files, tmp_path):
    """Every time it falls back on the checkpoint of an epoch."""
    longer = [*files, "--set=train.epochs=16", "--set=train.keep_checkpoints=2", "--resume=auto"]
    killed, whole, kills = tmp_path / "killed", tmp_path / "whole", 0
    for after in (1, 3, 6):
        process = runner.start([*longer, f"--run={killed}"])
        wait_for((killed / "checkpoints" / f"epoch_{after:04d}").exists)
        with suppress(ProcessLookupError):  # a quick machine
            os.killpg(process, signal.SIGKILL)
        code, errors = runner.wait()
        assert code in (0, -signal.SIGKILL), errors
        kills += code != 0
    assert kills >= 2
    for folder in (killed, whole):
        runner.run([*longer, f"--run={folder}"])
    assert_equal(weights_of(killed, 16), weights_of(whole, 16))
    assert [record["step"] for record in log_of(killed)] == list(range(1, 49))
    assert len(list((killed / "checkpoints").glob("epoch_*"))) == 2


def test_an_existing_run_is_not_overwritten(files, tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    refused(train(*files, f"--run={tmp_path}", status=2), "--resume auto", "--run")


def test_a_run_goes_on_with_the_same_data_and_order_and_sound_checkpoints_alone(files, tmp_path):
    folder = tmp_path / "run"
    train(*files, f"--run={folder}")
    again = [*files, f"--run={folder}", "--resume=auto"]
    batch, seed = ("train.batch_size=4", "train.batch_size = 8", "has 4"), ("train.seed=1", "train.seed = 42")
    for option, *parts in (batch, seed, ("data.datasets={toy-train: 1}", "toy-val")):
        refused(train(*again, f"--set={option}", status=2), *parts)
    for checkpoint in checkpoints_of(folder):
        (checkpoint / "state.pt").write_bytes(b"no checkpoint")
    refused(train(*again, status=2), "state.pt", "delete")


def test_shards_that_are_missing_or_an_epoch_too_short_for_a_weight_are_refused(files):
    result = train(*files, "--set=data.datasets={lasot-train: 1}", status=2)
    refused(result, "lasot-train", "lorat-prep build")
    result = train(*files, "--set=data.datasets={toy-train: 1, toy-val: 30}", status=2)
    refused(result, "toy-train with a weight of 1 in 31 gets less than one pair")


@pytest.mark.parametrize(("option", "part"), [("--variant=B224", "'B-224'"), ("--recipe=standrad", "'standard'")])
def test_mistyped_names_are_refused(option, part):
    refused(train(option, status=2), f"did you mean {part}")


def test_a_picture_that_cannot_be_written_is_no_reason_to_end(files, tmp_path, monkeypatch):
    def refuse(place: Path) -> None:
        raise UserError(f"{place}: cannot be written")

    monkeypatch.setattr(pictures, "atomic_file", refuse)
    result = train(*files, f"--run={tmp_path / 'run'}")
    assert "weights: " in result.output and "curves: " not in result.output
    for name in ("samples.png", "curves.png"):
        assert f"without a picture: {tmp_path / 'run' / name}" in result.stderr


def test_on_the_processor_a_gpu_is_left_alone(files, source, tmp_path, monkeypatch):
    """Pinned memory would be asked of it: of one that is full, too."""
    asked, real = [], batches.DataLoader
    monkeypatch.setattr(batches, "DataLoader", lambda *a, **k: asked.append(k["pin_memory"]) or real(*a, **k))
    next(make_loader(source))
    few = ["--set=data.validation=toy-val", "--set=data.validation_pairs=8"]
    train(*files, *few, f"--run={tmp_path / 'run'}")
    assert asked == [False] * 5  # the run's and three validations' beside the one above
    assert World(0, 1, torch.device("cuda")).pins
