"""The verdict on speed names what a training waits for, and what of it can be changed."""

from dataclasses import replace

import pytest
import torch
from upath import UPath

from lorat.shards.cache.cache import CacheOptions
from lorat.train.distributed.world import World
from lorat.train.logs import verdict
from lorat.train.logs.verdict import Pace, judge
from lorat.train.step.faults import Scene
from tests.train.conftest import with_train

# 1000 pairs in 10 s, of which 6 are spent waiting; workers need 12 ms for a pair.
WAITING = Pace(seconds=10.0, waited=6.0, pairs=1000, reading=2.0, making=10.0)
READING = WAITING._replace(reading=10.0, making=2.0)
BUSY = WAITING._replace(waited=0.2)


@pytest.fixture
def told(tmp_path, tiny_variant, tiny_recipe, source, monkeypatch):
    """What is said of a pace on a good GPU of a machine with 16 cores, but for some changes."""

    def judged(
        pace, *, workers=2, cores=16, device="cuda", dtype=torch.bfloat16, capability=9, codec="turbo", **more
    ) -> tuple[str, str]:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (capability, 0))
        monkeypatch.setattr(verdict, "cores_a_rank", lambda: cores)
        monkeypatch.setattr(verdict, "codec_name", lambda: codec)
        folder = UPath("memory://shards") if more.pop("remote", False) else tmp_path
        cache = CacheOptions(tmp_path, 1) if more.pop("cached", False) else None
        data = tiny_recipe.data.model_copy(update={"workers": workers})
        recipe = with_train(tiny_recipe, **{"compile": True, **more}).model_copy(update={"data": data})
        here = replace(source, manifests=(replace(source.manifests[0], folder=folder),), weights=(1,), cache=cache)
        world = World(0, 1, torch.device(device))
        found = judge(pace, Scene(tmp_path, tiny_variant, recipe, here, dtype, world))
        assert found.text.startswith("speed: ") and "\n" not in found.text
        return found.kind, found.text

    return judged


def test_a_training_that_hardly_waits_is_held_up_by_the_network(told):
    kind, text = told(BUSY)
    assert kind == "network" and "data waits are 2%" in text and "more processes" in text


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"dtype": torch.float32}, "train.dtype=bfloat16"),
        ({"checkpoint_activations": True}, "checkpoint_activations=false"),
        ({"accumulate": 4}, "smaller train.accumulate"),
        ({"compile": False}, "train.compile=true"),
    ],
)
def test_what_would_make_the_network_faster_is_proposed_where_it_is_not_in_use(told, change, part):
    assert part in told(BUSY, **change)[1]
    assert part not in told(BUSY)[1]


def test_slow_number_types_and_one_graph_of_a_step_that_fsdp_cuts_are_not_proposed(told):
    assert "bfloat16" not in told(BUSY, dtype=torch.float32, capability=7)[1]
    assert "bfloat16" not in told(BUSY, dtype=torch.float32, device="mps")[1]
    assert "train.compile" not in told(BUSY, compile=False, parallel="fsdp")[1]


def test_decoding_asks_for_as_many_workers_as_the_network_could_use_and_cores_allow(told):
    # In 4 s of network the workers would have to do 12 s of work: 3, and some more.
    kind, text = told(WAITING)
    assert kind == "decoding" and "data.workers=4" in text and "60%" in text
    assert "data.workers=3" in told(WAITING, cores=3)[1]
    assert "data.workers=3" in told(WAITING, cores=4, device="cpu")[1]
    kind, text = told(WAITING, cores=2)
    assert kind == "decoding" and "data.workers" not in text and "no core of 2 is free" in text


def test_a_slow_codec_is_named_where_decoding_takes_the_time(told):
    assert "libjpeg-turbo" in told(WAITING, codec="opencv 4")[1]
    assert "libjpeg-turbo" not in told(READING, codec="opencv 4")[1]


def test_without_workers_one_is_proposed_at_least(told):
    made_here = Pace(seconds=13.0, waited=12.0, pairs=1000, reading=2.0, making=10.0)
    assert "data.workers=15" in told(made_here, workers=0)[1]
    little = Pace(seconds=10.0, waited=1.0, pairs=1000, reading=0.1, making=0.9)
    assert "data.workers=1" in told(little, workers=0)[1]


def test_a_slow_disk_and_a_slow_store_are_told_apart(told):
    kind, text = told(READING)
    assert kind == "disk" and "--shard-cache DIR on a faster disk" in text and "83%" in text
    kind, text = told(READING, remote=True)
    assert kind == "store" and "--shard-cache DIR on a local disk" in text
    kind, text = told(READING, remote=True, cached=True)
    assert "--shard-cache DIR" not in text and "--shard-cache-size" in text


def test_nothing_measured_is_no_error(told):
    assert told(Pace(0.0, 0.0, 0, 0.0, 0.0))[0] == "network"
