import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from lorat.evaluate.track.ranks import Ranks


def _take(ranks: Ranks, count: int, seconds: float, log: list, ends: list) -> None:
    for index in ranks.taken(count, "t"):
        log.append((ranks.rank, index))
        time.sleep(seconds)
    ends.append(ranks.add("t", 0))  # as many as were asked for so far, by all


@pytest.fixture
def stores(tmp_path):
    """Three clients of one real store, as three processes have them."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    wait = timedelta(seconds=20)
    clients = [dist.TCPStore("127.0.0.1", server.port, timeout=wait) for _ in range(2)]
    return [server, *clients]


def test_every_item_is_taken_once_in_order_and_nobody_ends_while_there_is_work(stores):
    count, log, ends = 60, [], []
    workers = [
        threading.Thread(target=_take, args=(Ranks(rank, 3, store), count, seconds, log, ends))
        for rank, (store, seconds) in enumerate(zip(stores, (0.002, 0.002, 0.02), strict=True))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
    assert sorted(index for _, index in log) == list(range(count))
    for rank in range(3):
        own = [index for by, index in log if by == rank]
        assert own == sorted(own)
    # A rank that found nothing left did so after everything was taken.
    assert len(ends) == 3 and min(ends) > count
    slow = sum(rank == 2 for rank, _ in log)
    assert slow < count / 6


def test_one_process_takes_all(stores):
    assert list(Ranks().taken(3, "t")) == [0, 1, 2]


def test_numbers_of_all_ranks_add_up_topic_by_topic(stores):
    ranks = [Ranks(rank, 3, store) for rank, store in enumerate(stores)]
    assert [each.add("frames", 5) for each in ranks] == [5, 10, 15]
    assert ranks[0].add("other", 1) == 1
    alone = Ranks()
    assert [alone.add("frames", 5), alone.add("frames", 2), alone.add("x", 0)] == [5, 7, 0]
