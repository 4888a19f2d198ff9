"""A second reader, written from docs/shards.md alone, reads the same samples in the same order.

It shares no code with the package: the generator, the order, the index and the tar are done here by hand, as somebody
would do them in another language.
"""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.shards.cache.cache import open_shard
from lorat.shards.manifest import load_manifest
from lorat.shards.order import Pool, epoch_order
from lorat.shards.rng import Draws
from lorat.train.data.batches import make_loader
from lorat.train.data.places import Source

MASK = (1 << 64) - 1


class Words:
    """Philox-4x64 with ten rounds, keyed by a SHA-256."""

    def __init__(self, *key: int | str) -> None:
        parts = [("s" if isinstance(part, str) else "i") + str(part) for part in key]
        digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
        self._key = struct.unpack("<2Q", digest[:16])
        self._counter = 0
        self._block: list[int] = []

    def next(self) -> int:
        if not self._block:
            self._counter += 1
            self._block = self._philox()
        return self._block.pop(0)

    def _philox(self) -> list[int]:
        c = [self._counter >> (64 * n) & MASK for n in range(4)]
        k0, k1 = self._key
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [(b >> 64) ^ c[1] ^ k0, b & MASK, (a >> 64) ^ c[3] ^ k1, a & MASK]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
        return c

    def permutation(self, n: int) -> list[int]:
        words = [self.next() for _ in range(n)]
        return sorted(range(n), key=lambda i: words[i])

    def below(self, n: int) -> int:
        limit = (1 << 64) - (1 << 64) % n
        while (word := self.next()) >= limit:
            pass
        return word % n


def order(pools: list[Pool], seed: int, epoch: int, length: int, window: int) -> list[tuple]:
    total = sum(pool.weight for pool in pools)

    def supplied(number: int, draws: int) -> int:
        before = sum(pool.weight for pool in pools[:number])
        return draws * (before + pools[number].weight) // total - draws * before // total

    labels, streams = [], []
    for number, pool in enumerate(pools):
        first = supplied(number, epoch * length)
        last = supplied(number, (epoch + 1) * length)
        labels += [number] * (last - first)
        streams.append(iter([draw(pool, seed, k, window) for k in range(first, last)]))
    shuffled = [labels[i] for i in Words("labels", seed, epoch).permutation(length)]
    return [(number, *next(streams[number])) for number in shuffled]


def draw(pool: Pool, seed: int, k: int, window: int) -> tuple[int, int]:
    number, position = divmod(k, sum(pool.rows))
    shards = Words("shards", seed, pool.name, number).permutation(len(pool.rows))
    step = window or len(shards)
    for at in range(0, len(shards), step):
        rows = [(shard, row) for shard in shards[at : at + step] for row in range(pool.rows[shard])]
        if position < len(rows):
            shuffle = Words("rows", seed, pool.name, number, at).permutation(len(rows))
            return rows[shuffle[position]]
        position -= len(rows)
    raise AssertionError


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.lists(st.integers(1, 5), min_size=1, max_size=4)), min_size=1, max_size=3),
    st.integers(0, 1 << 40),
    st.integers(0, 5),
    st.integers(0, 3),
)
def test_the_order_is_what_the_documentation_says(sets, seed, epoch, window):
    pools = [Pool(f"set{n}-train", w, tuple(rows)) for n, (w, rows) in enumerate(sets)]
    expected = epoch_order(pools, seed, epoch, 13, window).tolist()
    assert order(pools, seed, epoch, 13, window) == expected


@given(st.lists(st.integers(-3, 1 << 40) | st.text(max_size=5), min_size=1, max_size=4))
def test_words_and_draws_are_what_the_documentation_says(key):
    words, draws = Words(*key), Draws(*key)
    assert [words.next() for _ in range(9)] == Draws(*key).words(9).tolist()
    again = Words(*key)
    assert [again.below(n) for n in (1, 7, 10**12, 2**63 + 5)] == [draws.below(n) for n in (1, 7, 10**12, 2**63 + 5)]


