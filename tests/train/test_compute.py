"""A run keeps the number type it began with, whatever is fast where it goes on; a named one wins; ranks have one."""

import shutil

import torch

from lorat.train import setup
from lorat.train.checkpoint.record import read_record
from lorat.train.distributed.world import World
from lorat.train.network.deploy import devices
from lorat.train.network.deploy.processor import Measured
from lorat.train.setup import Request, settle_compute
from tests.train.conftest import train, with_train


def fast_at(monkeypatch, dtype):
    """Let this machine be fast at a number type."""
    rounds = [(2.0 if dtype == torch.bfloat16 else 0.5, 1.0)] * 8
    monkeypatch.setattr(devices, "fast_dtype", lambda product: Measured.of(rounds).dtype)


def test_a_run_keeps_the_number_type_it_began_with(files, tmp_path, monkeypatch):
    def trained(run: str, *more: str) -> str:
        fixed = ["--no-eval", f"--run={tmp_path / run}", "--set=train.dtype=auto"]
        return train(*files, *fixed, *more).stdout.splitlines()[0]

    fast_at(monkeypatch, torch.bfloat16)
    assert "bfloat16 on 1 x cpu" in trained("run")
    shutil.rmtree(max((tmp_path / "run/checkpoints").iterdir()))
    fast_at(monkeypatch, torch.float32)
    assert "bfloat16 on" in trained("run", "--resume=auto")
    assert "float32 on" in trained("other")
    assert read_record(tmp_path / "run/config.yaml").recipe.train.dtype == "bfloat16"


def test_a_named_number_type_wins(files, tmp_path, monkeypatch):
    fast_at(monkeypatch, torch.bfloat16)
    result = train(*files, "--no-eval", f"--run={tmp_path / 'run'}", "--set=train.dtype=float32")
    assert "float32 on 1 x cpu" in result.stdout


def test_the_other_ranks_take_rank_0s_and_measure_nothing(tmp_path, tiny_variant, tiny_recipe, monkeypatch):
    monkeypatch.setattr(devices, "fast_dtype", None)
    monkeypatch.setattr(setup, "agreed", lambda work, world: work())
    monkeypatch.setattr(setup, "texts_of_ranks", lambda texts, world: ["bfloat16", *texts])
    recipe, here = with_train(tiny_recipe, dtype="auto"), World(1, 2, torch.device("cpu"))
    request = Request(variant=tiny_variant, recipe=recipe, shards=tmp_path, run=tmp_path / "run")
    assert settle_compute(request, here).recipe.train.dtype == "bfloat16"
