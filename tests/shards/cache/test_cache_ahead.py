"""Shards that are fetched into a cache before they are read."""

import logging
import multiprocessing
import threading
import time
from pathlib import Path

import pytest

from lorat.shards.base.errors import ShardCorrupt
from lorat.shards.cache import cache as module
from lorat.shards.cache.cache import ShardCache, open_shard
from lorat.shards.manifest import Manifest
from tests.shards.cache.small_caches import held, make_cache


def wait_for(numbers: list[int], folder: Path) -> None:
    deadline = time.monotonic() + 30
    while held(folder) != numbers:
        assert time.monotonic() < deadline, (held(folder), numbers)
        time.sleep(0.01)


def test_shards_are_fetched_ahead_as_far_as_half_the_cache(shards, tmp_path):
    cache = make_cache(tmp_path, shards, 4)
    wanted = [(shards.folder / r.shard, r) for r in shards.shards]
    assert cache.prefetch(wanted) == 2
    wait_for([0, 1], tmp_path)
    cache.prefetch(wanted)
    cache.prefetch(wanted[4:])
    wait_for([0, 1, 4, 5], tmp_path)


def test_what_finds_no_place_in_the_queue_is_not_taken_in(shards, tmp_path, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def wait(cache: ShardCache, shard: object, receipt: object, ahead: bool) -> None:
        begun.set()
        assert go_on.wait(30)

    monkeypatch.setattr(module, "_QUEUE", 2)
    monkeypatch.setattr(ShardCache, "fetch", wait)
    cache = make_cache(tmp_path, shards, 12)
    wanted = [(shards.folder / r.shard, r) for r in shards.shards]
    assert cache.prefetch(wanted[:1]) == 1
    assert begun.wait(30)
    assert cache.prefetch(wanted[1:]) == 2  # one is being fetched, two wait
    assert cache.prefetch(wanted[3:]) == 0
    go_on.set()


def test_fetching_ahead_drops_no_shard_that_is_open(shards, tmp_path):
    cache = make_cache(tmp_path, shards, 2)
    readers = [open_shard(shards, number, cache) for number in (0, 1)]
    receipt = shards.shards[2]
    cache.fetch(shards.folder / receipt.shard, receipt, ahead=True)
    assert held(tmp_path) == [0, 1]
    readers[1].close()
    cache.fetch(shards.folder / receipt.shard, receipt, ahead=True)
    assert held(tmp_path) == [0, 2]


def test_a_shard_that_cannot_be_fetched_ahead_is_told_and_the_next_is_fetched(damageable, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "lorat")
    (damageable.folder / damageable.shards[0].shard).unlink()
    cache = make_cache(tmp_path / "cache", damageable, 4)
    (tmp_path / "cache").mkdir()
    cache.prefetch([(damageable.folder / r.shard, r) for r in damageable.shards[:2]])
    wait_for([1], tmp_path / "cache")
    assert "fetching ahead" in caplog.text
    with pytest.raises(ShardCorrupt):
        open_shard(damageable, 0, cache)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_cache_travels_to_other_processes(shards, tmp_path, start):
    cache = make_cache(tmp_path, shards, 6)
    cache.prefetch([(shards.folder / shards.shards[0].shard, shards.shards[0])])
    wait_for([0], tmp_path)
    context = multiprocessing.get_context(start)
    process = context.Process(target=_prefetch_and_read, args=(cache, shards))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert held(tmp_path) == [0, 1]


def _prefetch_and_read(cache: ShardCache, manifest: Manifest) -> None:
    receipt = manifest.shards[1]
    cache.prefetch([(manifest.folder / receipt.shard, receipt)])
    wait_for([0, 1], cache.options.folder)
    assert open_shard(manifest, 1, cache).read(0).key == "toy-train-000000004"
