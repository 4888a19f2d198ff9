"""Damaged samples end a training or are replaced: counted, named, the same however it is sliced."""

import shutil
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from lorat.shards.base.errors import UserError
from lorat.shards.cache.cache import CacheOptions, open_shard
from lorat.shards.manifest import Manifest, load_manifest
from lorat.shards.pixels.jpeg import encode
from lorat.shards.writer import index_path, write_shard
from lorat.train.data.batches import make_loader
from lorat.train.data.places import Source
from tests.train.batches import assert_same, damage, damaged_in, joined, keys_of
from tests.train.conftest import command_line, log_of, refused, train, two_processes

STEPS = 9


@pytest.fixture
def copies(tiny_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards"))


@pytest.fixture
def copied(source: Source, copies: Path) -> Source:
    """The source over shards that may be damaged."""
    return replace(source, manifests=tuple(load_manifest(copies / m.name) for m in source.manifests))


def test_a_damaged_sample_ends_the_run_unless_told_otherwise(copied):
    (name,) = damage(copied.manifests[0], 1, [3]).values()
    with pytest.raises(UserError) as error:
        list(make_loader(copied))
    assert error.value.message.startswith(name)
    assert "--on-bad-sample skip" in error.value.message


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 1), (4, 0), (1, 2)])
def test_others_take_their_places_and_nothing_else_changes(source, copied, world, workers):
    names = damage(copied.manifests[0], 1, [2, 9, 15]) | damage(copied.manifests[1], 0, [0])
    skipping = replace(copied, skip_damaged=True)
    whole = list(make_loader(source))
    expected = list(make_loader(skipping))
    ranks = [list(make_loader(skipping, 0, r, world, workers)) for r in range(world)]
    got = [part for step in range(STEPS) for part in (rank[step] for rank in ranks)]
    assert_same(got, expected)
    wanted, there = joined(whole), joined(got)
    keys, new_keys = keys_of(whole), keys_of(got)
    assert sum(key in names for key in keys) >= 4
    for at, (key, new) in enumerate(zip(keys, new_keys, strict=True)):
        if key in names:
            assert new not in names and new.rpartition("-")[0] == key.rpartition("-")[0]
            assert damaged_in(got)[at][0].startswith(names[key])
        else:
            assert new == key and damaged_in(got)[at] == ()
            assert all(torch.equal(there[name][at], wanted[name][at]) for name in wanted)


def test_resuming_where_samples_are_damaged_equals_never_having_stopped(copied):
    damage(copied.manifests[0], 0, range(0, 16, 2))
    skipping = replace(copied, skip_damaged=True)
    whole = list(make_loader(skipping))
    for first in (1, 4, 8):
        assert_same(list(make_loader(skipping, first)), whole[first:])


