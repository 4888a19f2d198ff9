"""What a record says is what happened since the last one, over all steps and pairs."""

import time
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from lorat.train.data.batches import Batch, make_loader
from lorat.train.logs.meter import Meter
from lorat.train.step.loss import Losses
from tests.train.conftest import ALONE


def losses(total: float) -> Losses:
    return Losses(torch.tensor(total), torch.tensor([total / 4]), torch.tensor([3 * total / 4]))


def count(meter: Meter, batches: Iterator[Batch], *totals: float, skipped: float = 0.0) -> None:
    for total in totals:
        meter.wait_for(partial(next, batches))
        norm = torch.tensor(0.0 if skipped else 2.0)
        meter.add(losses(total), norm, torch.tensor(skipped))


def test_means_are_over_the_steps_since_the_last_record(source):
    meter, batches = Meter(ALONE), make_loader(source)
    count(meter, batches, 1.0, 3.0)
    values = meter.read(1e-4)
    assert (values["loss"], values["score"], values["box"]) == (2.0, 0.5, 1.5)
    assert (values["rate"], values["norm"], values["damaged"]) == (1e-4, 2.0, 0)
    count(meter, batches, 5.0)
    assert meter.read(1e-4)["loss"] == 5.0


def test_steps_that_were_left_out_are_counted_and_have_no_norm(source):
    meter, batches = Meter(ALONE), make_loader(source)
    count(meter, batches, 1.0, 1.0, 1.0)
    count(meter, batches, 1.0, skipped=1.0)
    values = meter.read(1e-4)
    assert values["skipped"] == 1 and values["norm"] == 2.0
    count(meter, batches, 1.0, skipped=1.0)
    assert meter.read(1e-4)["norm"] == 0.0
    count(meter, batches, 1.0)
    assert "skipped" not in meter.read(1e-4)


def test_waiting_for_data_and_the_work_of_workers_are_measured(source):
    def slow() -> Iterator[Batch]:
        for batch in make_loader(source):
            time.sleep(0.05)
            yield batch

    meter, batches = Meter(ALONE), slow()
    for _ in range(3):
        count(meter, batches, 1.0, 1.0)
        time.sleep(0.1)
        values = meter.read(1e-4)
    assert 0.3 < values["data_wait"] < 0.9
    assert 16 / 0.6 < values["pairs_per_second"] < 16 / 0.2
    pace = meter.pace()
    assert pace.pairs == 32  # without the first record
    assert 0.2 < pace.waited < pace.seconds
    assert pace.reading > 0.0 and pace.making > 0.0


def test_the_first_record_counts_if_it_is_the_only_one(source):
    meter = Meter(ALONE)
    count(meter, make_loader(source), 1.0)
    meter.read(1e-4)
    assert meter.pace().pairs == 8


@pytest.mark.parametrize("workers", [0, 1])
def test_every_pair_says_how_long_it_took(source, workers):
    batch = next(make_loader(source, workers=workers))
    assert batch.seconds.shape == (8, 2) and (batch.seconds > 0).all()
    assert [part.seconds.shape for part in batch.split(4)] == [(2, 2)] * 4


def test_time_before_a_restart_is_not_counted(source):
    meter, batches = Meter(ALONE), make_loader(source)
    next(batches)
    time.sleep(0.5)
    meter.restart()
    count(meter, batches, 1.0)
    meter.read(1e-4)
    assert meter.pace().seconds < 0.5


def test_of_several_search_crops_the_sums_and_each_ones_losses_are_told():
    meter = Meter(ALONE, searches=2)
    for number in (1.0, 3.0):
        parts = torch.tensor([number, 10.0]), torch.tensor([number / 4, 2.0])
        meter.add(Losses(torch.tensor(100.0), *parts), torch.tensor(2.0), torch.tensor(0.0))
    values = meter.read(1e-4)
    assert [values[name] for name in ("loss", "score", "box")] == [100.0, 12.0, 2.5]
    assert [values[name] for name in ("score_0", "box_0", "score_1", "box_1")] == [2.0, 0.5, 10.0, 2.0]
