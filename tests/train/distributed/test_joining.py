"""Ranks meet those of their own start alone."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from lorat.shards.base.errors import UserError
from lorat.train.distributed import rendezvous as joining
from lorat.train.distributed import world as distributed
from lorat.train.distributed.rendezvous import meet

PATIENCE = timedelta(seconds=20)


@pytest.fixture
def start(monkeypatch):
    """Let so many ranks meet on a store that outlives them."""
    store = dist.HashStore()

    def start(size: int) -> list[dist.Store]:
        ranks = iter(range(size))
        monkeypatch.setattr(joining, "rendezvous", lambda *_, **__: iter([(store, next(ranks), size)]))
        with ThreadPoolExecutor(size) as pool:
            met = [each.result() for each in [pool.submit(meet, PATIENCE) for _ in range(size)]]
        assert sorted(rank for _, rank, _ in met) == list(range(size))
        return [own for own, _, _ in sorted(met, key=lambda one: one[1])]

    start.store = store
    return start


@pytest.mark.parametrize("size", [1, 2, 5])
def test_all_ranks_of_a_start_share_what_they_write(start, size):
    stores = start(size)
    stores[0].set("address", "here")
    assert {store.get("address") for store in stores} == {b"here"}


def test_ranks_that_start_again_see_nothing_of_those_before(start):
    start(3)[1].set("address", "of a dead rank")
    start.store.set("asks/2", "of a rank that died while it asked")
    assert not any(store.check(["address"]) for store in start(3))


def test_a_rank_that_does_not_come_is_named(start, monkeypatch):
    monkeypatch.setattr(joining, "rendezvous", lambda *_, **__: iter([(start.store, 0, 3)]))
    with pytest.raises(RuntimeError, match="no word of rank 1, 2"):
        meet(timedelta(seconds=0.2))


def test_a_process_without_a_gpu_of_its_own_is_told_how_many_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("RANK", "10")
    assert distributed.own_gpu(1) == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"rank 10 is process 2 .* has 2 CUDA .*-per-node 2"):
        distributed.own_gpu(2)