def with_cache(source: Source, folder: Path) -> Source:
    return replace(source, cache=CacheOptions(folder, 10**8), skip_damaged=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_changes_nothing_where_samples_are_damaged(copied, tmp_path, workers):
    names = damage(copied.manifests[0], 1, [2, 9, 15])
    path = copied.manifests[0].folder / copied.manifests[0].shards[2].shard
    path.write_bytes(path.read_bytes()[:-30000])
    plain = list(make_loader(replace(copied, skip_damaged=True)))
    assert names and any(damaged_in(plain))
    cached = with_cache(copied, tmp_path / "cache")
    assert_same(list(make_loader(cached, workers=workers)), plain)
    with pytest.raises(UserError, match=r"row \d+ \(toy-train-\d+\) at byte .*--on-bad-sample"):
        list(make_loader(replace(cached, skip_damaged=False), workers=workers))


def test_a_copy_that_is_damaged_while_it_is_read_changes_nothing(source, copied, tmp_path):
    cached = with_cache(copied, tmp_path / "cache")
    batches = make_loader(cached)
    first = [next(batches)]
    for path in (tmp_path / "cache").glob("*.tar.zst"):
        whole = bytearray(path.read_bytes())
        whole[::40] = bytes(len(whole[::40]))
        path.write_bytes(whole)
    assert_same([*first, *batches], list(make_loader(source)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_background_is_replaced_and_its_pair_stays(source, copied, workers):
    config = source.augment.model_copy(update={"background": 1.0})
    plain = list(make_loader(replace(source, augment=config)))
    names = damage(copied.manifests[0], 1, [1, 4, 5, 10, 11])
    skipping = replace(copied, augment=config, skip_damaged=True)
    got = list(make_loader(skipping, workers=workers))
    assert_same(got, list(make_loader(skipping)))
    there, wanted = joined(got), joined(plain)
    keys, new_keys = keys_of(plain), keys_of(got)
    assert all(new == old for new, old in zip(new_keys, keys, strict=True) if old not in names)
    hit = [at for at, messages in enumerate(damaged_in(got)) if messages and keys[at] not in names]
    assert hit, "some background was damaged"
    assert any(not torch.equal(there["search"][at], wanted["search"][at]) for at in hit)
    sound = [at for at, messages in enumerate(damaged_in(got)) if not messages]
    assert all(torch.equal(there["search"][at], wanted["search"][at]) for at in sound)
    with pytest.raises(UserError, match="--on-bad-sample skip"):
        list(make_loader(replace(skipping, skip_damaged=False)))


def with_sample(manifest: Manifest, jpeg: bytes) -> tuple[Manifest, str]:
    """Store another search image in row 5 of shard 0, checksums and all; return its key, too."""
    reader = open_shard(manifest, 0)
    samples = [reader.read(row) for row in range(len(reader))]
    samples[5] = replace(samples[5], searches=(replace(samples[5].searches[0], jpeg=jpeg),))
    path = manifest.folder / manifest.shards[0].shard
    summary = write_shard(path, samples)
    receipt = replace(manifest.shards[0], **asdict(summary))
    return replace(manifest, shards=(receipt, *manifest.shards[1:])), samples[5].key


def test_an_image_that_does_not_decode_or_has_another_size_is_a_damaged_sample(copied):
    manifest = copied.manifests[0]
    for jpeg, says in (
        (b"\xff\xd8 no image", "does not decode"),
        (encode(torch.zeros(7, 9, 3, dtype=torch.uint8).numpy()), "is 9x7, its JSON says"),
    ):
        manifest, key = with_sample(manifest, jpeg)
        bad = replace(copied, manifests=(manifest, copied.manifests[1]))
        with pytest.raises(UserError, match=rf"row 5 \({key}\) at byte \d+: .*{says}"):
            list(make_loader(bad))
        batches = list(make_loader(replace(bad, skip_damaged=True)))
        assert len(batches) == STEPS
        assert key not in keys_of(batches)


def test_a_size_without_a_cache_is_refused(command):
    refused(train(*command, "--shard-cache-size=9GB", status=2), "its folder with --shard-cache")


def test_a_data_set_that_is_damaged_throughout_ends_the_run_in_one_line(copied):
    for shard, receipt in enumerate(copied.manifests[1].shards):
        damage(copied.manifests[1], shard, range(receipt.rows))
    with pytest.raises(UserError, match=r"toy-val: 20 samples in a row are damaged"):
        list(make_loader(replace(copied, skip_damaged=True)))


def test_a_shard_that_is_gone_is_never_skipped(copied):
    (copied.manifests[0].folder / copied.manifests[0].shards[2].shard).unlink()
    with pytest.raises(UserError, match=r"toy-train-00002\.tar\.zst: cannot be read"):
        list(islice(make_loader(replace(copied, skip_damaged=True)), STEPS))


@pytest.fixture
def command(tmp_path, tiny_variant, tiny_recipe, copies) -> list[str]:
    return command_line(tmp_path, tiny_variant, tiny_recipe, copies)


def test_the_command_counts_and_names_them(command, copies, tmp_path):
    names = damage(load_manifest(copies / "toy-train"), 1, [2, 9])
    run = [*command, f"--run={tmp_path / 'run'}"]
    assert "--on-bad-sample skip" in train(*run, status=2).stderr
    shutil.rmtree(tmp_path / "run")
    done = train(*run, "--on-bad-sample=skip")
    count = sum(int(record["damaged"]) for record in log_of(tmp_path / "run"))
    assert count >= len(names)
    for name in names.values():
        assert done.stderr.count(name) == 1, done.stderr
    assert f"{count} damaged samples were replaced" in done.stderr


def test_a_cut_shard_is_refused_at_the_start_or_trained_on_as_far_as_it_goes(command, copies):
    path = copies / "toy-train" / "toy-train-00000.tar.zst"
    path.write_bytes(path.read_bytes()[:-20000])
    run = [*command, f"--run={copies / 'run'}"]
    refused(train(*run, status=2), str(path), "lorat-prep build")
    assert f"{path} row 15" in train(*run, "--on-bad-sample=skip").stderr
    index_path(path).unlink()
    gone = train(*command, "--on-bad-sample=skip", f"--run={copies / 'b'}", status=2)
    refused(gone, "toy-train-00000.idx: missing")


def test_rank_0_speaks_for_all_ranks(command, copies, tmp_path):
    names = damage(load_manifest(copies / "toy-train"), 1, range(16))
    done = two_processes(*command, "--on-bad-sample=skip", f"--run-dir={tmp_path / 'two'}")
    done.check_returncode()
    train(*command, "--on-bad-sample=skip", f"--run={tmp_path / 'one'}")
    counts = [[r["damaged"] for r in log_of(tmp_path / name)] for name in ("one", "two")]
    assert counts[0] == counts[1] and sum(counts[0]) >= 16
    for name in names.values():
        assert done.stderr.count(name) == 1
