"""Checkpoints are whole or not there, whatever happens to process, disk or files."""

import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest
import torch

from lorat.configs.schema import EarlyStopping, LoraConfig, RecipeConfig
from lorat.shards.base.errors import UserError
from lorat.shards.base.signals import Heard
from lorat.shards.manifest import load_manifest
from lorat.train.checkpoint import schedule as saving
from lorat.train.checkpoint.checkpoints import Due, Snapshot, checkpoints_of, find_checkpoint, restore, save_checkpoint
from lorat.train.checkpoint.record import FREE, check_same, fixed_settings
from lorat.train.checkpoint.schedule import Saver
from lorat.train.network.variants import build_network
from lorat.train.step.optimizer import build_optimizer
from tests.train.conftest import ALONE

FORK = multiprocessing.get_context("fork")
SETTINGS = {"train.lr": 0.1, "data.window_shards": 0}


def trained(variant, steps: int):
    """A network and its optimiser after some steps."""
    torch.manual_seed(0)
    network = build_network(variant)
    optimizer = build_optimizer(network)
    for step in range(steps):
        for number, parameter in enumerate(network.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 * (number + step + 1))
        optimizer.step()
    return network, optimizer


def snapshot_of(network, variant, optimizer) -> Snapshot:
    return Snapshot(
        network,
        variant,
        {"optimizer": optimizer.state_dict(), "scaler": {}},
        SETTINGS,
        {"stored": "[12.0, 96, 1024, 4.0]"},
    )


@pytest.fixture
def save(tmp_path, tiny_variant):
    """Saves a checkpoint of some steps into tmp_path."""
    network, optimizer = trained(tiny_variant, 1)
    snapshot = snapshot_of(network, tiny_variant, optimizer)

    def saves(name: str, step: int, keep: int = 5) -> Path:
        kind, number = name.split("_")
        due = Due(step, int(number) if kind == "epoch" else 0, rolling=kind == "step")
        return save_checkpoint(tmp_path, due, snapshot, keep=keep)

    return saves


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_what_is_restored_is_what_was_saved_bit_for_bit(tmp_path, tiny_variant):
    network, optimizer = trained(tiny_variant, 3)
    snapshot = snapshot_of(network, tiny_variant, optimizer)
    folder = save_checkpoint(tmp_path, Due(3, 0, rolling=True), snapshot, keep=1)
    assert folder.name == "step_00000003"
    other, fresh = trained(tiny_variant, 0)
    assert restore(folder, other, {"optimizer": fresh}, SETTINGS) == 3
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        for key, value in optimizer.state[a].items():
            assert torch.equal(value, fresh.state[b][key])


def test_the_newest_is_the_one_with_most_steps(tmp_path, save):
    assert find_checkpoint(tmp_path) is None
    save("epoch_0001", 30)
    save("step_00000040", 40)
    assert find_checkpoint(tmp_path).name == "step_00000040"
    save("epoch_0002", 60)
    assert find_checkpoint(tmp_path).name == "epoch_0002"


def test_the_newest_of_each_kind_are_kept(tmp_path, save):
    for step in (10, 20, 30, 40):
        save(f"step_{step:08d}", step)
        save(f"epoch_{step // 10:04d}", step, keep=3)
    epochs = ["epoch_0002", "epoch_0003", "epoch_0004"]
    assert names(tmp_path) == [*epochs, "step_00000030", "step_00000040"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "checkpoint.json"])
@pytest.mark.parametrize("damage", [cut, flip_a_bit, Path.unlink])
def test_a_damaged_newest_is_named_and_the_one_before_is_taken(tmp_path, save, caplog, monkeypatch, name, damage):
    monkeypatch.setattr(saving._LOG, "propagate", True)
    older, newest = save("step_00000004", 4), save("step_00000005", 5)
    before = (newest / name).read_bytes()
    damage(newest / name)
    if name == "checkpoint.json" and damage is flip_a_bit:
        # Inside a number or a word nothing tells that bit.
        (newest / name).write_bytes(before[:40] + b"\xff" + before[41:])
    assert find_checkpoint(tmp_path) == older
    assert str(newest / name) in caplog.text and str(older) in caplog.text


