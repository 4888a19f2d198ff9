"""On a processor the number type is what was measured to be fast, and threads are as many as help."""

import json
import logging

import pytest
import torch

from lorat.configs.load import load_variant
from lorat.shards.base.storage import cache_folder
from lorat.train.network.deploy import processor
from lorat.train.network.deploy.processor import (
    Measured,
    Product,
    Threads,
    fast_dtype,
    is_small,
    settle_threads,
    time_product,
)
from lorat.train.network.variants import empty_network

PRODUCT = Product(64, 96, 128)
FASTER, ALIKE, SLOWER = ([(ratio, 1.0)] * 8 for ratio in (3.0, 1.05, 0.5))


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """A process that has decided nothing, and a cache of its own."""
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    fast_dtype.cache_clear()
    yield
    fast_dtype.cache_clear()


@pytest.mark.parametrize(
    ("rounds", "dtype", "clear"),
    [
        (FASTER, torch.bfloat16, True),
        (ALIKE, torch.float32, True),  # as fast is not worth the rounding
        (SLOWER, torch.float32, True),
        (FASTER + SLOWER[:2], torch.bfloat16, True),
        (FASTER[:5] + SLOWER[:4], torch.bfloat16, False),
        ([(9e3, 1.0), *SLOWER], torch.float32, True),  # one disturbed round says nothing
    ],
)
def test_bfloat16_is_taken_where_it_is_faster_by_a_margin(rounds, dtype, clear):
    found = Measured.of(rounds)
    assert (found.dtype, found.clear) == (dtype, clear)


def test_a_real_product_is_timed_in_both_types_and_threads_are_given_back():
    torch.set_num_threads(2)
    rounds = time_product(PRODUCT)
    assert len(rounds) >= 5 and all(a > 0 and b > 0 for a, b in rounds)
    assert torch.get_num_threads() == 2


@pytest.fixture
def timed(monkeypatch):
    """Counts measurements, which find what is in the list."""
    found = [FASTER, SLOWER]
    monkeypatch.setattr(processor, "time_product", lambda product: found.pop(0))
    return found


def test_a_processor_is_measured_once_and_the_reason_said(timed, caplog):
    caplog.set_level(logging.INFO, "lorat")
    assert [fast_dtype(PRODUCT) for _ in range(3)] == [torch.bfloat16] * 3
    fast_dtype.cache_clear()  # as in another process
    assert fast_dtype(PRODUCT) == torch.bfloat16 and len(timed) == 1
    now, before = (record.getMessage() for record in caplog.records)
    assert now == "number type: bfloat16, since bfloat16 is 3 x as fast as float32 here (measured now)"
    assert before.endswith("(measured before)")


def test_another_processor_torch_or_product_is_measured_anew(timed, monkeypatch):
    fast_dtype(PRODUCT)
    fast_dtype.cache_clear()
    monkeypatch.setattr(processor, "processor_name", lambda: "another")
    assert fast_dtype(PRODUCT) == torch.float32
    timed += [FASTER]
    assert fast_dtype(PRODUCT._replace(rows=3)) == torch.bfloat16 and not timed


def test_what_is_not_clear_or_not_whole_is_measured_again(timed):
    timed[:] = [FASTER[:5] + SLOWER[:4], SLOWER, FASTER]
    assert fast_dtype(PRODUCT) == torch.bfloat16
    fast_dtype.cache_clear()
    assert fast_dtype(PRODUCT) == torch.float32
    (kept,) = (cache_folder() / "number-types").iterdir()
    assert json.loads(kept.read_text())["speedup"] == 0.5
    kept.write_text("{")
    fast_dtype.cache_clear()
    assert fast_dtype(PRODUCT) == torch.bfloat16 and not timed


def test_a_cache_that_cannot_be_written_is_told_and_no_reason_to_end(timed, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "lorat")
    (tmp_path / "file").touch()
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "file"))
    assert fast_dtype(PRODUCT) == torch.bfloat16
    assert "not kept" in caplog.text and str(tmp_path / "file") in caplog.text


def test_the_product_is_the_widest_of_the_networks_own_or_a_part_of_it():
    assert Product.of(empty_network(load_variant("S-224"))) == (128, 384, 1536)
    assert Product.of(empty_network(load_variant("toy"))) == (128, 128, 512)
    assert Product.of(empty_network(load_variant("g-224"))) == (128, 1536, 1365)


def threads_of(name: str, samples: int) -> int:
    torch.set_num_threads(2)
    settle_threads(empty_network(load_variant(name)), samples)
    return torch.get_num_threads()


def test_threads_are_those_that_other_work_leaves(monkeypatch, caplog):
    monkeypatch.setattr(processor, "cores_a_rank", lambda: 8)
    for free, threads in ((8.0, 8), (7.6, 8), (3.4, 3), (0.1, 1)):
        caplog.clear()
        monkeypatch.setattr(processor, "free_cores", lambda free=free: free)
        assert threads_of("S-224", 1) == threads
        assert ("OMP_NUM_THREADS=8" in caplog.text) == (threads < 8)


@pytest.fixture
def seen(monkeypatch):
    """What each watch finds free, in turn; every block is watched."""
    found = list[float]()
    monkeypatch.setattr(processor.CoreWatch, "mean", lambda watch: found.pop(0))
    monkeypatch.setattr(processor, "_WATCHED", 0.0)
    monkeypatch.setattr(processor, "_UNWATCHED", 0.0)
    return found


def threads_after(threads: Threads) -> int:
    with threads.following():
        pass
    return torch.get_num_threads()


def test_threads_follow_other_work_as_it_comes_and_goes(monkeypatch, seen):
    monkeypatch.setattr(processor, "cores_a_rank", lambda: 4)
    monkeypatch.setattr(processor, "free_cores", lambda: 0.3)
    threads = settle_threads(empty_network(load_variant("S-224")), 1)
    assert torch.get_num_threads() == 1
    seen += [3.9, 5.0, 2.2, 0.0]
    assert [threads_after(threads) for _ in range(4)] == [4, 4, 2, 1]
    monkeypatch.setattr(processor, "_UNWATCHED", 60.0)
    seen += [4.0]
    assert [threads_after(threads) for _ in range(3)] == [4, 4, 4] and not seen  # watched once


def test_little_is_decided_from_what_was_watched_for_long_enough(monkeypatch, seen):
    monkeypatch.setattr(processor, "_WATCHED", 3600.0)
    torch.set_num_threads(2)
    seen += [1.0]
    assert threads_after(Threads(2)) == 2 and seen


def test_a_number_in_the_environment_is_kept(monkeypatch, seen):
    monkeypatch.setattr(processor, "free_cores", lambda: 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads_of("toy", 1) == 2
    seen += [1.0]
    assert threads_after(settle_threads(empty_network(load_variant("S-224")), 1)) == 2 and seen


def test_little_work_takes_one_thread(monkeypatch):
    monkeypatch.setattr(processor, "cores_a_rank", lambda: 4)
    monkeypatch.setattr(processor, "free_cores", lambda: 4.0)
    assert threads_of("toy", 1) == 1 and threads_of("toy", 128) == 4
    assert not is_small(empty_network(load_variant("S-224")), 1)
