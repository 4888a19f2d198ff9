"""What rank 0 saves alone is the last complete step, or nothing."""

import copy
import threading
from contextlib import suppress

import pytest
import torch

from lorat.shards.base.signals import Heard
from lorat.train.checkpoint.checkpoints import checkpoints_of, restore
from lorat.train.checkpoint.schedule import Saver
from lorat.train.keeping import Keeper
from lorat.train.network.variants import build_network
from lorat.train.step.faults import Scene
from lorat.train.step.loss import Objective
from lorat.train.step.optimizer import build_optimizer
from lorat.train.step.step import Engine, update
from tests.train.batches import made_up_batch
from tests.train.conftest import ALONE, assert_equal, with_train


@pytest.fixture
def keeper(tmp_path, source, tiny_variant, tiny_recipe) -> Keeper:
    """After two steps with a moving average."""
    torch.manual_seed(0)
    recipe = with_train(tiny_recipe, ema=0.9)
    objective = Objective(build_network(tiny_variant).train(), tiny_variant, torch.float32)
    engine = Engine(objective, build_optimizer(objective.network), ALONE)
    scene = Scene(tmp_path / "run", tiny_variant, recipe, source, torch.float32, ALONE)
    for step in range(2):
        update(engine, recipe.train, made_up_batch(step), step)
    return Keeper(scene, engine, {}, Saver(scene.run, recipe.train, 3, ALONE, Heard()), Heard())


def test_while_the_average_stands_in_for_them_it_is_the_weights(keeper, tiny_variant):
    before = copy.deepcopy(keeper.engine.objective.network.state_dict())
    with keeper.engine.averaging():
        told = keeper.save_alone()
    (saved,) = checkpoints_of(keeper.scene.run)
    assert told == f"saved {saved}" == keeper.save_alone() and saved.name == "step_00000002"  # not twice
    network = build_network(tiny_variant)
    assert restore(saved, network, {"optimizer": build_optimizer(network)}, {}) == 2
    assert_equal(network.state_dict(), before)


def test_a_step_that_broke_off_while_it_changed_weights_is_not_saved(keeper):
    with suppress(RuntimeError), keeper.engine.changes.up_to(3):
        raise RuntimeError("out of memory")
    assert "cannot be saved" in keeper.save_alone() and checkpoints_of(keeper.scene.run) == []


def test_nothing_changes_while_it_is_saved(keeper):
    engine, begun = keeper.engine, threading.Event()

    def step() -> None:
        begun.set()
        update(engine, keeper.scene.recipe.train, made_up_batch(2), 2)

    with engine.changes.held() as done:
        before = copy.deepcopy(engine.objective.network.state_dict())
        thread = threading.Thread(target=step)
        thread.start()
        begun.wait()
        thread.join(0.5)
        assert thread.is_alive() and done == 2
        assert_equal(engine.objective.network.state_dict(), before)
    thread.join()
    with engine.changes.held() as done:
        assert done == 3