def test_where_none_is_whole_training_does_not_start_anew_by_itself(tmp_path, save):
    cut(save("epoch_0001", 30) / "state.pt")
    with pytest.raises(UserError, match=r"epoch_0001.state\.pt: damaged .* is whole: delete"):
        find_checkpoint(tmp_path)


def test_killed_before_and_after_every_single_write(tmp_path, save, monkeypatch):
    """Each try goes one flush or rename further than the one before, then kills itself."""
    rename, left = Path.replace, multiprocessing.Value("i", 0)

    def step() -> None:
        left.value -= 1
        if left.value == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def rename_and_count(self: Path, target: Path) -> Path:
        step()
        moved = rename(self, target)
        step()
        return moved

    monkeypatch.setattr(os, "fsync", lambda _: step())
    monkeypatch.setattr(Path, "replace", rename_and_count)
    older = [save("epoch_0001", 10), save("step_00000011", 11), save("step_00000012", 12)]
    codes = []
    for allowed in range(1, 100):
        at = 12 + allowed
        left.value = allowed
        process = FORK.Process(target=save, args=(f"step_{at:08d}", at))
        process.start()
        process.join()
        codes.append(process.exitcode)
        left.value = 0
        found = find_checkpoint(tmp_path)
        assert found in older or found.name == f"step_{at:08d}"
        assert {path.name for path in checkpoints_of(tmp_path)} >= {"epoch_0001", found.name}
        # Nothing damaged is left under a checkpoint's name, so nothing is passed over.
        assert all((path / "checkpoint.json").is_file() for path in checkpoints_of(tmp_path))
        older.append(found)
        if process.exitcode == 0:
            break
    assert codes[:-1] == [-signal.SIGKILL] * (len(codes) - 1) and codes[-1] == 0 and len(codes) > 12
    assert names(tmp_path) == ["epoch_0001", *sorted(p.name for p in checkpoints_of(tmp_path))[1:]]
    assert len(names(tmp_path)) == 3


