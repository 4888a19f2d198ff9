"""Which stored pairs a recipe takes: those whose frames are near enough and in order."""

from dataclasses import replace

import numpy as np
import pytest

from lorat.configs.load import load_recipe
from lorat.prep.build.plan import BuildOptions
from lorat.prep.build.run import build
from lorat.shards.base.errors import UserError
from lorat.shards.cache.cache import open_shard
from lorat.train.data.batches import make_loader
from lorat.train.data.stored import suiting
from lorat.train.setup import validation_source
from tests.train.batches import assert_same, keys_of
from tests.train.conftest import ALONE


@pytest.fixture(scope="module")
def gaps(source) -> dict[str, int]:
    """Key → frames from template to search, of all stored pairs."""
    readers = [open_shard(manifest, number) for manifest in source.manifests for number in range(len(manifest.shards))]
    samples = [reader.read(row) for reader in readers for row in range(len(reader))]
    return {sample.key: sample.searches[0].frame - sample.templates[0].frame for sample in samples}


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({"max_gap": 2}, lambda gap: abs(gap) <= 2),
        ({"causal": True}, lambda gap: gap >= 0),
        ({"max_gap": 1, "causal": True}, lambda gap: 0 <= gap <= 1),
    ],
)
def test_pairs_that_do_not_suit_are_replaced_and_the_others_stay(source, gaps, asked, fits):
    plain, chosen = list(make_loader(source)), list(make_loader(replace(source, **asked)))
    before, after = keys_of(plain), keys_of(chosen)
    assert not all(fits(gaps[key]) for key in before)
    assert all(fits(gaps[key]) for key in after)
    assert [a for a, b in zip(after, before, strict=True) if fits(gaps[b])] == [b for b in before if fits(gaps[b])]
    assert [a.split("-0")[0] for a in after] == [b.split("-0")[0] for b in before]  # of the same data sets
    assert_same(list(make_loader(replace(source, **asked), first_step=4, workers=2)), chosen[4:])


def test_shards_that_hold_none_are_refused_with_what_to_build(source, tiny_clips, tmp_path):
    clip = tiny_clips[3]
    (track, *_), frames = clip.tracks, np.flatnonzero(clip.tracks[0].visible)
    ends = np.isin(np.arange(len(track.visible)), frames[[0, -1]])
    apart = replace(clip, tracks=(replace(track, visible=ends),))
    manifest = build([apart], tmp_path, BuildOptions(pairs=16, shard_pairs=16, workers=1)).manifest
    none = replace(source, manifests=(manifest,), weights=(1,), max_gap=2)
    with pytest.raises(UserError, match=r"toy-train: 5,000 pairs in a row do not suit data\.max_gap=2; build it"):
        next(make_loader(none))


def test_the_share_that_suits_follows_from_how_shards_were_built(source, tiny_clips, tmp_path):
    (published, *_) = source.manifests
    near = build(tiny_clips, tmp_path, BuildOptions(pairs=16, workers=1, max_gap=10, causal=True)).manifest
    asked = replace(source, max_gap=10, causal=True)
    assert (suiting(published, source), suiting(near, source)) == (1.0, 1.0)
    assert (suiting(published, asked), suiting(near, asked)) == (0.05, 1.0)
    assert suiting(near, replace(asked, max_gap=5)) == 0.5


def test_a_validation_takes_all_pairs(source, tiny_recipe, tiny_shards):
    data = tiny_recipe.data.model_copy(update={"validation": "toy-val"})
    pairs = validation_source(data, replace(source, max_gap=2, causal=True), tiny_shards, ALONE)
    assert pairs.max_gap is None and not pairs.causal


@pytest.mark.parametrize("text", ["data.max_gap=0", "data.negatives_from=coco"])
def test_what_cannot_be_meant_is_refused(text):
    with pytest.raises(UserError, match=text.partition("=")[0]):
        load_recipe("standard", [text])
