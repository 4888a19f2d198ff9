"""Ranks that would not train together end before they start, with one line on one of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorat.shards.base.errors import UserError
from lorat.train.distributed import world as agreeing
from lorat.train.distributed.world import World, agreed, check_alike
from lorat.train.loop import Training
from lorat.train.options import StartOptions
from lorat.train.setup import common_settings
from tests.train.conftest import ALONE, with_train, write_got10k

RANKS = [World(rank, 2, torch.device("cpu")) for rank in range(2)]


@pytest.fixture
def training(tiny_variant, tiny_recipe, source) -> Training:
    return Training(Path("run"), tiny_variant, tiny_recipe, source, torch.float32, RANKS[0])


def settings(training: Training, backbone: str = "", test_sets: tuple[str, ...] = ()):
    return common_settings(training, backbone, test_sets)


def ended(monkeypatch, *told: str) -> str:
    """What rank 0 says of what the ranks told; the others say nothing."""
    monkeypatch.setattr(agreeing, "texts_of_ranks", lambda mine, world: list(told))
    with pytest.raises(UserError) as error:
        check_alike({}, RANKS[0])
    with pytest.raises(SystemExit) as silent:
        check_alike({}, RANKS[1])
    assert silent.value.code == 2
    return error.value.message


def test_every_difference_that_would_part_the_ranks_is_named(monkeypatch, training, tiny_recipe, tiny_variant, source):
    slower = with_train(tiny_recipe, lr=0.5)
    deeper = tiny_variant.model_copy(update={"drop_path": 0.5})
    train, val = source.manifests
    fewer = (replace(train, shards=train.shards[:1]), val)
    others = {
        "train.lr = 0.5, rank 0 has 0.001": settings(replace(training, recipe=slower)),
        "variant.drop_path = 0.5": settings(replace(training, variant=deeper)),
        "shards of toy-train": settings(replace(training, source=replace(source, manifests=fewer))),
        "shards for validation": settings(replace(training, validation=source)),
        "--resume = auto, rank 0 has none": settings(replace(training, start=StartOptions(resume="auto"))),
        "--on-bad-sample skip": settings(replace(training, source=replace(source, skip_damaged=True))),
        "number type = torch.bfloat16": settings(replace(training, dtype=torch.bfloat16)),
        "backbone = xxh3:1": settings(training, backbone="xxh3:1"),
        "test sets = otb-all": settings(training, test_sets=("otb-all",)),
    }
    here = json.dumps(settings(training))
    for part, other in others.items():
        text = ended(monkeypatch, here, here, json.dumps(other))
        assert f"rank 2 has {part}" in text and "same command" in text


def test_what_may_differ_between_machines_does(monkeypatch, training, tiny_recipe):
    data = tiny_recipe.data.model_copy(update={"workers": 7, "prefetch": 9})
    other = replace(training, recipe=tiny_recipe.model_copy(update={"data": data}))
    told = [json.dumps(settings(one)) for one in (training, other)]
    monkeypatch.setattr(agreeing, "texts_of_ranks", lambda mine, world: told)
    for world in RANKS:
        check_alike({}, world)


@pytest.mark.parametrize(
    ("reasons", "text"), [(["no shards", "no shards"], "no shards"), (["", "no GPU"], "rank 1: no GPU")]
)
def test_what_one_rank_lacks_ends_all_and_is_said_once(monkeypatch, reasons, text):
    def work(reason: str) -> str:
        if reason:
            raise UserError(reason)
        return "found"

    monkeypatch.setattr(agreeing, "texts_of_ranks", lambda mine, world: reasons)
    with pytest.raises(UserError) as error:
        agreed(lambda: work(reasons[0]), RANKS[0])
    assert error.value.message == text
    with pytest.raises(SystemExit):
        agreed(lambda: work(reasons[1]), RANKS[1])
    assert agreed(lambda: work(""), ALONE) == "found"


def test_two_processes_of_which_one_has_a_test_set_end_before_they_train(runner, files, tmp_path):
    """Without that the other would not come to the first evaluation, hours later."""
    write_got10k(tmp_path / "got10k/val", {"GOT-10k_Val_000001": 2})
    has = {"LORAT_GOT10K": str(tmp_path / "got10k")}
    errors = runner.run_two([*files, f"--run={tmp_path / 'run'}"], has, {}, status=2)
    assert [line for line in errors.splitlines() if line] == [
        "Error: rank 1 has test sets = none, rank 0 has got10k-val; start all ranks with the same command, on the same "
        "files"
    ]
    assert not (tmp_path / "run").exists()


def test_only_rank_0_speaks(runner, files, tmp_path):
    errors = runner.run_two([*files, f"--run={tmp_path / 'run'}", "--set=train.epochs=1"])
    assert errors.count("the run ends without a result") == 1
    missing = "--set=data.datasets={lasot-train: 1}"
    errors = runner.run_two([*files, f"--run={tmp_path / 'other'}", missing], status=2)
    assert errors.count("Error: ") == errors.count("no shards of lasot-train") == 1