@pytest.fixture
def file_limit():
    """Sets the largest file that this process may write, in bytes, until the test ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_a_disk_that_refuses_loses_no_older_checkpoint(tmp_path, save, file_limit, name):
    older = save("epoch_0001", 30, keep=1)
    sizes = {path.name: path.stat().st_size for path in older.iterdir()}
    assert sizes["model.safetensors"] < sizes["state.pt"]
    file_limit(sizes[name] - 1)
    with pytest.raises(UserError, match="ulimit") as refused:
        save("epoch_0002", 60, keep=1)
    assert refused.value.message.startswith(f"{tmp_path / 'checkpoints/epoch_0002' / name}: cannot be written")
    assert names(tmp_path) == ["epoch_0001"] and find_checkpoint(tmp_path) == older


def test_every_key_of_a_recipe_is_fixed_or_named_as_free(tiny_variant, tiny_recipe, tiny_shards):
    manifests = [load_manifest(tiny_shards / name) for name in ("toy-train", "toy-val")]
    settings = fixed_settings(tiny_variant, tiny_recipe, manifests)
    some = {"variant.template_size": 32, "data.datasets.toy-train": 2, "train.lr": 1e-3, "augment.flip": 0.5}
    assert settings.items() >= {**some, "shards of toy-val": manifests[1].fingerprint()}.items()
    assert not FREE & settings.keys()
    parts = {part: type(getattr(tiny_recipe, part)).model_fields for part in ("data", "augment", "train")}
    known = {"name", *(f"{part}.{name}" for part, fields in parts.items() for name in fields)}
    known |= {f"train.early_stopping.{name}" for name in EarlyStopping.model_fields}
    assert known >= FREE
    assert {k for k in known - FREE if k != "data.datasets"} <= settings.keys()


def test_what_differs_is_named_with_both_values():
    then = {"a": 1, "b": [1, 2], "c": None, "d": 4, "e": 5}
    now = {"a": 2, "b": [1, 2], "c": "x", "d": 5, "f": 6}
    text = r"a = 1 \(this run has 2\), c = None \(this run has x\), d = 4 \(this run has 5\) and 2 more"
    with pytest.raises(UserError, match=text):
        check_same(Path("run"), then, now)
    check_same(Path("run"), then, dict(then))


def test_a_checkpoint_from_before_a_key_of_variants_goes_on_where_that_is_as_usual(tiny_variant, tiny_recipe):
    variant = tiny_variant.model_copy(update={"lora": LoraConfig(rank=4)})
    now = fixed_settings(variant, tiny_recipe, [])
    later = {"method", "templates", "searches", "reference_factor", "lora.init", "lora.experts"}
    then = {key: value for key, value in now.items() if key.removeprefix("variant.") not in later}
    check_same(Path("run"), then, now)
    with pytest.raises(UserError, match=r"variant\.templates = 1 \(this run has 3\)"):
        check_same(Path("run"), then, now | {"variant.templates": 3})
    whole = fixed_settings(tiny_variant.model_copy(update={"lora": None}), tiny_recipe, [])
    with pytest.raises(UserError, match=r"variant\.lora\.alpha = none"):
        check_same(Path("run"), whole, now)


def recipe(**train) -> RecipeConfig:
    plan = {"checkpoint_minutes": 0, "checkpoint_epochs": 2, "epochs": 5, **train}
    return RecipeConfig.model_validate({"name": "x", "data": {"datasets": {"a": 1}}, "train": plan})


def dates(saver: Saver, steps: range) -> dict[int, str]:
    found = {step: saver.due(step) for step in steps}
    return {step: due.name for step, due in found.items() if due is not None}


def test_epochs_and_steps_come_by_arithmetic(tmp_path):
    saver = Saver(tmp_path, recipe(checkpoint_steps=7).train, 10, ALONE, Heard())
    assert dates(saver, range(1, 51)) == {
        **{step: f"step_{step:08d}" for step in (7, 14, 21, 28, 35, 42, 49)},
        **{20: "epoch_0002", 40: "epoch_0004", 50: "epoch_0005"},
    }


def test_minutes_count_from_the_last_checkpoint_of_any_kind(tmp_path, monkeypatch, save):
    clock = [0.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(saving, "save_checkpoint", lambda *_, **__: None)
    saver = Saver(tmp_path, recipe(checkpoint_minutes=0.5).train, 10, ALONE, Heard())
    saved = []
    for step in range(1, 31):
        clock[0] += 8.0
        assert not saver.asked_to_end()  # the ranks meet
        if due := saver.due(step):
            saver.save(due, None)
            saved.append(due.name)
    rolling = [f"step_{step:08d}" for step in (4, 8, 12, 16, 24, 28)]
    assert saved == [*rolling[:4], "epoch_0002", *rolling[4:]]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_training_with_a_checkpoint(tmp_path, monkeypatch, number, status):
    monkeypatch.setattr(saving, "save_checkpoint", lambda *_, **__: None)
    heard = Heard()
    saver = Saver(tmp_path, recipe().train, 10, ALONE, heard)
    batches = iter(["a shard", "batch"])
    saver.finish()
    heard.number = number
    assert saver.next(batches) is None and next(batches) == "batch"
    due = saver.last(4)
    assert due.name == "step_00000004"
    saver.save(due, None)
    assert saver.last(4) is None  # not twice
    with pytest.raises(SystemExit) as ended:
        saver.finish()
    assert ended.value.code == status


def test_a_disk_that_refuses_ends_the_training_only_where_it_has_to(tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise UserError("run/checkpoints: cannot be written")

    monkeypatch.setattr(saving, "save_checkpoint", refuse)
    monkeypatch.setattr(saving._LOG, "propagate", True)
    saver = Saver(tmp_path, recipe(checkpoint_steps=3).train, 10, ALONE, Heard())
    rolling = saver.due(3)
    saver.save(rolling, None)
    assert "goes on without a checkpoint: run/checkpoints: cannot be written" in caplog.text
    for due in (saver.due(20), rolling._replace(last=True)):
        with pytest.raises(UserError):
            saver.save(due, None)


def test_the_record_is_readable(save):
    record = json.loads((save("epoch_0001", 30) / "checkpoint.json").read_text())
    assert record["step"] == 30 and record["settings"] == SETTINGS
    assert set(record["files"]) == {"model.safetensors", "state.pt"}