def test_rows_are_what_the_documentation_says(tiny_shards: Path):
    manifest = json.loads((tiny_shards / "toy-train" / "manifest.json").read_text())
    ours = load_manifest(tiny_shards / "toy-train")
    text = [manifest["dataset"], manifest["split"], manifest["config"]]
    text.append([shard["sha256"] for shard in manifest["shards"]])
    packed = json.dumps(text, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(packed.encode()).hexdigest()[:16] == manifest["fingerprint"]
    for number, receipt in enumerate(manifest["shards"]):
        data = (tiny_shards / "toy-train" / receipt["shard"]).read_bytes()
        stem = receipt["shard"].removesuffix(".tar.zst")
        index = (tiny_shards / "toy-train" / f"{stem}.idx").read_bytes()
        assert hashlib.sha256(data).hexdigest() == receipt["sha256"]
        assert hashlib.sha256(index).hexdigest() == receipt["index_sha256"]
        beside = json.loads((tiny_shards / "toy-train" / f"{stem}.receipt.json").read_text())
        assert beside == receipt
        reader, end = open_shard(ours, number), 0
        for row, (offset, length, raw_length, digest) in enumerate(struct.iter_unpack("<QIIQ", index)):
            assert offset == end
            end = offset + length
            frame = data[offset:end]
            assert frame[:4] == b"\x28\xb5\x2f\xfd" and xxhash.xxh64(frame).intdigest() == digest
            raw = zstandard.ZstdDecompressor().decompress(frame, max_output_size=raw_length)
            assert len(raw) == raw_length
            if row == receipt["rows"]:
                assert raw == bytes(1024)
                break
            check_sample(raw, reader.read(row))
        assert end == len(data) == receipt["bytes"]


def check_sample(raw: bytes, expected) -> None:
    members, at = {}, 0
    while at < len(raw):
        header = raw[at : at + 512]
        name = header[:100].rstrip(b"\0").decode("ascii")
        size = int(header[124:136].rstrip(b"\0 "), 8)
        assert header[257:263] == b"ustar\0" and header[156:157] == b"0"
        assert int(header[136:148].rstrip(b"\0 "), 8) == 0, "modification time"
        blank = header[:148] + b" " * 8 + header[156:]
        assert int(header[148:156].rstrip(b"\0 "), 8) == sum(blank)
        members[name] = raw[at + 512 : at + 512 + size]
        at += 512 + -(-size // 512) * 512
    assert list(members) == [f"{expected.key}.{e}" for e in ("json", "search.jpg", "template.jpg")]
    meta = json.loads(members[f"{expected.key}.json"])
    assert set(meta) == {"version", "dataset", "split", "sequence", "track", "template", "search"}
    for role, stored in zip(("template", "search"), expected.images, strict=True):
        assert members[f"{expected.key}.{role}.jpg"] == stored.jpeg
        image = meta[role]
        fields = ["frame", "box", "frame_size", "mean", "origin", "window", "size"]
        assert list(image) == fields
        for name in fields:
            value = getattr(stored, name)
            assert image[name] == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize("step", [0, 4])
def test_a_batch_holds_the_keys_that_the_documentation_says(source: Source, step):
    batches = list(make_loader(source, step))
    epoch, inside = divmod(step, source.steps_per_epoch)
    pools = [
        Pool(manifest.name, weight, tuple(shard.rows for shard in manifest.shards))
        for manifest, weight in zip(source.manifests, source.weights, strict=True)
    ]
    rows = order(pools, source.seed, epoch, source.pairs_per_epoch, source.window_shards)
    rows = rows[inside * source.batch_size : (inside + 1) * source.batch_size]
    keys = [open_shard(source.manifests[d], int(shard)).read(int(row)).key for d, shard, row in rows]
    assert np.array_equal(batches[0].keys, keys)
