"""Negative pairs: another sequence's search crop, no labels, and nothing else changes."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lorat.prep.build.plan import BuildOptions
from lorat.prep.build.run import build
from lorat.shards.base.errors import UserError
from lorat.shards.cache.cache import open_shard
from lorat.shards.manifest import load_manifest
from lorat.train.data.batches import make_loader
from lorat.train.network.blocks.lorat import Prediction
from lorat.train.step.loss import tracking_loss
from tests.train.batches import assert_same, damage


def batches(source, **options):
    return list(make_loader(source, **options))


@pytest.fixture(scope="module")
def mixed(source):
    """A third of the pairs is negative."""
    return replace(source, negatives=0.35)


def is_negative(batch):
    return ~batch.positive.flatten(1).any(1)


def test_negative_pairs_have_no_labels_and_the_others_stay_as_they_were(source, mixed):
    negatives = 0
    for plain, batch in zip(batches(source), batches(mixed), strict=True):
        chosen = is_negative(batch)
        assert (batch.box[chosen] == 0).all()
        assert (batch.box[~chosen][..., 2:] > batch.box[~chosen][..., :2]).all()
        for name in ("template", "search", "positive", "box", "template_mask", "missing"):
            kept = getattr(batch, name)[~chosen]
            assert torch.equal(kept, getattr(plain, name)[~chosen])
        for number in chosen.nonzero().flatten().tolist():
            assert not torch.equal(batch.search[number], plain.search[number])
            assert batch.keys[number].startswith(plain.keys[number] + "+")
        assert batch.template_mask.flatten(1).any(1).all()
        negatives += int(chosen.sum())
    assert 0.2 * 72 < negatives < 0.5 * 72


def test_which_they_are_depends_on_the_place_alone(mixed):
    whole = batches(mixed)
    again = batches(mixed, first_step=4, workers=2)
    assert_same(again, whole[4:])
    halves = [batches(mixed, rank=rank, world=2) for rank in (0, 1)]
    for one, *parts in zip(whole, *halves, strict=True):
        keys = [dict(zip(b.position.tolist(), b.keys, strict=True)) for b in (one, *parts)]
        assert keys[0] == keys[1] | keys[2]


def test_template_and_search_crop_are_of_different_sequences(source):
    readers = [open_shard(manifest, number) for manifest in source.manifests for number in range(len(manifest.shards))]
    samples = [reader.read(row) for reader in readers for row in range(len(reader))]
    sequences = {sample.key: sample.sequence for sample in samples}
    for batch in batches(replace(source, negatives=1.0)):
        assert is_negative(batch).all()
        for key in batch.keys:
            first, _, second = key.partition("+")
            assert sequences[first] != sequences[second]


def test_their_loss_is_cross_entropy_against_zeros(mixed):
    batch = next(iter(batches(mixed)))
    negative = is_negative(batch)
    assert negative.any()
    assert not negative.all()
    scores = torch.randn(8, 4, 4, requires_grad=True)
    boxes = torch.rand(8, 4, 4, 4, requires_grad=True)
    divisor = batch.positive.sum().float()
    positive, box = batch.positive[:, 0], batch.box[:, 0]
    whole = tracking_loss(Prediction(scores, boxes), positive, box, divisor)
    rows = ~negative
    rest = tracking_loss(Prediction(scores[rows], boxes[rows]), positive[rows], box[rows], divisor)
    zeros = torch.zeros_like(scores[negative])
    theirs = F.binary_cross_entropy_with_logits(scores[negative], zeros, reduction="sum")
    torch.testing.assert_close(whole.total, rest.total + theirs / divisor)
    whole.total.backward()
    assert (boxes.grad[negative] == 0).all()
    assert torch.isfinite(scores.grad).all()


def test_shards_of_one_sequence_are_refused_by_name(tmp_path, tiny_clips, source):
    build(tiny_clips[2:3], tmp_path, BuildOptions(pairs=24, shard_pairs=24, workers=1))
    manifest = load_manifest(tmp_path / "toy-train")
    lonely = replace(source, manifests=(manifest,), weights=(1,), negatives=1.0)
    with pytest.raises(UserError, match=r"no sequence but .* data\.negatives=0"):
        batches(lonely)


def test_damaged_rows_are_passed_over_where_that_is_allowed(source, tiny_shards, tmp_path):
    folder = Path(shutil.copytree(tiny_shards / "toy-train", tmp_path / "toy-train"))
    manifest = load_manifest(folder)
    (damaged,) = damage(manifest, 0, [3])
    astray = replace(source, manifests=(manifest,), weights=(1,), negatives=1.0)
    with pytest.raises(UserError, match="--on-bad-sample skip"):
        batches(astray)
    keys = [k for batch in batches(replace(astray, skip_damaged=True)) for k in batch.keys]
    assert len(keys) == 72
    assert not any(damaged in key for key in keys)


@pytest.mark.parametrize("wanted", ["toy-val", "toy-train", "any"])
def test_they_come_from_the_data_set_that_is_named(source, mixed, wanted):
    plain, found = batches(source), batches(replace(mixed, negatives_from=wanted))
    others = []
    for before, batch, own in zip(plain, found, batches(mixed), strict=True):
        chosen = is_negative(batch)
        assert torch.equal(chosen, is_negative(own))  # the same places
        for name in ("template", "search", "box"):
            assert torch.equal(getattr(batch, name)[~chosen], getattr(before, name)[~chosen])
        others += [batch.keys[n].partition("+")[2] for n in chosen.nonzero().flatten().tolist()]
    sets = {key.rpartition("-")[0] for key in others}
    assert sets == ({"toy-train", "toy-val"} if wanted == "any" else {wanted})
    again = replace(mixed, negatives_from=wanted)
    assert_same(batches(again, first_step=4, workers=2), found[4:])
