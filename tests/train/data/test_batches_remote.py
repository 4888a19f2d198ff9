"""Shards in a store give the batches of local ones: by ranged reads, and through a cache."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import yaml

from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import children, locate, remove_file, write_json
from lorat.shards.cache.cache import CacheOptions
from lorat.shards.manifest import load_manifest
from lorat.train.data.batches import make_loader
from lorat.train.data.places import Source
from tests.train.batches import assert_same
from tests.train.conftest import assert_equal, refused, train, weights_of


@pytest.fixture
def url(s3, tiny_shards: Path) -> str:
    """The tiny shards as objects of a bucket."""
    import boto3

    client = boto3.client("s3", endpoint_url=s3.endpoint)
    for path in tiny_shards.glob("*/*"):
        client.upload_file(str(path), s3.bucket, f"shards/{path.relative_to(tiny_shards)}")
    return f"{s3.url}/shards"


@pytest.fixture
def stored(source: Source, url: str) -> Source:
    folder = locate(url)
    return replace(source, manifests=tuple(load_manifest(folder / m.name) for m in source.manifests))


@pytest.mark.parametrize("workers", [0, 2])
def test_ranged_reads_give_the_local_batches(source, stored, workers):
    assert_same(list(make_loader(stored, workers=workers)), list(make_loader(source)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_gives_the_local_batches_and_keeps_to_its_limit(source, stored, workers, tmp_path):
    sizes = [shard.bytes for m in source.manifests for shard in m.shards]
    limit = max(sizes) * 5
    cache = CacheOptions(tmp_path / "cache", limit)
    windowed = replace(source, window_shards=1)
    cached = replace(stored, window_shards=1, cache=cache)
    assert_same(list(make_loader(cached, workers=workers)), list(make_loader(windowed)))
    files = [path for path in cache.folder.iterdir() if path.suffix == ".zst"]
    assert files and sum(path.stat().st_size for path in cache.folder.iterdir()) <= limit


def test_two_ranks_share_a_cache(source, stored, tmp_path):
    cached = replace(stored, cache=CacheOptions(tmp_path / "cache", 10**8))
    ranks = [list(islice(make_loader(cached, 0, rank, 2, 1), 4)) for rank in range(2)]
    whole = list(islice(make_loader(source), 4))
    keys = [ranks[0][step].keys + ranks[1][step].keys for step in range(4)]
    assert keys == [batch.keys for batch in whole]


def test_a_shard_that_goes_from_the_store_is_never_skipped(stored):
    batches = make_loader(replace(stored, skip_damaged=True))
    next(batches)
    for manifest in stored.manifests:
        for receipt in manifest.shards:
            remove_file(manifest.folder / receipt.shard)
    with pytest.raises(UserError, match=r"tar\.zst: the shard is missing; build it again"):
        list(batches)


@pytest.fixture
def command(files) -> list[str]:
    return [*files, "--set=data.workers=1", "--set=train.epochs=1"]


def test_the_command_trains_from_a_store_as_from_a_disk(command, url, tiny_shards, tmp_path):
    cache = [f"--shard-cache={tmp_path / 'cache'}", "--shard-cache-size=5MB"]
    for name, where in (("local", [str(tiny_shards)]), ("ranged", [url]), ("cached", [url, *cache])):
        train(*command, f"--run={tmp_path / name}", f"--shards={where[0]}", *where[1:])
    for name in ("ranged", "cached"):
        assert_equal(weights_of(tmp_path / name, 1), weights_of(tmp_path / "local", 1))
    assert yaml.safe_load((tmp_path / "ranged" / "config.yaml").read_text())["shards"] == url


def test_what_a_store_lacks_and_a_cache_that_is_too_small_are_refused_at_the_start(command, url, tmp_path):
    run = [*command, f"--shards={url}", f"--run={tmp_path / 'run'}"]
    cache = f"--shard-cache={tmp_path}"
    refused(train(*run, cache, "--shard-cache-size=9KB", status=2), "--shard-cache-size")
    refused(train(*run, cache, "--shard-cache-size=x", status=2), "200GB")
    folder = locate(url) / "toy-train"
    gone = next(place for place in children(folder) if place.name.endswith("1.idx"))
    gone.fs.rm(gone.path)
    refused(train(*run, status=2), "toy-train-00001.idx: missing")
    write_json(folder / "manifest.json", {"version": 1})
    refused(train(*run, status=2), "manifest.json: field 'dataset'")
