"""A network is given as many images of a stored sample as it has, and each is cropped and labelled as its kind."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lorat.configs.schema import AugmentConfig
from lorat.prep.build.plan import BuildOptions
from lorat.prep.build.run import build
from lorat.shards.base.errors import UserError
from lorat.shards.cache.cache import open_shard
from lorat.shards.pixels.geometry import crop_transform
from lorat.shards.pixels.jpeg import decode
from lorat.train.data import samples
from lorat.train.data.batches import make_loader
from lorat.train.data.handover import batch_bytes
from lorat.train.data.places import CropSpec
from lorat.train.data.samples import Stored, make_sample, training_crop
from lorat.train.data.stored import check_images, suiting
from tests.train.batches import TENSORS, assert_same, keys_of

PAIR = CropSpec(32, 64, 2, 4, 2.0, 4.0)
SPECS = {
    "spmtrack": replace(PAIR, templates=3, searches=2),
    "loratv2": replace(PAIR, reference_size=48, reference_factor=3.0),
}
STILL = AugmentConfig(scale_jitter=0, translation_jitter=0, flip=0, colour_jitter=0, grey_solarise_blur=False)
CROPS = ("template", "search", "reference")


@pytest.fixture(scope="module")
def sources(source, tiny_clips, tmp_path_factory):
    """Where each kind of tuple is read from by the network that it is for."""
    found = {}
    for sampler, spec in SPECS.items():
        folder = tmp_path_factory.mktemp(sampler)
        options = BuildOptions(pairs=40, shard_pairs=16, workers=1, sampler=sampler)
        manifest = build(tiny_clips, folder, options).manifest
        found[sampler] = replace(source, manifests=(manifest,), weights=(1,), spec=spec)
    return found


def samples_by_key(manifest):
    readers = [open_shard(manifest, number) for number in range(len(manifest.shards))]
    return {s.key: s for reader in readers for s in (reader.read(row) for row in range(len(reader)))}


def test_shapes_are_those_of_the_contract(sources):
    batch = next(make_loader(sources["spmtrack"]))
    assert batch.template.shape == (8, 3, 3, 32, 32) and batch.search.shape == (8, 2, 3, 64, 64)
    assert batch.template_mask.shape == (8, 3, 2, 2) and batch.positive.shape == (8, 2, 4, 4)
    assert batch.box.shape == (8, 2, 4) and batch.reference is None
    assert batch.positive.flatten(2).any(-1).all() and batch.template_mask.flatten(2).any(-1).all()
    batch = next(make_loader(sources["loratv2"]))
    assert batch.template.shape == (8, 1, 3, 32, 32) and batch.search.shape == (8, 1, 3, 64, 64)
    assert batch.reference.shape == (8, 3, 48, 48) and batch.reference.dtype == torch.uint8
    assert_same(list(batch.split(4)), [batch])


@pytest.mark.parametrize("sampler", SPECS)
def test_the_same_samples_on_any_number_of_workers_and_ranks_and_after_a_resume(sources, sampler):
    source = sources[sampler]
    whole = list(make_loader(source))
    assert len(whole) == 9
    assert_same(list(make_loader(source, workers=2)), whole)
    assert_same(list(make_loader(source, 4, workers=1)), whole[4:])
    halves = [list(make_loader(source, rank=rank, world=2)) for rank in (0, 1)]
    assert_same([part for both in zip(*halves, strict=True) for part in both], whole)


@pytest.mark.parametrize("sampler", SPECS)
def test_without_jitter_each_crop_is_that_of_its_own_stored_image(sources, sampler):
    source = replace(sources[sampler], augment=STILL)
    stored = samples_by_key(source.manifests[0])
    batch = next(make_loader(source))
    for row, key in enumerate(batch.keys):
        crops = [*batch.template[row], *([] if batch.reference is None else [batch.reference[row]]), *batch.search[row]]
        sample = stored[key]
        for crop, image, (size, factor) in zip(crops, sample.images, source.spec.views, strict=True):
            window = crop_transform(image.box, factor, (size, size))
            wanted, _, _ = training_crop(image, decode(image.jpeg), window, size)
            np.testing.assert_array_equal(crop.permute(1, 2, 0), wanted)


def test_templates_are_not_jittered_and_all_other_crops_are_each_by_itself(sources):
    jitter = STILL.model_copy(update={"scale_jitter": 0.25, "translation_jitter": 1.0})
    for source in sources.values():
        still, moved = (next(make_loader(replace(source, augment=augment))) for augment in (STILL, jitter))
        same = [key == other for key, other in zip(still.keys, moved.keys, strict=True)]
        assert all(same)
        assert torch.equal(still.template, moved.template)
        for name in CROPS[1:]:
            before, after = getattr(still, name), getattr(moved, name)
            if before is not None:
                assert (before != after).flatten(-3).any(-1).all(), name
    boxes = moved_boxes(sources["spmtrack"], jitter)
    assert not torch.allclose(boxes[:, 0], boxes[:, 1], atol=0.02)


def moved_boxes(source, augment):
    return next(make_loader(replace(source, augment=augment))).box


def test_all_crops_share_the_choice_of_grey_solarise_and_blur(sources):
    augment = STILL.model_copy(update={"grey_solarise_blur": True})
    source = replace(sources["spmtrack"], augment=augment)
    greys = 0
    for batch in make_loader(source):
        crops = [torch.cat([batch.template.flatten(3), batch.search.flatten(3)[..., : 32 * 32]], dim=1)]
        grey = (crops[0][:, :, 0] == crops[0][:, :, 2]).all(-1)  # (B, 5)
        assert (grey.all(1) == grey.any(1)).all()
        greys += int(grey.all(1).sum())
    assert 10 < greys < 40  # a third of 72


def test_a_sample_is_redrawn_where_one_of_its_crops_fails(sources, monkeypatch):
    (manifest,) = sources["spmtrack"].manifests
    sample = samples_by_key(manifest)["toy-train-000000001"]
    pixels = [np.zeros((*image.size[::-1], 3), np.uint8) for image in sample.images]
    tiny = replace(sample.searches[1], box=(1.0, 1.0, 1.01, 1.01))
    spec, rng = SPECS["spmtrack"], np.random.default_rng(0)
    far = AugmentConfig(translation_jitter=5000.0)
    assert make_sample(Stored(sample, pixels), spec, STILL, rng) is not None
    assert make_sample(Stored(replace(sample, searches=(sample.searches[0], tiny)), pixels), spec, far, rng) is None


def test_one_stored_still_image_is_decoded_once(sources, monkeypatch):
    decoded = []
    plain = samples.decode
    monkeypatch.setattr(samples, "decode", lambda data: (decoded.append(data), plain(data))[1])
    batch = next(make_loader(sources["spmtrack"]))
    stored = samples_by_key(sources["spmtrack"].manifests[0])
    wanted = sum(len({(i.frame, i.window, i.origin) for i in stored[key].images}) for key in batch.keys)
    assert len(decoded) == wanted < 8 * 5


@pytest.mark.parametrize("sampler", SPECS)
def test_a_network_of_two_images_is_trained_on_the_last_two_of_a_tuple(sources, sampler):
    source = replace(sources[sampler], spec=PAIR, augment=STILL)
    stored = samples_by_key(source.manifests[0])
    batch = next(make_loader(source))
    assert batch.template.shape == (8, 1, 3, 32, 32)
    for row, key in enumerate(batch.keys):
        image = stored[key].images[-2]
        window = crop_transform(image.box, 2.0, (32, 32))
        wanted, _, missing = training_crop(image, decode(image.jpeg), window, 32)
        np.testing.assert_array_equal(batch.template[row, 0].permute(1, 2, 0), wanted)
        assert missing == 0  # a search window holds what a template shows


def test_negative_tuples_show_another_sequence_in_all_search_crops(sources):
    for source in sources.values():
        plain, mixed = (next(make_loader(replace(source, negatives=share))) for share in (0.0, 1.0))
        assert all("+" in key for key in mixed.keys)
        assert not mixed.positive.any() and not mixed.box.any()
        assert torch.equal(plain.template_mask, mixed.template_mask) or keys_of([plain]) != keys_of([mixed])
        assert not torch.equal(plain.search, mixed.search)


def test_a_gap_counts_between_every_template_and_search_frame(sources):
    source = replace(sources["spmtrack"], max_gap=4, causal=True)
    stored = samples_by_key(source.manifests[0])
    kept = {key for key, sample in stored.items() if source.suits(sample)}
    assert 0 < len(kept) < len(stored)
    for key in keys_of(list(make_loader(source))):
        templates, searches = ([i.frame for i in images] for images in (stored[key].templates, stored[key].searches))
        assert min(searches) - max(templates) >= 0 and max(searches) - min(templates) <= 4
    assert suiting(source.manifests[0], source) == pytest.approx(len(kept) / len(stored), abs=0.35)
    assert suiting(source.manifests[0], replace(source, max_gap=None, causal=False)) == 1.0


@pytest.mark.parametrize("sampler", SPECS)
def test_a_batch_takes_the_shared_memory_that_is_asked_for(sources, sampler):
    batch = next(make_loader(sources[sampler]))
    tensors = [getattr(batch, name) for name in TENSORS if getattr(batch, name) is not None]
    size = sum(tensor.nbytes for tensor in tensors)
    assert size <= batch_bytes(sources[sampler], 1) < size + 3 * 4096


def test_shards_with_too_few_images_are_refused_with_what_to_build(sources, source, tiny_variant):
    pairs, (tuples,) = source.manifests[0], sources["loratv2"].manifests
    variants = {
        "spmtrack": tiny_variant.model_copy(update={"method": "spmtrack", "templates": 3, "searches": 2}),
        "loratv2": tiny_variant.model_copy(update={"method": "loratv2", "reference_size": 48}),
    }
    for sampler, variant in variants.items():
        check_images(sources[sampler].manifests[0], variant)
        with pytest.raises(UserError, match=rf"1 template and 1 search image, tiny needs .*--sampler {sampler} "):
            check_images(pairs, variant)
    with pytest.raises(UserError, match=r"1 template and 2 search images, tiny needs 3 templates and 2 search images"):
        check_images(tuples, variants["spmtrack"])
    for manifest in (pairs, tuples, *sources["spmtrack"].manifests):
        check_images(manifest, tiny_variant)
