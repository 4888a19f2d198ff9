"""Damage in a cache, and of what comes into it: found before use, mended, never passed on."""

import logging
import os
from pathlib import Path

import pytest

from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.cache.cache import ShardCache, open_shard
from lorat.shards.writer import index_path
from tests.shards.cache.small_caches import ROWS, get, make_cache
from tests.shards.conftest import flipped


def damage(shard: Path, what: str) -> None:
    index = index_path(shard)
    if what == "one bit":
        shard.write_bytes(flipped(shard.read_bytes(), 800))
    elif what == "index":
        index.write_bytes(bytes(index.stat().st_size))
    elif what == "cut":
        os.truncate(shard, shard.stat().st_size - 1)
    else:
        (index if what == "no index" else shard).unlink()


DAMAGE = ["one bit", "cut", "index", "no shard", "no index"]


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_in_the_cache_is_found_and_mended(shards, tmp_path, caplog, what):
    caplog.set_level(logging.WARNING, "lorat")
    cache = make_cache(tmp_path, shards, 2)
    path = get(cache, shards, 1)
    before = path.read_bytes(), index_path(path).read_bytes()
    damage(path, what)
    assert get(ShardCache(cache.options), shards, 1) == path
    assert (path.read_bytes(), index_path(path).read_bytes()) == before
    assert ("fetched again" in caplog.text) == (not what.startswith("no"))


def test_a_stamp_that_is_garbled_is_no_stamp(shards, tmp_path):
    cache = make_cache(tmp_path, shards, 2)
    get(cache, shards, 0)
    (stamp,) = tmp_path.glob("*.ok")
    before = stamp.read_bytes()
    stamp.write_bytes(b"\xff" + before[1:])
    get(ShardCache(cache.options), shards, 0)
    assert stamp.read_bytes() == before


def test_a_row_that_is_damaged_in_the_copy_alone_is_read_where_the_shard_lies(shards, tmp_path, make_sample, caplog):
    caplog.set_level(logging.WARNING, "lorat")
    cache = make_cache(tmp_path, shards, 2)
    path = get(cache, shards, 1)
    reader = open_shard(shards, 1, cache)
    whole, times = path.read_bytes(), path.stat()
    damage(path, "one bit")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert [reader.read(row) for row in range(ROWS)] == [make_sample(4 + i) for i in range(ROWS)]
    home = shards.folder / shards.shards[1].shard
    assert f"{path} row 0 (toy-train-000000004) at byte 0: " in caplog.text
    assert f"read from {home} instead" in caplog.text
    open_shard(shards, 1, cache).close()  # checked again, and mended
    assert path.read_bytes() == whole


def test_a_row_of_a_damaged_copy_whose_shard_is_gone_is_no_damaged_row(damageable, tmp_path):
    cache = make_cache(tmp_path / "cache", damageable, 2)
    path = get(cache, damageable, 1)
    reader = open_shard(damageable, 1, cache)
    damage(path, "one bit")
    home = damageable.folder / damageable.shards[1].shard
    home.unlink()
    with pytest.raises(UserError, match=f"{home}: cannot be read .* build it again") as gone:
        reader.read(0)
    assert not isinstance(gone.value, ShardCorrupt)  # which would be skipped


@pytest.mark.parametrize("what", DAMAGE)
def test_a_shard_that_is_not_the_one_of_its_receipt_never_enters(damageable, tmp_path, what):
    shard = damageable.folder / damageable.shards[2].shard
    damage(shard, what)
    cache = make_cache(tmp_path / "cache", damageable, 2)
    named = index_path(shard) if what == "no index" else shard
    with pytest.raises(ShardCorrupt, match=f"{named}: .*build it again"):
        get(cache, damageable, 2)
    assert {p.name[:5] for p in (tmp_path / "cache").iterdir()} == {"lock-"}
