"""Training learns, resumes exactly, runs on two processes, and refuses what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from lorat.shards.base.errors import UserError
from lorat.train.checkpoint.checkpoints import checkpoints_of, find_checkpoint
from lorat.train.cli import main
from lorat.train.data import batches
from lorat.train.data.batches import make_loader
from lorat.train.distributed.world import World
from lorat.train.logs import curves as pictures
from lorat.train.network.trained import load_network


@pytest.fixture
def files(tmp_path, tiny_variant, tiny_recipe, tiny_shards):
    """The command line of a small training."""
    for name, config in (("variant", tiny_variant), ("recipe", tiny_recipe)):
        text = yaml.safe_dump(config.model_dump(mode="json"))
        (tmp_path / f"{name}.yaml").write_text(text)
    return [
        f"--variant={tmp_path / 'variant.yaml'}",
        f"--recipe={tmp_path / 'recipe.yaml'}",
        f"--shards={tiny_shards}",
        "--device=cpu",
        "--no-eval",
    ]


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    return load_file(find_checkpoint(run_folder) / "model.safetensors")


def assert_same_weights(first: Path, second: Path) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def refused(result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for part in parts:
        assert part in lines[0]


def test_a_run_leaves_weights_configuration_log_and_pictures(files, tmp_path):
    folder = tmp_path / "run"
    result = run(*files, f"--run={folder}")
    assert result.exit_code == 0, result.output
    assert str(folder / "checkpoints/epoch_0003/model.safetensors") in result.output
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == list(range(1, 10))
    for name in ("samples.png", "curves.png"):
        assert (folder / name).stat().st_size > 5000
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["recipe"]["train"]["seed"] == 42
    network, variant = load_network(find_checkpoint(folder) / "model.safetensors")
    assert variant.name == "tiny" and not network.training


def test_the_loss_falls(files, tmp_path):
    folder = tmp_path / "run"
    longer = ["--set=train.epochs=30", "--set=train.log_steps=9", "--set=train.lr=3e-3"]
    quiet = ["--set=augment.grey_solarise_blur=false", "--set=augment.colour_jitter=0.0"]
    assert run(*files, *longer, *quiet, f"--run={folder}").exit_code == 0
    losses = [json.loads(x)["loss"] for x in (folder / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[1]


def test_micro_batches_train_the_same_network(files, tmp_path):
    assert run(*files, f"--run={tmp_path / 'a'}").exit_code == 0
    assert run(*files, "--set=train.accumulate=4", f"--run={tmp_path / 'b'}").exit_code == 0
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.allclose(a[n], b[n], atol=2e-4) for n in a)


def test_a_run_killed_and_resumed_ends_in_the_same_weights_bit_for_bit(runner, files, tmp_path):
    """Every time it falls back on the checkpoint of an epoch."""
    longer = [*files, "--set=train.epochs=16", "--set=train.keep_checkpoints=2", "--resume=auto"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    kills = 0
    for after in (1, 3, 6):
        process = runner.start([*longer, f"--run={killed}"])
        waited = time.monotonic()
        while not (killed / "checkpoints" / f"epoch_{after:04d}").exists():
            assert time.monotonic() - waited < 120
            time.sleep(0.002)
        with suppress(ProcessLookupError):  # a quick machine
            os.killpg(process, signal.SIGKILL)
        code, errors = runner.wait()
        assert code in (0, -signal.SIGKILL), errors
        kills += code != 0
    assert kills >= 2
    for folder in (killed, whole):
        code, errors = runner.run([*longer, f"--run={folder}"])
        assert code == 0, errors
    assert_same_weights(killed, whole)
    steps = [json.loads(x)["step"] for x in (killed / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 49))
    assert len(list((killed / "checkpoints").glob("epoch_*"))) == 2


def test_two_processes_train_the_same_network_as_one(files, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, "-m", "lorat.train.cli", *files, f"--run-dir={tmp_path / 'two'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=300)
    assert run(*files, f"--run={tmp_path / 'one'}").exit_code == 0
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(a[n], b[n], atol=2e-4) for n in a)


def test_an_existing_run_is_not_overwritten(files, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "log.jsonl").write_text("")
    refused(run(*files, f"--run={folder}"), "--resume auto", "--run")


def test_resuming_with_other_data_or_order_is_refused_by_name(files, tmp_path):
    folder = tmp_path / "run"
    assert run(*files, f"--run={folder}").exit_code == 0
    again = [*files, f"--run={folder}", "--resume=auto"]
    refused(run(*again, "--set=train.batch_size=4"), "train.batch_size = 8", "has 4")
    refused(run(*again, "--set=train.seed=1"), "train.seed = 42")
    refused(run(*again, "--set=data.datasets={toy-train: 1}"), "toy-val")


def test_where_all_checkpoints_are_damaged_nothing_starts_anew(files, tmp_path):
    folder = tmp_path / "run"
    assert run(*files, f"--run={folder}").exit_code == 0
    for checkpoint in checkpoints_of(folder):
        (checkpoint / "state.pt").write_bytes(b"no checkpoint")
    refused(run(*files, f"--run={folder}", "--resume=auto"), "state.pt", "delete")


def test_missing_shards_are_named_with_the_command_that_builds_them(files):
    text = "--set=data.datasets={lasot-train: 1}"
    refused(run(*files, text), "lasot-train", "lorat-prep build")


def test_an_epoch_too_short_for_a_weight_is_refused(files):
    result = run(*files, "--set=data.datasets={toy-train: 1, toy-val: 30}")
    refused(result, "toy-train with a weight of 1 in 31 gets less than one pair")


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(files, tmp_path):
    wild = ["--set=train.lr=1e30", "--set=train.warmup_epochs=0"]
    result = run(*files, *wild, f"--run={tmp_path / 'run'}")
    assert result.exit_code == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: the loss is") and "step" in last


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["--variant=B224"], "did you mean 'B-224'"), (["--recipe=standrad"], "'standard'")],
)
def test_mistyped_names_are_refused(arguments, part):
    refused(run(*arguments), part)


def test_folders_are_printed_as_they_are(files, tmp_path):
    folder = tmp_path / "[bold]" / "[/x]"
    result = run(*files, "--set=train.epochs=1", f"--run={folder}")
    assert result.exit_code == 0, result.output
    assert f"weights: {folder / 'checkpoints/epoch_0001/model.safetensors'}" in result.output


def test_a_picture_that_cannot_be_written_is_no_reason_to_end(files, tmp_path, monkeypatch):
    def refuse(place: Path) -> None:
        raise UserError(f"{place}: cannot be written")

    monkeypatch.setattr(pictures, "atomic_file", refuse)
    result = run(*files, f"--run={tmp_path / 'run'}")
    assert result.exit_code == 0, result.output
    assert "weights: " in result.output and "curves: " not in result.output
    for name in ("samples.png", "curves.png"):
        assert f"without a picture: {tmp_path / 'run' / name}" in result.stderr


def test_on_the_processor_a_gpu_is_left_alone(files, source, tmp_path, monkeypatch):
    """Pinned memory would be asked of it: of one that is full, too."""
    asked, real = [], batches.DataLoader
    monkeypatch.setattr(
        batches, "DataLoader", lambda *a, **k: asked.append(k["pin_memory"]) or real(*a, **k)
    )
    next(make_loader(source))
    result = run(*files, f"--run={tmp_path / 'run'}", "--set=data.validation=toy-val")
    assert result.exit_code == 0, result.output
    assert asked == [False] * 5  # the run's and three validations' beside the one above
    assert World(0, 1, torch.device("cuda")).pins
