"""The whole of a pretrained network is trained by one recipe: all of it is saved, gone on from, tracked with and
exported, without the backbone's file.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors import safe_open

from lorat.evaluate.cli import main as evaluate
from lorat.train.network.trained import load_network
from lorat.train.network.variants import build_network
from tests.train.conftest import assert_equal, train, weights_of, write_got10k
from tests.train.network.published_files import make, write
from tests.train.states import assert_same_state

PLAN = {"batch_size": 4, "pairs_per_epoch": 8, "epochs": 2, "checkpoint_epochs": 1, "evaluate_epochs": 1}
PLAN |= {"dtype": "float32", "warmup_epochs": 0}
RECIPE = {"data": {"datasets": {"toy-train": 1}, "workers": 0}, "train": PLAN}


@pytest.fixture(scope="module")
def here(tmp_path_factory, tiny_shards) -> tuple[Path, list[str]]:
    """A folder with a run, and its command line."""
    folder = tmp_path_factory.mktemp("full")
    tracker = make("timm-dinov2")
    write(folder / "backbone.safetensors", tracker.backbone)
    (folder / "small.yaml").write_text(tracker.variant.model_dump_json())
    (folder / "mine.yaml").write_text(yaml.safe_dump(RECIPE))
    write_got10k(folder / "raw/GOT-10k/val", {"GOT-10k_Val_000001": 4})
    files = [f"--variant={folder}/small.yaml", f"--recipe={folder}/mine.yaml", "--recipe=full", "--device=cpu"]
    files += [f"--shards={tiny_shards}", f"--backbone={folder}/backbone.safetensors", f"--raw={folder}/raw"]
    train(*files, f"--run={folder}/run")
    return folder, files


def test_every_weight_is_trained_and_saved_and_the_record_says_how(here):
    folder, _ = here
    config = yaml.safe_load((folder / "run/config.yaml").read_text())
    assert config["recipe"]["name"] == "mine+full" and config["recipe"]["train"]["layer_decay"] == 0.75
    assert config["variant"].get("lora") is None and config["variant"]["drop_path"] == 0.1
    network, variant = load_network(folder / "run/checkpoints/epoch_0002/model.safetensors")
    assert variant.lora is None
    start = build_network(variant, backbone=folder / "backbone.safetensors")
    assert all(p.requires_grad for p in start.parameters())
    pretrained = [name for name in dict(start.named_parameters()) if not name.startswith(("head.", "token_type"))]
    now, before = network.state_dict(), start.state_dict()
    moved = [name for name in pretrained if not torch.equal(now[name], before[name])]
    assert {name.split(".")[0] for name in moved} >= {"blocks", "patch_embed", "pos_embed", "norm"}
    assert len(moved) == len(pretrained)
    optimizer = torch.load(folder / "run/checkpoints/epoch_0002/state.pt", weights_only=True)["optimizer"]
    assert len(optimizer["state"]) == len(list(start.parameters()))
    assert len({group["rate_share"] for group in optimizer["param_groups"]}) > 2  # layer decay


def test_it_goes_on_to_the_same_bits(here, tmp_path):
    folder, files = here
    train(*files, "--no-eval", f"--run={tmp_path / 'whole'}")
    assert_equal(weights_of(tmp_path / "whole", 2), weights_of(folder / "run", 2))
    (tmp_path / "whole/checkpoints/epoch_0002").rename(tmp_path / "wanted")
    train(*files, "--recipe=resumable", "--no-eval", f"--run={tmp_path / 'whole'}")  # --resume auto by its name
    assert_same_state(tmp_path / "whole/checkpoints/epoch_0002", tmp_path / "wanted")


def test_it_is_tracked_with_and_exported_without_the_backbones_file(here, tmp_path):
    folder, _ = here
    scores = json.loads((folder / "run/eval/epoch_0002/metrics.json").read_text())["datasets"]
    assert set(scores) == {"got10k-val"}
    weights = folder / "run/checkpoints/epoch_0002/model.safetensors"
    out = tmp_path / "merged.safetensors"
    result = CliRunner().invoke(evaluate, ["export-weights", "--merged", f"--weights={weights}", f"--out={out}"])
    assert result.exit_code == 0, result.output
    with safe_open(out, "pt") as merged, safe_open(weights, "pt") as whole:
        assert set(merged.keys()) == set(whole.keys())
        assert not any("lora" in name for name in whole.keys())  # noqa: SIM118 - no mapping
        assert all(torch.equal(merged.get_tensor(n), whole.get_tensor(n)) for n in whole.keys())  # noqa: SIM118


def test_the_recipe_evaluation_tracks_as_lorat_eval_does(here, tmp_path):
    folder, _ = here
    weights = Path(tmp_path, "mine.safetensors")
    weights.write_bytes((folder / "run/checkpoints/epoch_0002/model.safetensors").read_bytes())
    options = [f"--raw={folder}/raw", "--device=cpu", f"--weights={weights}"]
    printed = train("--recipe=evaluation", *options, "--set=train.evaluate=[got10k-val]").output
    scores = json.loads((tmp_path / "eval/mine/metrics.json").read_text())["datasets"]
    wanted = json.loads((folder / "run/eval/epoch_0002/metrics.json").read_text())["datasets"]
    assert "never moving" in printed and set(scores) == {"got10k-val"}
    assert scores["got10k-val"]["tracker"]["auc"] == wanted["got10k-val"]["tracker"]["auc"]


def test_test_sets_are_chosen_by_name_and_one_that_is_missing_is_refused(here, tmp_path):
    _, files = here
    train(*files, "--recipe=no_eval", "--set=train.epochs=1", f"--run={tmp_path / 'none'}")
    assert not (tmp_path / "none/eval").exists()
    result = train(*files, "--recipe=eval_lasotext", f"--run={tmp_path / 'lost'}", status=2)
    assert "lasot_ext: no folder" in result.stderr and not (tmp_path / "lost").exists()
