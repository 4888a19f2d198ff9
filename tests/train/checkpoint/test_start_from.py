"""``lorat-train`` starts from trained weights, and knows on which backbone they were trained."""

from pathlib import Path

import pytest
import torch
import yaml
from click.testing import Result
from safetensors.torch import load_file

from tests.train.conftest import assert_equal, train, weights_of
from tests.train.network.published_files import make, write

# Learns nothing, so the weights at the end are those at the start.
STANDING = {"lr": 0.0, "lr_min": 0.0, "lr_warmup": 0.0, "warmup_epochs": 0.0, "epochs": 2}
PLAN = {**STANDING, "batch_size": 4, "pairs_per_epoch": 8, "checkpoint_epochs": 1, "dtype": "float32"}
RECIPE = {"name": "standing", "data": {"datasets": {"toy-train": 1}, "workers": 0}, "train": PLAN}


@pytest.fixture
def run_train(tmp_path: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    tracker = make("timm-dinov2")
    write(Path("lorat.bin"), tracker.trained())
    write(Path("backbone.safetensors"), tracker.backbone)
    write(Path("other.safetensors"), tracker.backbone | {"norm.bias": torch.ones(32)})
    Path("small.yaml").write_text(tracker.variant.model_dump_json())
    Path("standing.yaml").write_text(yaml.safe_dump(RECIPE))

    def run(*arguments: str, backbone: str = "backbone.safetensors", status: int = 0) -> Result:
        fixed = ["--variant=small.yaml", "--recipe=standing.yaml", "--device=cpu", "--run=run"]
        return train(*fixed, f"--shards={tiny_shards}", f"--backbone={backbone}", *arguments, status=status)

    return run


def test_training_starts_from_a_published_file(run_train):
    run_train("--weights", "lorat.bin")
    assert_equal(weights_of("run", 2), load_file("lorat.bin"))
    assert yaml.safe_load(Path("run/config.yaml").read_text())["weights"] == ["lorat.bin"]


def test_resuming_on_another_backbone_needs_force(run_train):
    run_train("--weights", "lorat.bin")
    result = run_train("--resume", "auto", backbone="other.safetensors", status=2)
    assert result.stderr.splitlines()[-1].count("--force-backbone") == 1
    result = run_train("--resume", "auto", "--force-backbone", backbone="other.safetensors")
    assert "another backbone" in result.stderr


def test_checkpoint_goes_before_the_weights_that_a_run_started_from(run_train):
    run_train("--weights", "lorat.bin")
    Path("lorat.bin").unlink()
    run_train("--weights", "lorat.bin", "--resume", "auto")


def test_a_start_that_fails_leaves_no_run_behind(run_train):
    result = run_train("--weights", "absent.bin", status=2)
    assert "absent.bin: no such weights file" in result.stderr
    run_train(backbone="absent.pth", status=2)
    assert not Path("run").exists()
    run_train("--weights", "lorat.bin")
