"""Batches depend on their place in the run, never on ranks, workers or history."""

import io
import pickle
import shutil
import signal
from dataclasses import replace
from itertools import islice
from multiprocessing.reduction import ForkingPickler

import cv2
import numpy as np
import pytest
import torch

from lorat.shards.base.errors import UserError
from lorat.shards.manifest import load_manifest
from lorat.train.data import samples
from lorat.train.data.batches import make_loader
from tests.train.batches import TENSORS, assert_same, keys_of

HELD = [name for name in TENSORS if name != "reference"]  # of a pair


@pytest.mark.parametrize(("world", "workers"), [(1, 1), (1, 2), (2, 0), (2, 2), (4, 1), (8, 0)])
def test_global_batches_do_not_depend_on_ranks_or_workers(source, world, workers):
    alone = list(islice(make_loader(source), 5))
    ranks = [list(islice(make_loader(source, 0, r, world, workers), 5)) for r in range(world)]
    for step, expected in enumerate(alone):
        assert_same([rank[step] for rank in ranks], [expected])


@pytest.mark.parametrize("first_step", [1, 3, 7])
def test_starting_at_a_step_equals_having_run_there(source, first_step):
    whole = list(make_loader(source))
    assert len(whole) == 9
    assert_same(list(make_loader(source, first_step)), whole[first_step:])


def test_shapes_types_and_ranges_are_those_of_the_contract(source):
    batch = next(make_loader(source))
    assert batch.template.shape == (8, 1, 3, 32, 32) and batch.template.dtype == torch.uint8
    assert batch.search.shape == (8, 1, 3, 64, 64) and batch.search.dtype == torch.uint8
    assert batch.template_mask.shape == (8, 1, 2, 2) and batch.template_mask.dtype == torch.bool
    assert batch.positive.shape == (8, 1, 4, 4) and batch.box.shape == (8, 1, 4) and batch.reference is None
    assert batch.positive.flatten(1).any(1).all() and batch.template_mask.flatten(1).any(1).all()
    assert batch.box.min() >= 0 and batch.box.max() <= 1
    assert (batch.box[..., 2:] > batch.box[..., :2]).all()
    assert batch.position.tolist() == list(range(8))
    assert_same(list(batch.split(4)), [batch])


def test_weights_are_kept_exactly(source):
    keys = keys_of(list(make_loader(source)))
    assert sum(key.startswith("toy-train") for key in keys) == 48
    assert sum(key.startswith("toy-val") for key in keys) == 24


def test_a_pair_that_no_window_shows_is_replaced_from_its_own_data_set(source, monkeypatch):
    make = samples.make_sample
    plain = next(make_loader(source))
    failed = []

    def fail_at_first(stored, *rest):
        if stored.sample.key == plain.keys[3] and not failed:
            failed.append(stored.sample.key)
            return None
        return make(stored, *rest)

    monkeypatch.setattr(samples, "make_sample", fail_at_first)
    changed = next(make_loader(source))
    assert failed == [plain.keys[3]]
    assert changed.keys[:3] == plain.keys[:3] and changed.keys[4:] == plain.keys[4:]
    assert changed.keys[3].rpartition("-")[0] == plain.keys[3].rpartition("-")[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_named_and_leaves_no_traceback(source, tiny_shards, tmp_path, workers):
    shutil.copytree(tiny_shards / "toy-train", tmp_path / "toy-train")
    manifest = load_manifest(tmp_path / "toy-train")
    for shard in manifest.shards:
        path = tmp_path / "toy-train" / shard.shard
        damaged = bytearray(path.read_bytes())
        damaged[::50] = bytes(len(damaged[::50]))
        path.write_bytes(damaged)
    broken = replace(source, manifests=(manifest, source.manifests[1]))
    with pytest.raises(UserError, match=r"toy-train-0000\d\.tar\.zst row \d+ .*at byte") as error:
        list(make_loader(broken, workers=workers))
    assert "Traceback" not in error.value.message


def test_workers_start_in_a_process_that_has_used_opencv_threads(source):
    def too_late(*_: object) -> None:
        raise TimeoutError("the worker gave no batch")

    cv2.setNumThreads(4)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (9, 9), 2.0)
    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(60)
    try:
        assert len(next(make_loader(source, workers=1))) == 8
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        cv2.setNumThreads(1)


def test_a_batch_crosses_to_another_process_as_one_tensor(source):
    (batch,) = islice(make_loader(source), 1)
    dispatched = []

    class Pickler(ForkingPickler):
        def reducer_override(self, value):
            if isinstance(value, torch.Tensor):
                dispatched.append(value)
            return NotImplemented

    Pickler(io.BytesIO()).dump(batch)
    assert [(tensor.dtype, tensor.dim()) for tensor in dispatched] == [(torch.uint8, 1)]
    assert dispatched[0].nbytes < sum(getattr(batch, name).nbytes for name in HELD) + 64 * len(HELD)
    there = pickle.loads(pickle.dumps(batch))  # noqa: S301
    assert_same([batch], [there])
    assert all(getattr(there, name).dtype == getattr(batch, name).dtype for name in HELD)


def test_a_part_of_a_batch_and_one_of_separate_tensors_cross_too(source):
    (batch,) = islice(make_loader(source), 1)
    first, second = batch.split(2)
    apart = replace(batch, **{name: getattr(batch, name).clone() for name in HELD})
    crossed = [pickle.loads(pickle.dumps(one)) for one in (first, second, apart)]  # noqa: S301
    assert_same([first, second], crossed[:2])
    assert_same([batch], crossed[2:])
