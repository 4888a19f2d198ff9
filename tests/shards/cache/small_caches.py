"""Caches of a few small shards, four rows each, and what they hold."""

from pathlib import Path

from lorat.shards.cache.cache import CacheOptions, ShardCache
from lorat.shards.manifest import Manifest

ROWS = 4


def make_cache(folder: Path, manifest: Manifest, room: float) -> ShardCache:
    """A cache with room for so many shards."""
    each = max(r.bytes for r in manifest.shards) + (ROWS + 1) * 24 + 256
    return ShardCache(CacheOptions(folder, int(room * each)))


def get(cache: ShardCache, manifest: Manifest, number: int) -> Path:
    receipt = manifest.shards[number]
    return cache.fetch(manifest.folder / receipt.shard, receipt).data


def held(folder: Path) -> list[int]:
    """The numbers of the shards that a cache holds."""
    return sorted(int(p.name[10:15]) for p in folder.glob("*.tar.zst"))
