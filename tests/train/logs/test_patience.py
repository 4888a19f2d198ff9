"""A run ends early when a metric of its current epoch gets no better, with all that belongs to a last epoch."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lorat.configs.schema import EarlyStopping
from lorat.train.logs.patience import Patience
from tests.train.conftest import assert_equal, command_line, log_of, train, weights_of, with_train, write_got10k

# Learns nothing, so that the first epoch is the best.
STANDING = {"lr": 0.0, "lr_min": 0.0, "lr_warmup": 0.0, "epochs": 6, "checkpoint_epochs": 6, "keep_checkpoints": 2}
VALIDATES = ["--set=data.validation=toy-val", "--set=data.validation_pairs=8"]
BY_LOSS = [*VALIDATES, "--set=train.early_stopping={metric: val_loss, patience: 2}"]
BY_SCORE = ["--set=train.early_stopping={metric: got10k-val/auc, patience: 1}", "--set=train.evaluate_epochs=2"]


def patience(metric: str, of: int, *values: float | None) -> Patience:
    """What is known after epochs of ten steps with these values; None for an epoch without."""
    known = [{"step": 10 * n, metric: v} for n, v in enumerate(values, start=1) if v is not None]
    return Patience(EarlyStopping(metric=metric, patience=of), 10, [{"step": 3, "loss": 1.0}, *known])


@pytest.mark.parametrize(
    ("metric", "values", "improved", "over"),
    [
        ("val_loss", (3.0, 2.0, 2.5), False, False),
        ("val_loss", (3.0, 2.0, 2.5, 2.0), False, True),  # of equal values the first is the best
        ("val_loss", (3.0, 2.0, 2.5, 1.9), True, False),
        ("got10k-val/ao", (0.5, 0.4, 0.45), False, True),
        ("got10k-val/ao", (0.5, 0.4, 0.55), True, False),
        ("got10k-val/ao", (0.5, None, None), False, False),  # nothing was found in this epoch
        ("got10k-val/ao", (0.5, None, None, 0.3), False, True),
    ],
)
def test_it_is_over_when_the_best_is_so_old_in_an_epoch_that_has_a_value(metric, values, improved, over):
    known = patience(metric, 2, *values)
    done = 10 * len(values)
    assert (known.improved(done), known.over(done)) == (improved, over)
    assert not known.improved(0) and not known.over(0)


def test_what_comes_later_counts_as_what_was_known():
    later = patience("val_loss", 1)
    for step, value in ((10, 2.0), (20, 3.0)):
        later.see(step, {"val_loss": value})
    assert later.over(20) and str(later) == "val_loss has not been better than 2 since epoch 1"


@pytest.fixture(scope="module")
def here(runner, tmp_path_factory, tiny_variant, tiny_recipe, tiny_shards) -> tuple[Path, list[str]]:
    """A folder with a run that ended early by its loss, and its command line."""
    folder = tmp_path_factory.mktemp("early")
    write_got10k(folder / "raw/GOT-10k/val", {"GOT-10k_Val_000001": 4})
    files = command_line(folder, tiny_variant, with_train(tiny_recipe, **STANDING), tiny_shards, f"--raw={folder}/raw")
    runner.run([*files, *BY_LOSS, f"--run={folder}/run"])
    return folder, files


def ended(run: Path, epoch: int) -> None:
    """It ended with all that belongs to its last epoch, and the first is the best."""
    assert max(entry["step"] for entry in log_of(run)) == 3 * epoch
    assert json.loads((run / f"eval/epoch_{epoch:04d}/metrics.json").read_text())["datasets"].keys() == {"got10k-val"}
    assert (run / f"checkpoints/epoch_{epoch:04d}/state.pt").is_file()


def test_the_last_epochs_tasks_are_done_and_the_best_is_kept(here):
    folder, _ = here
    ended(folder / "run", 3)
    assert sorted(p.name for p in (folder / "run/checkpoints").iterdir()) == ["epoch_0001", "epoch_0003"]
    result = json.loads((folder / "run/result.json").read_text())
    assert (result["best"]["measure"], result["best"]["epoch"]) == ("val_loss", 1)
    losses = [e["val_loss"] for e in log_of(folder / "run") if "val_loss" in e]
    assert (result["best"]["score"], result["last"]["score"]) == (losses[0], losses[-1])
    assert (result["last"]["epoch"], result["last"]["weights"]) == (3, "checkpoints/epoch_0003/model.safetensors")
    assert_equal(load_file(folder / "run/best.safetensors"), weights_of(folder / "run", 1))


def test_a_run_that_goes_on_ends_in_the_same_epoch_and_one_that_ended_does_no_more(here, tmp_path):
    folder, files = here
    shutil.copytree(folder / "run", run := tmp_path / "run")
    printed = train(*files, *BY_LOSS, f"--run={run}", "--resume=auto")
    assert "ends with epoch 3" in printed.output and log_of(run) == log_of(folder / "run")
    shutil.rmtree(run / "checkpoints/epoch_0003")
    shutil.rmtree(run / "eval")
    train(*files, *BY_LOSS, f"--run={run}", "--resume=auto")
    ended(run, 3)


def test_a_score_that_is_tracked_in_between_ends_it_on_all_ranks(runner, here):
    folder, files = here
    runner.run_two([*files, *BY_SCORE, "--set=train.epochs=5", f"--run={folder}/two"])
    ended(folder / "two", 4)
    result = json.loads((folder / "two/result.json").read_text())
    assert (result["best"]["measure"], result["best"]["epoch"]) == ("got10k-val/auc", 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (BY_LOSS[2:], "train.early_stopping.metric=val_loss: needs validation pairs (data.validation)"),
        ([*BY_SCORE, "--no-eval"], "train.early_stopping.metric=got10k-val/auc: needs the tree of got10k-val"),
        (["--set=train.early_stopping={metric: lss, patience: 2}"], "train.early_stopping.metric"),
    ],
)
def test_a_metric_that_will_never_be_found_is_refused(here, tmp_path, options, says):
    _, files = here
    assert says in train(*files, *options, f"--run={tmp_path / 'run'}", status=2).stderr
    assert not (tmp_path / "run").exists()
