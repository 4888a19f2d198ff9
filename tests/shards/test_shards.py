"""Shards: whole or not there, readable by every tool, checked in every bit that is read."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.shards.base.errors import ShardCorrupt, UserError
from lorat.shards.base.storage import atomic_file
from lorat.shards.manifest import load_manifest, load_receipt
from lorat.shards.reader import ShardReader, read_index
from lorat.shards.sample import PairSample, StoredImage, from_members, to_members
from lorat.shards.tar import pack_members, unpack_members
from lorat.shards.writer import index_path, write_shard


def sample(number: int) -> PairSample:
    rng = np.random.default_rng(number)

    def image(side: int) -> StoredImage:
        return StoredImage(
            frame=number,
            box=(1.0, 2.0, 30.5, 40.25),
            frame_size=(128, 96),
            mean=(1.5, 2.5, 3.5),
            origin=(0, 1),
            window=(64, 65),
            size=(side, side),
            jpeg=rng.bytes(500 + 37 * number),
        )

    key = f"toy-train-{number:09d}"
    return PairSample(key, "toy", "train", "seq 1", 0, template=image(32), search=image(64))


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "toy-train-00000.tar.zst"
    write_shard(path, [sample(i) for i in range(6)])
    return path


def test_what_is_read_is_what_was_written(shard):
    reader = ShardReader(shard)
    assert len(reader) == 6
    for row in (5, 0, 3):
        assert reader.read(row) == sample(row)
    with pytest.raises(IndexError):
        reader.read(6)


def test_the_same_samples_give_the_same_bytes(shard, tmp_path):
    again = tmp_path / "again.tar.zst"
    write_shard(again, [sample(i) for i in range(6)])
    assert again.read_bytes() == shard.read_bytes()
    assert index_path(again).read_bytes() == index_path(shard).read_bytes()


def test_every_flipped_bit_of_a_row_is_found_and_its_place_named(shard):
    entry = read_index(shard)[2]
    start, length = int(entry["offset"]), int(entry["length"])
    whole = shard.read_bytes()
    rng = np.random.default_rng(0)
    header_bits = range(8 * 18)
    for bit in [*header_bits, *rng.integers(8 * length, size=200)]:
        damaged = bytearray(whole)
        damaged[start + bit // 8] ^= 1 << (bit % 8)
        shard.write_bytes(damaged)
        reader = ShardReader(shard)
        with pytest.raises(ShardCorrupt, match=rf"row 2 \(toy-train-000000002\) at byte {start}"):
            reader.read(2)
        reader.close()


def test_every_truncation_that_touches_a_row_is_found(shard):
    entry = read_index(shard)[5]
    start, length = int(entry["offset"]), int(entry["length"])
    whole = shard.read_bytes()
    for cut in np.random.default_rng(1).integers(start, start + length, size=50):
        shard.write_bytes(whole[:cut])
        reader = ShardReader(shard)
        with pytest.raises(ShardCorrupt, match="row 5"):
            reader.read(5)
        reader.close()


def test_a_missing_or_cut_index_is_named(shard):
    index_path(shard).write_bytes(index_path(shard).read_bytes()[:-1])
    with pytest.raises(ShardCorrupt, match=r"toy-train-00000\.idx"):
        ShardReader(shard)
    index_path(shard).unlink()
    with pytest.raises(ShardCorrupt, match=r"toy-train-00000\.idx"):
        ShardReader(shard)


def test_a_shard_that_is_missing_is_named_with_a_remedy(shard):
    shard.unlink()
    with pytest.raises(
        ShardCorrupt, match=r"tar\.zst: cannot be read \(No such .*; build it again"
    ):
        ShardReader(shard)


def test_a_closed_reader_closes_and_reads_no_file_that_was_opened_since(shard):
    reader = ShardReader(shard)
    reader.close()
    with shard.open("rb") as other:  # it is given the same number
        reader.close()
        assert os.fstat(other.fileno())
        with pytest.raises(ShardCorrupt, match="Bad file descriptor"):
            reader.read(0)


def test_a_file_that_fails_half_way_leaves_the_older_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"older")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half of the new")
        raise RuntimeError
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.text("abc-019.", min_size=1, max_size=60), st.binary(max_size=2000))))
def test_tar_members_come_back(members):
    assert unpack_members(pack_members(members), "here") == members


def test_a_sample_of_a_newer_version_is_refused():
    members = to_members(sample(0))
    members[0] = (members[0][0], members[0][1].replace(b'"version":1', b'"version":9'))
    with pytest.raises(ShardCorrupt, match=r"shard x.*version 9"):
        from_members(members, "shard x")


def test_a_sample_with_a_missing_member_is_refused():
    with pytest.raises(ShardCorrupt, match="shard x"):
        from_members(to_members(sample(0))[:2], "shard x")


def test_manifests_come_back_and_fingerprints_tell_builds_apart(tiny_shards):
    manifest = load_manifest(tiny_shards / "toy-train")
    assert (manifest.rows, len(manifest.shards)) == (48, 3)
    assert manifest.fingerprint() == load_manifest(tiny_shards / "toy-train").fingerprint()
    assert manifest.fingerprint() != load_manifest(tiny_shards / "toy-val").fingerprint()


def test_a_folder_without_a_manifest_says_how_to_get_one(tmp_path):
    with pytest.raises(UserError, match="lorat-prep build"):
        load_manifest(tmp_path)


def test_a_receipt_counts_only_with_its_whole_shard_and_configuration(tiny_shards, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_shards / "toy-train", folder)
    receipt = load_manifest(folder).shards[0]
    assert load_receipt(folder, receipt.shard, receipt.config) == receipt
    assert load_receipt(folder, receipt.shard, "other") is None
    shard = folder / receipt.shard
    shard.write_bytes(shard.read_bytes()[:-1])
    assert load_receipt(folder, receipt.shard, receipt.config) is None
